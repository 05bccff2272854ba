"""Each fault alone: what can be answered is, what cannot is a failure of its own kind, and nothing is left behind."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.asking import WAYS, Chaos, Told, endpoint, told_of

pytestmark = pytest.mark.slow

N_ATTEMPTS = 3
# what must run into it runs into it soon, and nothing else does on a busy machine
SOON_S, LATE_S = 0.8, 20.0
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
}
TIMEOUTS = {
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
    "nested too deep": "rejected",
    "code that is no number": "rejected",
    "101": "rejected",
}
KINDS = {**RETRIED, **TIMEOUTS, **FINAL}


@dataclass
class Case:
    """One fault, met in one manner."""

    fault: str
    manner: str
    n_attempts: int
    timeout_s: float
    told: Told

    @property
    def failed(self) -> list[list[str]]:
        """What was done to the prompts that met the fault to the end."""
        return [attempts for attempts in self.told.noted.values() if attempts[-1] == self.fault]


MANNERS: dict[str, dict[str, Any]] = {"sticky": {"of": (0.0, 0.25)}, "passing": {"first": 1}}
# whoever asks to be left alone is left alone by all: their refusals come one by one, so few prompts meet them
WISHES_S = {"429 seconds": 0.2, "429 date": 1.0}
PARAMS = [(fault, manner) for fault in KINDS for manner in MANNERS if (fault, manner) != ("429 date", "sticky")]


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    return WAYS[request.param]


@pytest.fixture(scope="module", params=PARAMS, ids=lambda param: f"{param[0]}, {param[1]}")
def case(request: pytest.FixtureRequest, chaos: Chaos, calm: Told, way: dict[str, Any], tmp_path_factory: Any) -> Case:
    fault, manner = request.param
    few = {"of": (0.0, 0.1)} if fault in WISHES_S else {}
    chaos.set({"kind": fault, **MANNERS[manner], **few})
    folder: Path = tmp_path_factory.mktemp("case")
    timeout_s = SOON_S if fault in TIMEOUTS else LATE_S
    n_attempts = 2 if fault in TIMEOUTS else N_ATTEMPTS
    server = endpoint(chaos.faces[0], request_timeout_s=timeout_s, **way)
    return Case(fault, manner, n_attempts, timeout_s, told_of(chaos, folder, server, max_attempts=n_attempts))


def test_each_prompt_ends_as_its_last_attempt_did(case) -> None:
    told = {prompt: one.failure.kind if one.failure else "answer" for prompt, one in case.told.by_prompt.items()}
    done = {prompt: KINDS.get(attempts[-1], attempts[-1]) for prompt, attempts in case.told.noted.items()}
    assert told == done


def test_what_met_the_fault_is_exactly_what_failed(case) -> None:
    assert case.told.report.failures == ({KINDS[case.fault]: len(case.failed)} if case.failed else {})


def test_what_could_be_answered_was(case) -> None:
    assert bool(case.failed) == (case.manner == "sticky" or case.fault in FINAL)
    assert case.told.report.n_answered == 40 - len(case.failed)


def test_each_prompt_is_asked_as_often_as_it_may_help(case) -> None:
    expected = 1 if case.fault in FINAL else case.n_attempts
    assert [len(attempts) for attempts in case.failed] == [expected] * len(case.failed)


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
    # without a timeout nothing waits but for the backoff: the rest is what a busy machine takes
    timeout_s = case.timeout_s if case.fault in TIMEOUTS else 0.0
    n_wishes = sum(attempts.count(case.fault) for attempts in case.told.noted.values())
    wishes_s = 1.2 * WISHES_S.get(case.fault, 0.0) * n_wishes
    assert case.told.report.wall_s < case.n_attempts * (timeout_s + 0.02) + wishes_s + 3.0


def test_no_task_file_or_thread_is_left(case) -> None:
    assert case.told.after == case.told.before


def test_no_connection_is_left(case) -> None:
    assert case.told.n_open_after == 0
