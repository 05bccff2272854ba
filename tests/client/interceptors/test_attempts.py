"""Interceptors that see attempts while they are asked."""

import asyncio
import json
import logging
import time
import tracemalloc
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from eval_pipelines.client.interception import Attempt, Interceptor, StopAsking, receive
from eval_pipelines.client.redaction import Redactor
from eval_pipelines.records import utc_now


def questions(chat: Any, n: int, **params: Any) -> list[Any]:
    return [chat(f"What is {i} + {i}?", **params) for i in range(n)]


# client_errors


async def test_a_refusal_that_nobody_escapes_ends_the_asking_with_the_servers_words(asking, chat, faulty) -> None:
    faulty.set(faults=[{"kind": "403", "message": "your account is closed", "match": "What is 20 "}], latency_s=0.01)
    report = await asking(questions(chat, 200), "client_errors")
    assert "HTTP 403: 'your account is closed'" in report.stopped
    assert report.n_failed == 0
    assert 20 <= report.n_answered <= 40
    assert report.n_answered + report.n_not_asked == 200
    assert len((asking.folder / "journal.jsonl").read_text().splitlines()) == report.n_answered


@pytest.mark.parametrize(
    ("status", "options", "is_stopped"),
    [
        ("400", {}, True),
        ("429", {}, False),
        ("408", {}, False),
        ("500", {}, False),
        ("404", {"exclude": [404]}, False),
        ("500", {"statuses": [500]}, True),
        ("404", {"statuses": [500]}, False),
        ("context", {"exclude_kinds": ["context_length"]}, False),
    ],
)
async def test_which_statuses_end_it_can_be_chosen(asking, chat, faulty, status, options, is_stopped) -> None:
    faulty.set(faults=[{"kind": status}])
    report = await asking(questions(chat, 3), {"client_errors": options}, max_attempts=1)
    assert (bool(report.stopped), report.n_failed == 3) == (is_stopped, not is_stopped)


def test_whoever_wants_to_stop_all_the_others_see_the_attempt(chat) -> None:
    seen: list[str] = []

    class Stopping(Interceptor):
        def __init__(self, name: str) -> None:
            self.name = name

        def received(self, attempt: Attempt) -> None:
            seen.append(self.name)
            raise StopAsking(self.name)

    with pytest.raises(StopAsking, match="last"):
        receive([Stopping("first"), Stopping("last")], Attempt(chat("?"), {}))
    assert seen == ["last", "first"]


# response_stats


async def test_tokens_reasons_tools_statuses_and_latencies_are_counted(asking, chat, faulty) -> None:
    calls = [{"function": {"name": "weather"}}, {"function": {"name": "time"}}, "broken"]
    faulty.set(
        faults=[{"kind": "503", "match": "What is 1 ", "first": 1}],
        choices={"What is 2 ": {"choice": {"finish_reason": "tool_calls"}, "message": {"tool_calls": calls}}},
    )
    report = await asking(questions(chat, 5), {"response_stats": {"every": 3}})
    told = report.told["response_stats"]
    assert (told["n_attempts"], told["n_responses"], told["statuses"]) == (6, 5, {"200": 5, "503": 1})
    assert told["finish_reasons"] == {"stop": 4, "tool_calls": 1}
    assert told["tool_calls"] == {"weather": 1, "time": 1, "not named": 1}
    assert told["completion_tokens"] == {"avg": 5, "p50": 5, "p95": 5, "max": 5, "total": 25}
    assert told["latency_s"]["max"] >= told["latency_s"]["p50"] > 0
    assert [line.split(" (")[0] for line in asking.said] == ["response_stats: 3 attempts", "response_stats: 6 attempts"]


async def test_what_is_not_wanted_is_not_counted(asking, chat) -> None:
    options = {"tokens": False, "finish_reasons": False, "tool_calls": False, "every": None}
    told = (await asking(questions(chat, 2), {"response_stats": options})).told["response_stats"]
    assert {*told} == {"n_attempts", "n_responses", "statuses", "latency_s"}
    assert asking.said == []


# log


def lines(folder: Path) -> list[dict[str, Any]]:
    (path,) = (folder / "logs").glob("log-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_the_first_answers_and_every_failure_are_logged_with_their_statuses_counted(asking, chat, faulty) -> None:
    faulty.set(faults=[{"kind": "400", "match": "What is 1"}])
    report = await asking(questions(chat, 20), {"log": {"first_n": 3}})
    found = lines(asking.folder)
    assert sum("failure" in one for one in found) == 11
    answered = [one for one in found if "failure" not in one]
    assert len(answered) == 3
    assert answered[0]["request"]["messages"][0]["content"].startswith("What is")
    assert answered[0]["response"]["choices"][0]["message"]["content"].startswith("I think")
    told = dict(report.told["log"])
    assert Path(told.pop("path")).parent == asking.folder / "logs"
    assert told == {"statuses": {"400": 11, "200": 9}, "n_logged": 14, "n_left_out": 6}


async def test_no_secret_of_a_header_an_environment_or_a_body_reaches_the_log(asking, chat, faulty) -> None:
    secrets = ["endpoint-s3cret", "team-s3cret", "sk-abcdefghijklmnop", "s3cret-of-a-field"]
    asking.environment["TEAM_KEY"] = secrets[1]
    faulty.set(
        faults=[{"kind": "401", "match": "refuse", "message": f"{secrets[0]} is no key"}],
        answers={"repeat": " ".join(secrets[:3])},
    )
    asked = [chat("repeat", api_key=secrets[3]), chat("refuse", api_key=secrets[3])]
    change = {"payload": {"headers_from_env": {"x-team-key": "TEAM_KEY"}}}
    report = await asking(asked, change, "log", "response_stats", key=secrets[0])
    assert len(lines(asking.folder)) == 2
    [path] = (asking.folder / "logs").iterdir()
    written = path.read_text() + json.dumps(dict(report.told), default=dict) + "".join(asking.said)
    assert [secret for secret in secrets if secret in written] == []
    assert "x-team-key" in written


async def test_bodies_and_headers_are_logged_only_if_they_are_wanted(asking, chat) -> None:
    options = {"request_bodies": False, "request_headers": False, "response_bodies": False}
    await asking([chat("?")], {"log": options})
    assert {*lines(asking.folder)[0]}.isdisjoint({"request", "response", "headers"})


@pytest.mark.slow
async def test_answers_of_ten_megabytes_leave_a_small_log(asking, chat, faulty) -> None:
    faulty.set(answers={"What": "long " * 2_000_000})
    started = time.perf_counter()
    await asking(questions(chat, 2), {"log": {"max_body_chars": 1000}}, "response_stats")
    found = lines(asking.folder)
    assert all(len(json.dumps(one)) < 4000 for one in found)
    assert "(10,000,000 characters)" in found[0]["response"]["choices"][0]["message"]["content"]
    assert time.perf_counter() - started < 20


async def test_a_full_log_keeps_failures_without_their_bodies(asking, chat, faulty) -> None:
    faulty.set(faults=[{"kind": "400", "match": "What is 1"}], answers={"What": "long " * 1000})
    await asking(questions(chat, 20), {"log": {"max_bytes": 1024}})
    found = lines(asking.folder)
    assert sum("failure" in one for one in found) == 11
    assert sum("request" in one for one in found) <= 8 + 1  # as many as were in flight


async def test_logs_of_former_runs_are_removed_beyond_a_number(asking, chat) -> None:
    folder = asking.folder / "logs"
    folder.mkdir()
    for name in ("log-a.jsonl", "log-b.jsonl", "other.jsonl"):
        (folder / name).touch()
    await asking([chat("?")], {"log": {"max_files": 1}})
    assert sorted(path.name for path in folder.iterdir()) == ["log-r1.jsonl", "other.jsonl"]


async def test_a_run_that_asks_nothing_leaves_no_log(asking) -> None:
    report = await asking([], "log", "response_stats", "reasoning")
    assert (report.told, (asking.folder / "logs").exists()) == ({}, False)


async def test_a_disk_that_takes_no_log_changes_nothing_but_the_log(asking, chat) -> None:
    (asking.folder / "logs").write_text("a file where the folder should be")
    report = await asking(questions(chat, 3), "log")
    assert (report.n_answered, report.told["log"]["n_logged"]) == (3, 0)
    assert [line for line in asking.said if "nothing more is logged" in line] == asking.said
    assert len(asking.said) == 1


@pytest.mark.parametrize("n_before", [0, 5, 995, 1000, 4000, 9000, 9180, 9190])
def test_a_secret_at_the_cut_is_not_kept_in_part(n_before) -> None:
    secret = "abcdefghijklmnopqrstuvwxyz0123456789" * 3
    text = "." * n_before + secret + "." * 20_000
    found = Redactor({secret}).text(text, 1000)
    assert "abc" not in found
    assert len(found) < 1100


def test_a_reply_of_many_levels_and_many_items_is_named_by_its_size() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = {"a": [deep]}
    found = json.dumps(Redactor(()).json({"deep": deep, "many": list(range(100_000))}, 16_384))
    assert len(found) < 40_000


# progress_webhook


async def test_an_address_is_told_every_so_many_attempts_and_at_the_end(asking, chat, faulty) -> None:
    report = await asking(questions(chat, 20), {"progress_webhook": {"url": f"{faulty.root}/hook", "every": 1}})
    told = faulty.hooked()
    assert 1 <= len(told) <= 21
    assert (told[-1]["progress"], told[-1]["n_requests"], told[-1]["is_over"]) == (20, 20, True)
    assert {(one["method"], one["run_id"], one["benchmark"]) for one in told} == {("PATCH", "r1", "sums")}
    assert report.told["progress_webhook"] == {"n_calls": len(told), "n_failed_calls": 0}


async def test_an_address_is_told_every_so_many_seconds(asking, chat, faulty) -> None:
    faulty.set(latency_s=0.15)
    hook = {"url_env": "HOOK", "every": None, "every_s": 0.05, "method": "POST"}
    asking.environment["HOOK"] = f"{faulty.root}/hook?key=s3cret"
    await asking(questions(chat, 24), {"progress_webhook": hook})
    assert [one["is_over"] for one in faulty.hooked()][-2:] == [False, True]


async def test_an_address_that_may_be_a_secret_is_not_logged(asking, chat, faulty, caplog) -> None:
    caplog.set_level(logging.INFO)
    asking.environment["HOOK"] = f"{faulty.root}/hook?key=s3cret"
    await asking(questions(chat, 3), {"progress_webhook": {"url_env": "HOOK"}})
    assert faulty.hooked()
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("broken", [500, "stall", "nobody"])
async def test_a_broken_address_is_named_once_and_harms_nothing(asking, chat, faulty, broken) -> None:
    faulty.set(hook=broken if broken != "nobody" else 200)
    url = "http://127.0.0.1:9/hook" if broken == "nobody" else f"{faulty.root}/hook"
    asking.environment["HOOK"] = url
    started = time.perf_counter()
    report = await asking(questions(chat, 30), {"progress_webhook": {"url_env": "HOOK", "every": 1, "timeout_s": 0.1}})
    assert (report.n_answered, report.n_not_asked) == (30, 0)
    assert report.told["progress_webhook"]["n_failed_calls"] >= 1
    assert len(asking.said) == 1
    assert "hook" not in asking.said[0].removeprefix("progress_webhook:")
    assert time.perf_counter() - started < 15
    assert {task for task in asyncio.all_tasks() if not task.done()} == {asyncio.current_task()}


async def test_an_address_that_no_variable_holds_is_said_once(asking, chat) -> None:
    report = await asking(questions(chat, 3), {"progress_webhook": {"url_env": "NOT_THERE"}})
    assert report.n_answered == 3
    assert asking.said == ["progress_webhook: the environment variable NOT_THERE is not set: nobody is told"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "exactly one of `url` and `url_env`"),
        ({"url": "http://h/x?token=1"}, "url_env"),
        ({"url": "http://me:pw@h/x"}, "url_env"),
        ({"url": "h"}, "must start with http"),
        ({"url_env": "http://h/x"}, "should match pattern"),
        ({"url": "http://h", "every": None}, "needs `every` or `every_s`"),
    ],
)
def test_a_webhook_that_makes_no_sense_is_refused(listed, options, words) -> None:
    with pytest.raises(ValidationError, match=words):
        listed({"progress_webhook": options})


async def test_two_of_a_name_are_both_heard(asking, chat, faulty) -> None:
    hook = {"progress_webhook": {"url": f"{faulty.root}/hook"}}
    assert {*(await asking(questions(chat, 2), hook, hook)).told} == {"progress_webhook", "progress_webhook#2"}


async def test_cancelling_ends_interceptors_too(asking, chat, faulty) -> None:
    faulty.set(latency_s=5)
    hook = {"progress_webhook": {"url": f"{faulty.root}/hook", "every": 1}}
    task = asyncio.create_task(asking(questions(chat, 8), hook, "log"))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {one for one in asyncio.all_tasks() if not one.done()} == {asyncio.current_task()}
    assert faulty.hooked()[-1]["is_over"]


# caching


@pytest.mark.parametrize(
    ("options", "n_reused"),
    [
        ({}, 4),
        ({"reuse": "never"}, 0),
        ({"reuse": "only_greedy"}, 2),
        ({"max_age_days": 2}, 3),
        ({"reuse": "only_greedy", "max_age_days": 2}, 1),
    ],
)
def test_which_landed_answers_are_used_again_can_be_chosen(chain, chat, options, n_reused) -> None:
    now = utc_now()
    texts = {"a": (0, 1), "b": (0, 9), "c": (0.7, 1)}  # temperature, days since it was answered
    asked = [(chat(text, temperature=heat), days) for text, (heat, days) in texts.items()] + [(chat("d"), 1)]
    answered = {one.digest: now - timedelta(days=days) for one, days in asked}
    found = chain({"caching": options}).reusable(answered, [one for one, _ in asked], now)
    assert len(found) == n_reused


def test_of_a_question_no_more_is_kept_than_its_digest(chain, chat) -> None:
    now = utc_now()
    answered = {chat(f"{i} " * 1000).digest: now for i in range(1000)}
    tracemalloc.start()
    found = chain({"caching": {"max_age_days": 2}}).reusable(answered, (chat(f"{i} " * 1000) for i in range(1000)), now)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(found), peak < 1000 * 500) == (1000, True), "a question has 3,000 characters"


def test_without_interceptors_answers_are_not_even_looked_at(chain) -> None:
    answered: dict[str, datetime] = {}
    assert chain().reusable(answered, iter(()), utc_now()) is answered
    assert not chain()
