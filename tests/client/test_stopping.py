"""When asking ends early: nobody who waits asks any more, what is on the wire is awaited, and the first reason counts."""

from pathlib import Path
from typing import Any

from eval_pipelines.client import fanout
from eval_pipelines.client.failures import Backoff, failure
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.interception import Attempt, Interceptor, Refused, StopAsking
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.report import AskReport
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import SpendingLimitError
from eval_pipelines.records import FailureKind, Request

QUICK = Backoff(base_s=0.005, cap_s=0.01)


def questions(n: int, first: str = "What is") -> list[Request]:
    return [
        Request(sample_id=f"s/{i}", subtask="s", operation="completion", prompt=f"{first} {i} + {i}?") for i in range(n)
    ]


async def asked(
    faulty: Any, folder: Path, n: int, *interceptors: Interceptor, limits: Limits | None = None, **fields: Any
) -> AskReport:
    endpoint = Endpoint(faulty.url, "mock", "hosted", **{"max_in_flight": 8, "request_timeout_s": 5, **fields})
    with Journal(folder / "journal.jsonl") as journal:
        report = await ask(
            questions(n),
            n,
            endpoint,
            journal=journal,
            limits=limits or Limits(256, backoff=QUICK),
            on_outcome=lambda *_: None,
            interceptors=interceptors,
        )
        assert len(journal.answers()) == report.n_answered
    assert report.n_answered + report.n_failed + report.n_not_asked == n
    return report


class RefusesOdd(Interceptor):
    """Lets every second request not out."""

    name = "refuses"

    def sending(self, attempt: Attempt) -> None:
        if int(attempt.request.sample_id[2:]) % 2:
            raise Refused(failure(FailureKind.CONTEXT_LENGTH, "too long"))


class Stops(Interceptor):
    """Stops the asking at the first attempt that its test is true for."""

    name = "stops"

    class Wish(StopAsking):
        error = SpendingLimitError

    def __init__(self, is_meant: Any) -> None:
        self.is_meant = is_meant

    def received(self, attempt: Attempt) -> None:
        if self.is_meant(attempt):
            raise self.Wish(f"enough at {attempt.request.sample_id}")


async def test_what_an_interceptor_refuses_says_nothing_of_a_server(faulty, tmp_path, monkeypatch) -> None:
    told: list[tuple[bool, bool]] = []
    monkeypatch.setattr(
        fanout.Router, "end", lambda *_, is_answer, is_gone, is_fault: told.append((is_answer, is_fault))
    )
    await asked(faulty, tmp_path, 6, RefusesOdd())
    assert sorted(told) == [(False, False)] * 3 + [(True, False)] * 3


async def test_a_stop_at_an_answer_keeps_its_words_its_error_and_the_answer(faulty, tmp_path) -> None:
    report = await asked(faulty, tmp_path, 20, Stops(lambda attempt: attempt.told), max_in_flight=1)
    assert (report.stopped, report.stopped_with) == ("enough at s/0", SpendingLimitError)
    assert (report.n_answered, report.n_not_asked) == (1, 19)
