"""Daily budgets: never exceeded, used to nearly their end, counted by all processes, and told in words that help."""

import asyncio
import random
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from eval_pipelines.client import gate, probe, spent
from eval_pipelines.client.dialects import openai_chat
from eval_pipelines.client.failures import from_exception
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.spending import BudgetIsUsed, Spending
from eval_pipelines.client.spent import Amount, Reservation, Spent, begin_day, count, lacking, settle, spent_today
from eval_pipelines.client.transport import open_client
from eval_pipelines.config.prices import UNITS, Price
from eval_pipelines.endpoint import DailyBudget, Endpoint
from eval_pipelines.errors import ConfigError, SpendingLimitError
from eval_pipelines.records import Failure, FailureKind, Request
from tests.client.wire import serving

ROOT = Path(__file__).parent.parent.parent
NOON = 20_000 * 86_400 + 43_200.0
PRICE = Price(prompt=1, completion=2)


def question(prompt: str = "7 + 7?", **params) -> Request:
    return Request(sample_id="s/0", subtask="s", operation="completion", prompt=prompt, params=params)


def budget(tokens: int | None = None, cost: float | None = None, account: str = "http://a/v1") -> DailyBudget:
    return DailyBudget(account, "mock", tokens, None if cost is None else round(cost * UNITS))


# the rule, in virtual time


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("most", [3, 40, 900])
def test_a_budget_is_never_exceeded_and_used_to_within_one_estimate(most, seed) -> None:
    """Attempts are answered, refused, killed or time out; those lost in between count as they might have cost."""
    dice, state, limit = random.Random(seed), Spent(), budget(tokens=5_000)
    begin_day(state, NOON)
    flying: list[tuple[Reservation, int]] = []
    paid = lost = 0
    while True:
        want = Amount(dice.randint(1, most))
        if lacking(state, limit, "USD", want) and not flying:
            break
        if flying and (len(flying) == 32 or lacking(state, limit, "USD", want) or dice.random() < 0.5):
            held, really = flying.pop(dice.randrange(len(flying)))
            fate = dice.choice(("answered", "answered", "answered", "refused", "timeout", "killed"))
            if fate in ("answered", "refused"):
                paid += (took := really if fate == "answered" else 0)
                settle(state, "USD", held, Amount(took))
            else:
                paid, lost = paid + really, lost + held.counted.tokens - really
        else:
            count(state, "USD", want)
            flying.append((Reservation(state.day, want, want), dice.randint(0, want.tokens)))
        assert paid <= state.tokens <= 5_000
    assert paid + lost > 5_000 - want.tokens


def test_an_estimate_that_was_too_low_raises_the_next_ones() -> None:
    state = Spent()
    begin_day(state, NOON)
    held = Reservation(state.day, Amount(10, 7), Amount(10, 7))
    count(state, "USD", held.counted)
    settle(state, "USD", held, Amount(25, 9))
    assert (state.tokens, state.costs, state.short) == (25, {"USD": 9}, Amount(15, 2))


def test_a_day_begins_anew_at_midnight_and_knows_nothing_of_the_day_before() -> None:
    state = Spent()
    begin_day(state, NOON)
    held = Reservation(state.day, Amount(90), Amount(90))
    count(state, "USD", Amount(90, 5))
    begin_day(state, NOON + 43_199)
    assert lacking(state, budget(tokens=100), "USD", Amount(11)) == "daily_tokens"
    begin_day(state, NOON + 43_200)
    assert not lacking(state, budget(tokens=100, cost=1e-9), "USD", Amount(100, 1000))
    count(state, "USD", Amount(30))
    settle(state, "USD", held, Amount(5))
    assert state.tokens == 30


@pytest.mark.parametrize("back_s", [1, 3_600, 86_400])
def test_a_clock_that_is_set_back_brings_no_new_budget(back_s) -> None:
    state = Spent()
    begin_day(state, NOON + 43_200)
    count(state, "USD", Amount(100))
    begin_day(state, NOON + 43_200 - back_s)
    assert lacking(state, budget(tokens=100), "USD", Amount(1)) == "daily_tokens"
    begin_day(state, NOON + 43_201)
    assert lacking(state, budget(tokens=100), "USD", Amount(1)) == "daily_tokens"


def test_a_clock_that_once_was_years_ahead_does_not_stop_the_days() -> None:
    state = Spent()
    begin_day(state, NOON + 9_000 * 86_400)
    count(state, "USD", Amount(100))
    begin_day(state, NOON)
    assert state.tokens == 100
    begin_day(state, NOON + 86_400)
    assert state.tokens == 0


def test_money_of_two_currencies_is_counted_apart() -> None:
    state = Spent()
    count(state, "EUR", Amount(1, 50))
    assert lacking(state, DailyBudget("a", "m", cost=50), "EUR", Amount(1, 1)) == "daily_cost"
    assert not lacking(state, DailyBudget("a", "m", cost=50), "USD", Amount(1, 50))


@pytest.mark.parametrize(
    ("kind", "status", "is_given_back"),
    [
        (FailureKind.OVERLOADED, 429, True),
        (FailureKind.OVERLOADED, 503, True),
        (FailureKind.REJECTED, 400, True),
        (FailureKind.CONNECTION, 521, True),  # the server refused the proxy
        (FailureKind.CONNECTION, 522, False),
        (FailureKind.TIMEOUT, 524, False),
        (FailureKind.OVERLOADED, 504, False),  # a proxy's timeout: the server behind it may go on
        (FailureKind.OVERLOADED, 200, False),
        (FailureKind.EMPTY, 200, False),
        (FailureKind.MALFORMED, 200, False),
    ],
)
def test_what_may_have_been_paid_is_not_given_back(kind, status, is_given_back) -> None:
    assert spent.is_refused(Failure(kind=kind, message="no", http_status=status)) is is_given_back


@pytest.mark.parametrize(
    ("error", "is_given_back"),
    [
        (httpx.ConnectError("refused"), True),
        (httpx.ConnectError("certificate has expired"), True),
        (httpx.ReadError("reset by peer"), False),
        (httpx.WriteError("broken pipe"), False),
        (httpx.ReadTimeout("silent"), False),
        (httpx.DecodingError("unexpected end of file"), False),
    ],
)
def test_only_what_was_never_sent_is_given_back_where_no_reply_came(error, is_given_back) -> None:
    assert spent.is_refused(from_exception(error)) is is_given_back


# the count, shared


def two(path: Path | None, **limits) -> list[Spending]:
    return [Spending(budget(**limits), PRICE, "USD", path, now=lambda: NOON) for _ in range(2)]


def state_in(path: Path, now: float = NOON) -> Spent:
    [found] = spent_today(path.parent, now)
    return found


async def test_what_one_spends_the_other_cannot(tmp_path) -> None:
    one, other = two(tmp_path / "spending-x", tokens=100)
    held = await one.reserve(question(max_tokens=70))
    one.settle(held, [{"prompt_tokens": 10, "completion_tokens": 70}], None)
    with pytest.raises(BudgetIsUsed, match="80 tokens are spent, and the next request may take 32 tokens"):
        await other.reserve(question(max_tokens=22))
    assert (await one.reserve(question(max_tokens=10))).counted.tokens == 20


async def test_a_used_up_budget_is_told_with_its_key_its_sum_and_its_end(tmp_path) -> None:
    one, _ = two(tmp_path / "spending-x", cost=0.0001)
    with pytest.raises(BudgetIsUsed) as told:
        await one.reserve(question(max_tokens=100))
    assert str(told.value) == (
        "daily_cost of deployment 'mock' is used up: 0.0001 USD a day for http://a/v1, 0.0000 USD are spent, and the next "
        "request may take 0.0002 USD. The budget begins anew at 00:00 UTC on 2024-10-05 (in 12:00:00); to ask on today, "
        "raise deployments.mock.daily_cost in evals.yaml."
    )


async def test_who_finds_no_room_waits_for_what_others_have_in_flight(tmp_path) -> None:
    one, other = two(tmp_path / "spending-x", tokens=100)
    held = await one.reserve(question(max_tokens=90))
    waiting = asyncio.create_task(other.reserve(question(max_tokens=50)))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    one.settle(held, [{"prompt_tokens": 2, "completion_tokens": 3}], None)
    assert (await asyncio.wait_for(waiting, 1)).counted.tokens == 53


async def test_who_waits_for_others_in_vain_is_refused_in_the_end(tmp_path) -> None:
    one, other = two(tmp_path / "spending-x", tokens=100)
    other._patience_s = 0.1
    await one.reserve(question(max_tokens=90))
    with pytest.raises(BudgetIsUsed):
        await asyncio.wait_for(other.reserve(question(max_tokens=50)), 2)


async def test_who_was_cancelled_while_waiting_reserved_nothing(tmp_path) -> None:
    one, other = two(tmp_path / "spending-x", tokens=100)
    await one.reserve(question(max_tokens=90))
    before = (tmp_path / "spending-x").read_bytes()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(other.reserve(question(max_tokens=50)), 0.05)
    assert (tmp_path / "spending-x").read_bytes() == before


async def test_cached_prompt_tokens_count_at_their_own_price() -> None:
    one = Spending(budget(cost=1), Price(prompt=10, completion=0, cached_prompt=1), "USD", None, now=lambda: NOON)
    held = await one.reserve(question())
    one.settle(held, [{"prompt_tokens": 100, "completion_tokens": 0, "cached_prompt_tokens": 80}], None)
    assert one._own.costs == {"USD": (20 * 10 + 80) * UNITS // 10**6}


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}, 4),
        ({"prompt_tokens": 9, "prompt_tokens_details": None}, None),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": "4"}}, None),
        ({"prompt_tokens": 9}, None),
    ],
)
def test_what_a_server_had_in_its_cache_is_read_where_it_tells_it(usage, told) -> None:
    assert openai_chat.tokens({"usage": usage}).get("cached_prompt_tokens") == told


async def test_an_answer_whose_tokens_nobody_counted_costs_its_estimate() -> None:
    one = Spending(budget(tokens=100), None, "USD", None, now=lambda: NOON)
    one.settle(await one.reserve(question(max_tokens=40)), [{"text": "14"}], None)
    assert one._own.tokens == 43


async def test_a_count_survives_a_restart_of_the_machine_until_midnight(tmp_path) -> None:
    path = spent.path_of("http://a/v1", tmp_path)
    one, _ = two(path, tokens=100)
    await one.reserve(question(max_tokens=40))
    assert path == spent.path_of("http://a/v1", tmp_path), "its name does not depend on the boot"
    assert (state_in(path).tokens, state_in(path, NOON + 86_400).tokens) == (43, 0)


@pytest.mark.parametrize("n_bytes", [1, 20, 60])
async def test_half_a_write_leaves_the_count_before_it(tmp_path, n_bytes) -> None:
    path, size = tmp_path / "spending-x", spent.file_at(tmp_path).slot_bytes
    one, _ = two(path, tokens=1000)
    await one.reserve(question(max_tokens=40))
    first = state_in(path)
    await one.reserve(question(max_tokens=40))
    whole = path.read_bytes()
    path.write_bytes(whole[:n_bytes] + b"\0" * (size - n_bytes) + whole[size:])
    assert state_in(path) == first


async def test_a_damaged_file_is_told_with_what_to_do(tmp_path) -> None:
    path = tmp_path / "spending-x"
    path.write_text("{half")
    with pytest.raises(ConfigError, match=r"spending-x: cannot count what is spent today.*delete it"):
        await two(path, tokens=100)[0].reserve(question())


async def test_a_file_whose_bytes_were_lost_with_the_machine_begins_anew(tmp_path) -> None:
    path = tmp_path / "spending-x"
    path.write_bytes(bytes(8192))
    assert await two(path, tokens=100)[0].reserve(question())


async def test_an_answer_is_not_lost_where_it_cannot_be_counted(tmp_path) -> None:
    path = tmp_path / "spending-x"
    one, _ = two(path, tokens=100)
    held = await one.reserve(question())
    path.write_text("{half")
    one.settle(held, [{"prompt_tokens": 1, "completion_tokens": 1}], None)
    with pytest.raises(ConfigError, match="cannot count"):
        await one.reserve(question())


async def test_a_state_of_many_processes_and_deployments_fits_into_its_slot(tmp_path) -> None:
    path = tmp_path / "spending-x"
    for i in range(20):
        name = DailyBudget("https://" + "a" * 200 + "/v1 with the key in NVIDIA_API_KEY", f"{i}" * 60, tokens=10**9)
        await Spending(name, PRICE, "USD", path, now=lambda: NOON).reserve(question())
    told = {str(i): 1 for i in range(200)}
    with pytest.raises(ConfigError, match="bytes long, and 4,096 are there"), spent.file_at(path).draft() as draft:
        draft.value |= {"in_flight": told, "account": "x" * 4000}
    assert len(state_in(path).deployments) == 8


# asking


def endpoint(faulty, folder: Path, **limits) -> Endpoint:
    fields = {"budgets_folder": folder, "price": PRICE, "daily_budget": budget(account=faulty.url, **limits)}
    return Endpoint(faulty.url, "mock", "hosted", max_in_flight=8, request_timeout_s=0.4, **fields)


async def asked(faulty, folder: Path, n: int, *, n_attempts: int = 1, **limits):
    requests = [question(f"What is {i} + {i}?", max_tokens=50) for i in range(n)]
    answered = []
    with Journal(folder / "j.jsonl") as journal:
        report = await ask(
            requests, n, endpoint(faulty, folder, **limits), journal=journal, limits=Limits(8, n_attempts),
            on_outcome=lambda _, response: answered.append(response),
        )  # fmt: skip
    return report, answered


# each question takes 10 tokens, and may take 57
async def test_asking_stops_before_the_budget_is_exceeded_and_keeps_every_answer(faulty, tmp_path) -> None:
    faulty.set(latency_s=0.02)
    report, answered = await asked(faulty, tmp_path, 60, tokens=300)
    used = report.prompt_tokens + report.completion_tokens
    assert 300 - 57 < used <= 300
    assert used == spent_today(tmp_path, time.time())[0].tokens
    assert report.n_answered == len(answered) == faulty.stats()["answered"]
    assert (report.stopped_with, report.n_failed) == (SpendingLimitError, 0)
    assert report.stopped.startswith("daily_tokens of deployment 'mock' is used up: 300 tokens a day for http://127")


async def test_a_used_up_budget_stops_at_once_also_where_a_rate_is_limited(faulty, tmp_path) -> None:
    """The first request takes the only ticket of this minute; the second must not wait for one."""
    endpoint_ = replace(endpoint(faulty, tmp_path, tokens=60), requests_per_minute=1)
    async with open_client(endpoint_) as client:
        url, one = f"{faulty.url}/completions", question("2+2?", max_tokens=50)
        first = await gate.turn(client, url, one)
        gate.over(client, first, ({"prompt_tokens": 10, "completion_tokens": 10},), None)
        with pytest.raises(BudgetIsUsed):
            await asyncio.wait_for(gate.turn(client, url, one), 1)


async def test_who_is_cancelled_while_waiting_for_a_rate_has_reserved_nothing(faulty, tmp_path) -> None:
    endpoint_ = replace(endpoint(faulty, tmp_path, tokens=200), requests_per_minute=1)
    async with open_client(endpoint_) as client:
        url, one = f"{faulty.url}/completions", question("2+2?", max_tokens=50)
        await gate.turn(client, url, one)
        used = spent_today(tmp_path, time.time())[0].tokens
        waiting = asyncio.create_task(gate.turn(client, url, one))
        await asyncio.sleep(0.05)
        assert spent_today(tmp_path, time.time())[0].tokens == 2 * used
        waiting.cancel()
        await asyncio.wait([waiting])
        state = spent_today(tmp_path, time.time())[0]
        assert (state.tokens, [*state.in_flight.values()]) == (used, [1])


async def test_a_budget_in_money_stops_as_well(faulty, tmp_path) -> None:
    cost = 40 * 15e-6  # 5 tokens at 1, and 5 at 2 per million, each
    report, _ = await asked(faulty, tmp_path, 80, cost=cost)
    spent_units = PRICE.cost(report.prompt_tokens, report.completion_tokens)
    assert cost * UNITS - PRICE.cost(7, 50) < spent_units <= cost * UNITS
    assert "daily_cost of deployment 'mock' is used up: 0.0006 USD a day" in report.stopped


async def test_refused_attempts_cost_nothing(faulty, tmp_path) -> None:
    faulty.set(faults=[{"kind": "429"}])
    report, _ = await asked(faulty, tmp_path, 30, tokens=60)
    assert (report.n_failed, report.stopped, spent_today(tmp_path, time.time())[0].tokens) == (30, "", 0)


async def test_what_finds_nobody_costs_nothing(tmp_path) -> None:
    report, _ = await asked(SimpleNamespace(url="http://127.0.0.1:9/v1"), tmp_path, 2, tokens=500)
    assert (report.failures[FailureKind.CONNECTION], spent_today(tmp_path, time.time())[0].tokens) == (2, 0)


async def test_an_attempt_whose_connection_broke_before_the_reply_stays_counted(tmp_path) -> None:
    async with serving([b""]) as wire:
        report, _ = await asked(wire, tmp_path, 2, tokens=500)
        assert len(wire.bodies) == 2
    assert (report.failures[FailureKind.CONNECTION], spent_today(tmp_path, time.time())[0].tokens) == (2, 2 * 55)


async def test_an_attempt_that_timed_out_stays_counted(faulty, tmp_path) -> None:
    faulty.set(faults=[{"kind": "stall"}])
    report, _ = await asked(faulty, tmp_path, 2, tokens=500)
    assert (report.n_failed, spent_today(tmp_path, time.time())[0].tokens) == (2, 2 * 55)


async def test_first_requests_count_and_a_used_up_budget_is_told_as_such(faulty, tmp_path) -> None:
    there = endpoint(faulty, tmp_path, tokens=12)
    async with open_client(there) as client:
        assert await probe.try_capability(client, there, "completions") is None
        assert await probe.try_capability(client, there, "completions") is None
        with pytest.raises(SpendingLimitError, match=r"12 tokens are spent.*Nothing was asked, not even a first"):
            await probe.try_capability(client, there, "completions")


async def test_counting_costs_little(tmp_path) -> None:
    there = Endpoint(
        "http://127.0.0.1:9/v1", "m", "x", budgets_folder=tmp_path, price=PRICE, daily_budget=budget(10**9)
    )
    async with open_client(there) as client:
        started = time.process_time()
        for _ in range(100):
            turn = await gate.turn(client, "http://127.0.0.1:9/v1/chat/completions", question(max_tokens=2))
            gate.over(client, turn, [{"prompt_tokens": 3, "completion_tokens": 2}], None)
        each_s = (time.process_time() - started) / 100
    assert each_s < 2e-3


# several processes

ASKER = textwrap.dedent("""
    import asyncio, sys
    sys.path.insert(0, {root!r})
    from pathlib import Path
    from eval_pipelines.client.fanout import Limits, ask
    from eval_pipelines.client.journal import Journal
    from eval_pipelines.endpoint import DailyBudget, Endpoint
    from eval_pipelines.records import Request

    folder, name = Path({folder!r}), sys.argv[1]
    endpoint = Endpoint({url!r}, "mock", "hosted", max_in_flight=16, request_timeout_s=10, budgets_folder=folder,
                        daily_budget=DailyBudget({url!r}, "mock", tokens={tokens}))
    requests = [
        Request(sample_id=f"s/{{i}}", subtask="s", operation="completion", prompt=f"{{name}} {{i}}",
                params={{"max_tokens": 50}})
        for i in range(400)
    ]
    print("ready", flush=True)
    sys.stdin.readline()
    with Journal(folder / f"{{name}}.jsonl") as journal:
        report = asyncio.run(
            ask(requests, 400, endpoint, journal=journal, limits=Limits(16), on_outcome=lambda *_: None))
    print(report.prompt_tokens + report.completion_tokens, bool(report.stopped))
""")


def asker(faulty, folder: Path, name: str, tokens: int) -> "subprocess.Popen[str]":
    script = ASKER.format(root=str(ROOT), folder=str(folder), url=faulty.url, tokens=tokens)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", script, name], text=True, **pipes)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_two_processes_together_never_exceed_a_budget(faulty, tmp_path) -> None:
    faulty.set(latency_s=0.01)
    with asker(faulty, tmp_path, "one", 2_000) as one, asker(faulty, tmp_path, "other", 2_000) as other:
        for process in (one, other):
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [process.communicate(timeout=60)[0].split() for process in (one, other)]
    used = [int(tokens) for tokens, _ in told]
    assert [is_stopped for _, is_stopped in told] == ["True", "True"]
    assert sum(used) == 7 * faulty.stats()["answered"]
    assert 2_000 - 60 < sum(used) <= 2_000
    assert min(used) > 0


@pytest.mark.slow
def test_a_killed_process_leaves_what_it_reserved_counted_and_nobody_waits_for_it(faulty, tmp_path) -> None:
    faulty.set(faults=[{"kind": "stall", "match": "one"}])
    with asker(faulty, tmp_path, "one", 1_000) as one:
        one.stdin.write("go\n")
        one.stdin.flush()
        while faulty.stats().get("faults", 0) < 16:
            time.sleep(0.02)
        one.send_signal(signal.SIGKILL)
    [left] = spent_today(tmp_path, time.time())
    assert (left.tokens, left.in_flight) == (10 * 52 + 6 * 53, {})
    with asker(faulty, tmp_path, "other", left.tokens + 10) as other:
        started = time.monotonic()
        assert other.communicate("go\n", timeout=60)[0].split() == ["0", "True"]
        assert time.monotonic() - started < 8, "it waited for a process that is dead"
    assert faulty.stats()["faults"] == 16
