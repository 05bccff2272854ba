"""Each fault alone: what can be answered is, what cannot is a failure of its own kind, and nothing is left behind."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.asking import WAYS, Chaos, Told, endpoint, told_of

pytestmark = pytest.mark.slow

N_ATTEMPTS = 3
TIMEOUT_S = 0.5
RETRIED = {
    "429": "overloaded",
    "429 seconds": "overloaded",
    "429 date": "overloaded",
    "429 nonsense": "overloaded",
    "500": "overloaded",
    "502 html": "overloaded",
    "503": "overloaded",
    "529": "overloaded",
    "error in 200": "overloaded",
    "no choices": "empty",
    "null content": "empty",
    "truncated JSON": "malformed",
    "too short a length": "malformed",
    "html in 200": "malformed",
    "no gzip": "malformed",
    "not HTTP": "malformed",
    "no text": "malformed",
    "204": "malformed",
    "header bytes": "malformed",
    "chunks cut": "malformed",
    "closed in the body": "malformed",
    "closed in a long body": "malformed",
    "reset before the reply": "connection",
    "reset in the headers": "connection",
    "reset in the body": "connection",
    "reset in a long body": "connection",
    "closed before the reply": "connection",
    "closed in the headers": "connection",
    "headers without end": "malformed",
    "drip": "timeout",
    "stall after the headers": "timeout",
    "never": "timeout",
    "body without end": "timeout",
}
FINAL = {
    "400": "rejected",
    "400 context": "context_length",
    "401": "rejected",
    "refusal in 200": "rejected",
    "filtered": "content_filter",
    "half a character": "rejected",
    "101": "rejected",
}
KINDS = {**RETRIED, **FINAL, "asked": "timeout"}


@dataclass
class Case:
    """One fault, met in one manner."""

    fault: str
    told: Told


MANNERS: dict[str, dict[str, Any]] = {"sticky": {"of": (0.0, 0.25)}, "passing": {"first": 1}}


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    return WAYS[request.param]


@pytest.fixture(
    scope="module",
    params=[(fault, manner) for fault in (*RETRIED, *FINAL) for manner in MANNERS],
    ids=lambda param: f"{param[0]}, {param[1]}",
)
def case(request: pytest.FixtureRequest, chaos: Chaos, calm: Told, way: dict[str, Any], tmp_path_factory: Any) -> Case:
    fault, manner = request.param
    chaos.set({"kind": fault, **MANNERS[manner]})
    folder: Path = tmp_path_factory.mktemp("case")
    server = endpoint(chaos.faces[0], request_timeout_s=TIMEOUT_S, **way)
    return Case(fault, told_of(chaos, folder, server, max_attempts=N_ATTEMPTS))


def test_each_prompt_ends_as_its_last_attempt_did(case) -> None:
    told = {prompt: one.failure.kind if one.failure else "answer" for prompt, one in case.told.by_prompt.items()}
    done = {prompt: KINDS.get(attempts[-1], attempts[-1]) for prompt, attempts in case.told.noted.items()}
    assert told == done


def test_what_met_the_fault_is_exactly_what_failed(case, request) -> None:
    n_final = sum(attempts[-1] == case.fault for attempts in case.told.noted.values())
    assert (n_final > 0) == ("sticky" in request.node.name or case.fault in FINAL), "the case is about something"
    assert case.told.report.failures == ({KINDS[case.fault]: n_final} if n_final else {})


def test_each_prompt_is_asked_as_often_as_it_may_help(case) -> None:
    expected = N_ATTEMPTS if case.fault in RETRIED else 1
    failed = [attempts for attempts in case.told.noted.values() if attempts[-1] == case.fault]
    assert [len(attempts) for attempts in failed] == [expected] * len(failed)


def test_the_attempts_that_are_told_are_those_the_server_counted(case) -> None:
    told = {prompt: one.n_attempts for prompt, one in case.told.by_prompt.items()}
    assert told == {prompt: len(attempts) for prompt, attempts in case.told.noted.items()}


def test_nobody_who_answered_is_asked_again(case) -> None:
    assert [log for log in case.told.noted.values() if "answer" in log[:-1]] == []


def test_answers_are_those_of_a_calm_run(case, calm) -> None:
    assert case.told.answers == {digest: calm.answers[digest] for digest in case.told.answers}


def test_every_answer_and_nothing_else_is_in_the_journal(case) -> None:
    assert case.told.journalled == {one.request_digest: one for _, one in case.told.outcomes if one.is_answer}


def test_each_outcome_is_told_once(case) -> None:
    assert Counter(request.sample_id for request, _ in case.told.outcomes) == {f"s/{i}": 1 for i in range(40)}


def test_it_ends_in_time(case) -> None:
    wish_s = {"429 seconds": 0.2, "429 date": 1.0}.get(case.fault, 0.0) * 1.1
    assert case.told.wall_s < N_ATTEMPTS * (TIMEOUT_S + 0.02) + (N_ATTEMPTS - 1) * wish_s + 1.0


def test_no_task_file_or_thread_is_left(case) -> None:
    assert case.told.after == case.told.before


def test_no_connection_is_left(case) -> None:
    assert case.told.n_open_after == 0
