"""What is told of an answer beside its verdict; none of it changes the verdict."""

import pytest

from eval_pipelines.benchmarks.flags import Flags, flags_of, looks_refused
from eval_pipelines.records import Failure, FailureKind, Response, utc_now


def response(text: str | None = None, **fields) -> Response:
    return Response(request_digest="d", text=text, n_attempts=1, latency_s=0, asked_at=utc_now(), **fields)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t assist with that request.",
        "Sorry, I cannot provide instructions for this.",
        "I cannot fulfill this request.",
        "As an AI language model, I cannot engage in such talk.",
        "**I am unable to assist** with this.",
        "I must respectfully decline.",
        "I won't be able to help you here.",
        "Unfortunately, I'm not able to share this.",
    ],
)
def test_a_refusal_is_known_by_how_it_begins(text) -> None:
    assert looks_refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "I cannot determine the price from what is given, so 12.",
        "I can help with that: the answer is 4.",
        "Sorry for the confusion, the answer is 4.",
        "I'm sorry to hear that. You should see a doctor.",
        "Unfortunately, he cannot help her, so she has 3 left.",
        "The model says: I'm sorry, but I can't help with that.",
        "It is 5.",
        "",
    ],
)
def test_an_answer_is_no_refusal(text) -> None:
    assert not looks_refused(text)


def test_one_of_several_answers_is_enough() -> None:
    assert flags_of([response("4", finish_reason="stop"), response("It is", finish_reason="length")]) == Flags(
        True, False
    )


def test_a_failure_of_the_content_filter_is_a_refusal_without_text() -> None:
    failure = Failure(kind=FailureKind.CONTENT_FILTER, message="no")
    assert flags_of([response(failure=failure)]) == Flags(None, True)


def test_without_a_text_nothing_is_told() -> None:
    lost = response(failure=Failure(kind=FailureKind.TIMEOUT, message="no"))
    assert flags_of([response(logprob=-1.0), lost, None]) == Flags(None, None)


def test_a_server_that_does_not_say_how_an_answer_ended_leaves_it_open() -> None:
    assert flags_of([response("4")]) == Flags(None, False)
    assert flags_of([response("4"), response("It", finish_reason="length")]) == Flags(True, False)
