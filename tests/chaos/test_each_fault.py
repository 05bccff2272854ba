"""Each fault alone: what can be answered is, what cannot is a failure of its own kind, and nothing is left behind.

Of each fault there is one run: some prompts meet it at each attempt, others only at their first, the rest never.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from tests.chaos.asking import WAYS, Chaos, Told, endpoint, told_of

pytestmark = pytest.mark.slow

N_ATTEMPTS = 3
# what must run into it runs into it soon, and nothing else does on a busy machine
SOON_S, LATE_S = 0.6, 20.0
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
    "401": "denied",
    "refusal in 200": "denied",
    "filtered": "content_filter",
    "half a character": "rejected",
    "nested too deep": "rejected",
    "code that is no number": "rejected",
    "101": "rejected",
}
# whoever asked for a stream may meet these as well
STREAMS = {
    "stream with an error": "overloaded",
    "stream without end": "malformed",
    "stream that ends in a line": "malformed",
    "stream with no JSON": "malformed",
    "stream with no chunk": "malformed",
    "stream with no text": "malformed",
    "stream of nothing": "empty",
    "stream that is filtered": "content_filter",
    "stream is closed": "malformed",
    "stream is reset": "connection",
    "stream is silent": "timeout",
    "stream falls silent": "timeout",
    "stream of tokens without end": "timeout",
    "stream of one line without end": "timeout",
}
KINDS = {**RETRIED, **TIMEOUTS, **FINAL, **STREAMS}
IS_FINAL = {*FINAL, "stream that is filtered"}
# noticed by the silence, not by the time that an attempt may take
SILENT = {"never", "stream is silent", "stream falls silent"}
PARAMS = [("plain", fault) for fault in KINDS if fault not in STREAMS] + [("streamed", fault) for fault in KINDS]


@dataclass
class Case:
    """One fault, and what came of it."""

    fault: str
    way: str
    told: Told

    @property
    def kind(self) -> str:
        return KINDS[self.fault]

    @property
    def n_attempts(self) -> int:
        return 2 if self.kind == "timeout" else N_ATTEMPTS

    @property
    def failed(self) -> list[list[str]]:
        """What was done to the prompts that met the fault to the end."""
        return [attempts for attempts in self.told.noted.values() if attempts[-1] == self.fault]


# whoever asks to be left alone is left alone by all: their refusals come one by one, so few prompts meet them
WISHES_S = {"429 seconds": 0.2, "429 date": 1.0}


def faults(fault: str) -> list[dict[str, Any]]:
    """At each attempt of some prompts, at the first one of others."""
    if fault == "429 date":
        return [{"kind": fault, "of": (0.0, 0.1), "first": 1}]
    if fault in WISHES_S:
        return [{"kind": fault, "of": (0.0, 0.05)}, {"kind": fault, "of": (0.05, 0.1), "first": 1}]
    # fewer than end the asking where nobody answers in between
    share = 0.08 if KINDS[fault] == "denied" else 0.2
    return [{"kind": fault, "of": (0.0, share)}, {"kind": fault, "of": (share, 2.5 * share), "first": 1}]


@pytest.fixture(scope="module", params=PARAMS, ids=lambda param: f"{param[0]}, {param[1]}")
def case(request: pytest.FixtureRequest, chaos: Chaos, calm: Told, tmp_path_factory: Any) -> Case:
    way, fault = request.param
    chaos.set(*faults(fault))
    case = Case(fault, way, told=calm)
    patience = {"request_timeout_s": SOON_S if case.kind == "timeout" else LATE_S}
    if way == "streamed" and fault in SILENT:
        patience = {"request_timeout_s": LATE_S, "idle_timeout_s": SOON_S}
    server = endpoint(chaos.faces[0], **patience, **WAYS[way])
    case.told = told_of(chaos, tmp_path_factory.mktemp("case"), server, max_attempts=case.n_attempts)
    return case


def test_what_met_the_fault_is_exactly_what_failed(case) -> None:
    told = {prompt: one.failure.kind if one.failure else "answer" for prompt, one in case.told.by_prompt.items()}
    assert told == {prompt: KINDS.get(attempts[-1], attempts[-1]) for prompt, attempts in case.told.noted.items()}
    assert case.told.report.failures == ({case.kind: len(case.failed)} if case.failed else {})
    assert case.told.report.n_answered == 40 - len(case.failed) < 40 + (case.fault == "429 date")
    assert Counter(request.sample_id for request, _ in case.told.outcomes) == {f"s/{i}": 1 for i in range(40)}


def test_each_prompt_is_asked_as_often_as_it_may_help(case) -> None:
    expected = 1 if case.fault in IS_FINAL else case.n_attempts
    assert [len(attempts) for attempts in case.failed] == [expected] * len(case.failed)
    told = {prompt: one.n_attempts for prompt, one in case.told.by_prompt.items()}
    assert told == {prompt: len(attempts) for prompt, attempts in case.told.noted.items()}
    assert [log for log in case.told.noted.values() if "answer" in log[:-1]] == []
    if case.fault not in IS_FINAL:
        assert [case.fault, "answer"] in case.told.noted.values(), "some met it once"


def test_answers_are_those_of_a_calm_run_and_in_the_journal(case, calm) -> None:
    assert case.told.answers == {digest: calm.answers[digest] for digest in case.told.answers}
    assert case.told.journalled == {one.request_digest: one for _, one in case.told.outcomes if one.is_answer}
    assert {one.ttft_s is not None for one in case.told.journalled.values()} == {case.way == "streamed"}


def test_it_ends_in_time_and_leaves_nothing(case) -> None:
    # without a timeout nothing waits but for the backoff: the rest is what a busy machine takes
    timeout_s = SOON_S if case.kind == "timeout" else 0.0
    n_wishes = sum(attempts.count(case.fault) for attempts in case.told.noted.values())
    wishes_s = 1.2 * WISHES_S.get(case.fault, 0.0) * n_wishes
    assert case.told.report.wall_s < case.n_attempts * (timeout_s + 0.02) + wishes_s + 3.0
    assert case.told.after == case.told.before
    assert case.told.n_open_after == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("fault", "hint"), [("401", "Check the key"), ("refusal in 200", "Check `base_url`")])
def test_where_nobody_is_let_in_the_asking_ends_soon_and_says_what_to_check(chaos, tmp_path, way, fault, hint) -> None:
    chaos.set({"kind": fault})
    server = endpoint(chaos.faces[0], max_in_flight=4, request_timeout_s=LATE_S, **WAYS[way])
    told = told_of(chaos, tmp_path, server)
    # five in a row, and what was in flight then
    assert 5 <= told.report.failures["denied"] <= 5 + 3
    assert told.report.n_attempts == sum(len(log) for log in told.noted.values()) == told.report.n_failed
    assert told.report.n_not_asked == 40 - told.report.n_failed
    assert hint in told.report.stopped
