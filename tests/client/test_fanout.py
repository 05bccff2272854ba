"""Many requests at once: never too many, never twice, and nothing left running."""

import asyncio
import contextlib
import subprocess
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.client.failures import Backoff
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.report import AskReport
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import WarehouseError
from eval_pipelines.records import Request, Response

QUICK = Backoff(base_s=0.005, cap_s=0.01)


def questions(n: int) -> list[Request]:
    return [
        Request(sample_id=f"s/{i}", subtask="s", operation="completion", prompt=f"What is {i} + {i}?") for i in range(n)
    ]


async def ask_all(
    faulty: Any, folder: Path, requests: Any, n: int, *, max_in_flight: int = 8, on_outcome: Any = None, **options: Any
) -> AskReport:
    on_progress = options.pop("on_progress", None)
    endpoint = Endpoint(faulty.url, "mock", "hosted", max_in_flight=max_in_flight, request_timeout_s=10)
    with Journal(folder / "journal.jsonl") as journal:
        return await ask(
            requests,
            n,
            endpoint,
            journal=journal,
            limits=Limits(**{"backoff": QUICK, **options}),
            on_outcome=on_outcome or (lambda *_: None),
            on_progress=on_progress,
        )


async def test_never_more_in_flight_than_the_endpoint_takes(faulty, tmp_path) -> None:
    faulty.set(latency_s=0.05)
    await ask_all(faulty, tmp_path, questions(25), 25, max_in_flight=5)
    assert faulty.stats()["most_on_wire"] == 5


async def test_what_was_asked_before_a_test_began_is_not_counted_in_it(faulty, tmp_path) -> None:
    """A request that is cancelled while its server is silent runs on for a while."""
    faulty.set(latency_s=0.6)
    left = asyncio.create_task(ask_all(faulty, tmp_path / "left", questions(3), 3))
    while faulty.stats()["on_wire"] < 3:
        await asyncio.sleep(0.01)
    left.cancel()
    await asyncio.wait([left])
    faulty.set()
    await ask_all(faulty, tmp_path, questions(5), 5, max_in_flight=1)
    assert faulty.stats()["most_on_wire"] == 1


async def test_requests_are_read_lazily(faulty, tmp_path) -> None:
    n_read, n_done, most_ahead = 0, 0, 0

    def source() -> Iterator[Request]:
        nonlocal n_read, most_ahead
        for request in questions(60):
            n_read += 1
            most_ahead = max(most_ahead, n_read - n_done)
            yield request

    def done(*_: Any) -> None:
        nonlocal n_done
        n_done += 1

    await ask_all(faulty, tmp_path, source(), 60, max_in_flight=4, on_outcome=done)
    assert most_ahead <= 4


async def test_each_outcome_is_told_once_with_its_request(faulty, tmp_path) -> None:
    faulty.set(faults=[{"kind": "400", "share": 0.3}])
    told: list[tuple[Request, Response]] = []
    await ask_all(faulty, tmp_path, questions(50), 50, on_outcome=lambda *pair: told.append(pair))
    assert all(request.digest == response.request_digest for request, response in told)
    assert sorted(request.sample_id for request, _ in told) == sorted(one.sample_id for one in questions(50))


async def test_every_answer_is_in_the_journal_before_it_is_told(faulty, tmp_path) -> None:
    missing: list[str] = []

    def check(request: Request, response: Response) -> None:
        if request.digest not in (tmp_path / "journal.jsonl").read_text():
            missing.append(request.sample_id)

    await ask_all(faulty, tmp_path, questions(20), 20, on_outcome=check)
    assert missing == []


async def test_failures_are_not_in_the_journal(faulty, tmp_path) -> None:
    faulty.set(faults=[{"kind": "400"}])
    await ask_all(faulty, tmp_path, questions(5), 5)
    assert (tmp_path / "journal.jsonl").read_bytes() == b""


async def test_a_broken_budget_stops_the_asking(faulty, tmp_path) -> None:
    faulty.set(faults=[{"kind": "400"}])
    report = await ask_all(faulty, tmp_path, questions(400), 400, max_failed_share=0.05)
    assert 20 < report.n_failed <= 20 + 8
    assert report.n_not_asked == 400 - report.n_failed
    assert faulty.stats()["requests"] == report.n_failed


async def test_a_budget_that_is_exactly_used_up_is_not_broken(faulty, tmp_path) -> None:
    # 0.29 * 100 is 28.999999999999996 in binary
    faulty.set(faults=[{"kind": "400", "match": f" {i} +"} for i in range(29)])
    report = await ask_all(faulty, tmp_path, questions(100), 100, max_failed_share=0.29)
    assert (report.n_failed, report.n_not_asked) == (29, 0)


async def test_a_few_early_failures_are_no_verdict(faulty, tmp_path) -> None:
    faulty.set(faults=[{"kind": "400", "match": "What is 1 "}])
    report = await ask_all(faulty, tmp_path, questions(30), 30, max_failed_share=0.0)
    assert (report.n_answered, report.n_failed) == (29, 1)


async def test_cancelling_leaves_no_task_behind(faulty, tmp_path) -> None:
    faulty.set(latency_s=5)
    before = asyncio.all_tasks()
    asking = asyncio.create_task(ask_all(faulty, tmp_path, questions(40), 40, on_progress=lambda _: None))
    await asyncio.sleep(0.3)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert asyncio.all_tasks() == before


async def test_what_was_answered_before_a_cancel_stays_answered(faulty, tmp_path) -> None:
    faulty.set(latency_s=0.02)
    some = asyncio.Event()
    asking = asyncio.create_task(ask_all(faulty, tmp_path, questions(500), 500, on_outcome=lambda *_: some.set()))
    await some.wait()
    asking.cancel()
    await asyncio.wait([asking])
    assert len(Journal(tmp_path / "journal.jsonl").answers()) >= 1


async def test_a_full_disk_is_one_error_and_not_a_group(faulty, tmp_path, monkeypatch) -> None:
    def full(self: Journal, response: Response, *_: Any) -> None:
        raise WarehouseError("the disk is full")

    monkeypatch.setattr(Journal, "append", full)
    with pytest.raises(WarehouseError, match="the disk is full"):
        await ask_all(faulty, tmp_path, questions(20), 20)


async def test_progress_is_told_while_asking_and_at_the_end(faulty, tmp_path) -> None:
    faulty.set(latency_s=0.15)
    seen: list[int] = []
    await ask_all(faulty, tmp_path, questions(40), 40, on_progress=lambda report: seen.append(report.n_done))
    assert seen == sorted(seen)
    assert seen[-1] == 40
    assert any(0 < n < 40 for n in seen)


async def test_the_report_adds_up(faulty, tmp_path) -> None:
    faulty.set(faults=[{"kind": "400", "share": 0.2}, {"kind": "503", "first": 1}])
    report = await ask_all(faulty, tmp_path, questions(50), 50)
    stats = faulty.stats()
    assert report.n_answered == stats["answered"] == len(report.latencies_s)
    assert report.n_answered + report.n_failed == 50
    assert report.n_attempts == stats["requests"]
    assert report.completion_tokens == 5 * report.n_answered
    assert dict(report.failures) == {"rejected": report.n_failed}


async def test_nothing_to_ask_is_no_error(faulty, tmp_path) -> None:
    report = await ask_all(faulty, tmp_path, [], 0)
    assert (report.n_done, report.percentile_s(0.5)) == (0, None)


def test_percentiles_are_taken_from_the_answers() -> None:
    report = AskReport(latencies_s=array("d", range(100, 0, -1)))
    assert (report.percentile_s(0.5), report.percentile_s(0.95), report.percentile_s(1.0)) == (51.0, 96.0, 100.0)


async def test_a_server_killed_in_mid_run_costs_only_what_it_had_not_answered(tmp_path) -> None:
    import httpx

    command = [sys.executable, str(Path(__file__).parent.parent / "faulty_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, contextlib.ExitStack() as at_exit:
        at_exit.callback(server.kill)
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        httpx.post(f"{url}/config", json={"latency_s": 0.02}).raise_for_status()
        outcomes: list[Response] = []

        def told(_: Request, response: Response) -> None:
            outcomes.append(response)
            if len(outcomes) == 20:
                server.kill()

        with Journal(tmp_path / "j.jsonl") as journal:
            report = await ask(
                questions(60),
                60,
                Endpoint(f"{url}/v1", "mock", "hosted", max_in_flight=4, request_timeout_s=5),
                journal=journal,
                limits=Limits(max_attempts=2, backoff=QUICK),
                on_outcome=told,
            )
            assert len(journal.answers()) == report.n_answered
    assert 20 <= report.n_answered < 60
    assert {one.failure.kind for one in outcomes if one.failure} <= {"connection", "malformed"}
    assert len(outcomes) == 60
