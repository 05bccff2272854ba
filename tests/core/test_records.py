"""Records say what they may hold and refuse the rest."""

from typing import Any

import pytest
from pydantic import ValidationError

from eval_pipelines.records import Failure, FailureKind, Metric, Request, Response, Score, utc_now

pytestmark = pytest.mark.unit

FAILED = Failure(kind=FailureKind.TIMEOUT, message="late")


def response(**fields: Any) -> Response:
    return Response(**{"request_digest": "d", "n_attempts": 1, "latency_s": 0.0, "asked_at": utc_now(), **fields})


def request(**fields: Any) -> Request:
    return Request(**{"sample_id": "s/0", "subtask": "s", "operation": "completion", "prompt": "p", **fields})


@pytest.mark.parametrize("fields", [{"text": ""}, {"logprob": 0.0}, {"failure": FAILED}])
def test_an_answer_or_a_failure_is_a_response(fields) -> None:
    assert response(**fields).is_answer is ("failure" not in fields)


@pytest.mark.parametrize(
    "fields", [{}, {"text": "a", "failure": FAILED}, {"text": "a", "logprob": 0.0}, {"logprob": 0.0, "failure": FAILED}]
)
def test_both_or_neither_is_refused(fields) -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        response(**fields)


@pytest.mark.parametrize(
    "fields",
    [{"operation": "chat"}, {"operation": "completion", "prompt": None}, {"operation": "loglikelihood"}],
)
def test_a_request_carries_what_its_operation_needs(fields) -> None:
    with pytest.raises(ValidationError, match="request needs"):
        request(**fields)


@pytest.mark.parametrize("fields", [{"prompt": "q"}, {"params": {"seed": 1}}, {"repeat": 1}])
def test_the_digest_changes_with_what_is_sent(fields) -> None:
    assert request(**fields).digest != request().digest


@pytest.mark.parametrize("fields", [{"sample_id": "t/9"}, {"subtask": "t"}, {"part": 3}])
def test_the_digest_does_not_change_with_what_is_not_sent(fields) -> None:
    assert request(**fields).digest == request().digest


def test_reading_the_digest_leaves_a_request_equal_to_its_twin() -> None:
    one, twin = request(), request()
    assert one.digest
    assert one == twin


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        request().prompt = "other"


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        request(promt="typo")


@pytest.mark.parametrize("fields", [{"value": None}, {"value": 1.0, "ungraded_reason": "timeout"}])
def test_a_score_has_a_value_or_a_reason_why_not(fields) -> None:
    with pytest.raises(ValidationError, match="or a reason"):
        Score(sample_id="s/0", subtask="s", metric="acc", filter="none", **fields)


def test_coverage_of_nothing_asked_is_zero() -> None:
    assert Metric(subtask="", metric="acc", filter="none", value=None, n=0, n_asked=0).coverage == 0.0


def test_a_response_survives_its_json_form_to_the_last_bit() -> None:
    one = response(logprob=-12.345678901234567, is_greedy=False, finish_reason="stop")
    assert Response.model_validate_json(one.model_dump_json()) == one
