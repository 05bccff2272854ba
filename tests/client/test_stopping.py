"""When asking ends early: nobody who waits asks any more, what is on the wire is awaited, and the first reason counts."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.client import fanout, gate
from eval_pipelines.client.failures import Backoff, failure
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.interception import Attempt, Interceptor, Refused, StopAsking
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.report import AskReport
from eval_pipelines.client.spent import spent_today
from eval_pipelines.client.transport import open_client
from eval_pipelines.endpoint import DailyBudget, Endpoint
from eval_pipelines.errors import SpendingLimitError
from eval_pipelines.records import FailureKind, Request

QUICK = Backoff(base_s=0.005, cap_s=0.01)


def questions(n: int, first: str = "What is") -> list[Request]:
    return [
        Request(
            sample_id=f"s/{i}",
            subtask="s",
            operation="completion",
            prompt=f"{first} {i} + {i}?",
            params={"max_tokens": 5},
        )
        for i in range(n)
    ]


async def asked(
    faulty: Any,
    folder: Path,
    n: int,
    *interceptors: Interceptor,
    limits: Limits | None = None,
    requests: list[Any] | None = None,
    **fields: Any,
) -> AskReport:
    endpoint = Endpoint(faulty.url, "mock", "hosted", **{"max_in_flight": 8, "request_timeout_s": 5, **fields})
    with Journal(folder / "journal.jsonl") as journal:
        report = await ask(
            requests or questions(n),
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


async def test_after_a_stop_nobody_who_waits_asks_any_more(faulty, tmp_path) -> None:
    """256 workers, 16 of them on the wire: five refusals in a row, and the other 240 are let go."""
    faulty.set(faults=[{"kind": "401"}], latency_s=0.02)
    report = await asked(faulty, tmp_path, 400, max_in_flight=256)
    assert faulty.stats()["requests"] == report.n_failed <= 5 + 16
    assert "HTTP 401" in report.stopped


async def test_after_a_stop_nobody_waits_as_long_as_a_server_asked_for(faulty, tmp_path) -> None:
    # the first answer is on its way when the second request is refused, and nobody may ask for half a minute
    faulty.set(latency_s=0.3, faults=[{"kind": "429", "match": "What is 1 ", "retry_after": 30}])
    stops = Stops(lambda attempt: attempt.request.sample_id == "s/0")
    report = await asyncio.wait_for(asked(faulty, tmp_path, 100, stops, max_in_flight=4, min_in_flight=4), 3)
    assert report.stopped == "enough at s/0"
    assert faulty.stats()["requests"] <= 4, "of 100"


async def test_after_a_broken_budget_nobody_tries_again(faulty, tmp_path) -> None:
    """Some wait before they try again, when the failures of others break the budget."""
    faulty.set(faults=[{"kind": "503", "match": "What is 1"}, {"kind": "400"}])
    limits = Limits(64, max_failed_share=0.0, backoff=Backoff(base_s=30, cap_s=30))
    report = await asyncio.wait_for(asked(faulty, tmp_path, 200, limits=limits, max_in_flight=64), 3)
    assert (dict(report.failures), report.stopped) == ({"rejected": report.n_failed}, "")
    assert faulty.stats()["most_asked"] == 1


async def test_nor_does_anybody_wait_for_what_comes_between_two_questions(faulty, tmp_path) -> None:
    faulty.set(faults=[{"kind": "400"}], latency_s=0.05)
    waiting = 0

    async def pause() -> None:
        nonlocal waiting
        waiting += 1
        await asyncio.sleep(600)

    requests = [*questions(12), pause, *questions(8, "And")]
    told = await asyncio.wait_for(asked(faulty, tmp_path, 20, requests=requests, limits=Limits(max_failed_share=0)), 10)
    assert (told.n_failed < 20, waiting) == (True, 1)


async def test_nor_does_anybody_begin_to_wait_for_it_after_the_stop(faulty, tmp_path) -> None:
    class StopsBefore(Interceptor):
        name = "stops before"

        def sending(self, attempt: Attempt) -> None:
            raise Stops.Wish("not even one")

    async def pause() -> None:
        pytest.fail("asking is over")

    told = await asked(faulty, tmp_path, 13, StopsBefore(), requests=[*questions(1), pause, *questions(12, "And")])
    assert (told.stopped, told.n_not_asked) == ("not even one", 13)


async def test_what_is_asked_goes_on_while_one_waits_between_two_questions(faulty, tmp_path) -> None:
    faulty.set(latency_s=0.05)
    n_done: list[int] = []

    async def pause() -> None:
        await asyncio.sleep(1)
        n_done.append(faulty.stats()["answered"])

    told = await asked(faulty, tmp_path, 20, requests=[*questions(12), pause, *questions(8, "And")])
    assert (told.n_answered, n_done) == (20, [20])


async def test_what_is_on_the_wire_at_a_stop_is_awaited_and_kept(faulty, tmp_path) -> None:
    faulty.set(latency_s=0.2, faults=[{"kind": "400", "match": "What is 3 "}])
    stops = Stops(lambda attempt: attempt.failure)
    report = await asked(faulty, tmp_path, 100, stops, max_in_flight=8)
    assert (report.n_answered, report.n_not_asked, faulty.stats()["answered"]) == (7, 93, 7)


async def test_who_is_let_go_leaves_nothing_taken(faulty, tmp_path) -> None:
    """Another client that shares the slots and the daily budget gets all of them at once."""
    shared = {
        "max_in_flight": 4,
        "shared_folder": tmp_path,
        "budgets_folder": tmp_path,
        "requests_per_minute": 600,
        "daily_budget": DailyBudget("a", "d", tokens=10_000),
    }
    faulty.set(latency_s=0.02)
    before = asyncio.all_tasks()
    report = await asked(faulty, tmp_path, 40, Stops(lambda attempt: attempt.told), **shared)
    assert report.n_not_asked >= 36
    spent = spent_today(tmp_path, time.time())[0]
    assert (spent.tokens, spent.in_flight) == (report.prompt_tokens + report.completion_tokens, {})
    async with open_client(Endpoint(faulty.url, "mock", "hosted", max_in_flight=4, shared_folder=tmp_path)) as client:
        turns = [gate.turn(client, f"{faulty.url}/completions", one) for one in questions(4)]
        await asyncio.wait_for(asyncio.gather(*turns), 1)
    assert asyncio.all_tasks() == before
