"""Requests and tokens per minute: never above the limit, evenly, and counted by all processes together."""

import asyncio
import fcntl
import heapq
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_pipelines.client import gate, probe, rate
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.rate import Limiter, PerMinute, State, admit, estimate_tokens, settle
from eval_pipelines.client.shared_file import SharedFile
from eval_pipelines.client.spent import spent_today
from eval_pipelines.client.transport import open_client
from eval_pipelines.endpoint import DailyBudget, Endpoint, Replica
from eval_pipelines.errors import ConfigError
from eval_pipelines.records import Request

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
SLOT_BYTES = 4096


def question(prompt: str = "7+7?", **params) -> Request:
    return Request(sample_id="s/0", subtask="s", operation="completion", prompt=prompt, params=params)


# the rule, in virtual time


def played(seed: int, limit: PerMinute, *, n_workers: int, until_s: float, most_tokens: int) -> list[tuple[float, int]]:
    """Moments and really taken tokens of what was let through to the workers of four processes.

    As the limiter does: in each process one worker asks for all, waits as told (sometimes longer, on a loaded
    machine), and the answer takes a while.
    """
    dice, state = random.Random(seed), State()
    ready = [n_workers // 4 + (i < n_workers % 4) for i in range(4)]
    wants = [dice.randint(1, most_tokens) for _ in ready]
    asking = [(1000 + dice.random(), process) for process in range(4)]
    heapq.heapify(asking)
    answers: list[tuple[float, int, int, int, int]] = []  # when, process, bucket, counted, really taken
    granted = []
    while (now := min(one[0][0] for one in (asking, answers) if one)) < 1000 + until_s:
        if answers and answers[0][0] <= now:
            _, process, *taken = heapq.heappop(answers)
            settle(state, *taken)
            ready[process] += 1
            if ready[process] == 1:
                heapq.heappush(asking, (now, process))
            continue
        _, process = heapq.heappop(asking)
        if ready[process] == 0:
            continue
        if (wait_s := admit(state, limit, wants[process], now)) > 0:
            late_s = dice.choice((1e-4, 1e-4, 1e-3, 0.3))
            heapq.heappush(asking, (now + min(wait_s, 0.5) + late_s, process))
            continue
        counted = min(wants[process], limit.tokens or wants[process])
        really = dice.randint(0, counted)
        granted.append((now, really))
        ready[process] -= 1
        wants[process] = dice.randint(1, most_tokens)
        heapq.heappush(answers, (now + dice.expovariate(1.0), process, int(now), counted, really))
        heapq.heappush(asking, (now, process))
    return granted


def most_in_a_window(granted: list[tuple[float, int]], window_s: float) -> tuple[int, int]:
    """The most requests, and the most tokens, in any window of that length, both ends included."""
    most_n = most_tokens = first = tokens = 0
    for i, (at, n_tokens) in enumerate(granted):
        tokens += n_tokens
        while granted[first][0] < at - window_s:
            tokens -= granted[first][1]
            first += 1
        most_n, most_tokens = max(most_n, i + 1 - first), max(most_tokens, tokens)
    return most_n, most_tokens


CASES = [
    # requests, tokens, workers, tokens of the largest request
    (1, None, 3, 10),
    (7, None, 3, 10),
    (60, None, 16, 10),
    (600, None, 64, 10),
    (None, 5_000, 16, 400),
    (None, 5_000, 16, 9_000),  # some are larger than a whole minute allows
    (None, 100_000, 64, 4_000),
    (120, 20_000, 32, 1_000),
]


def test_what_was_counted_before_the_clock_began_anew_holds_nobody_back() -> None:
    state, limit = State(), PerMinute(60, None)
    assert admit(state, limit, 1, 500_000.0) == 0
    assert admit(state, limit, 1, 3.0) == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("requests", "tokens", "n_workers", "most_tokens"), CASES)
def test_no_window_holds_more_than_the_limit(requests, tokens, n_workers, most_tokens, seed) -> None:
    limit = PerMinute(requests, tokens)
    granted = played(seed, limit, n_workers=n_workers, until_s=400, most_tokens=most_tokens)
    n, n_tokens = most_in_a_window(granted, 60.0)
    assert n <= (requests or n)
    assert n_tokens <= (tokens or n_tokens)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("requests", [60, 600, 3000])
def test_requests_flow_evenly_and_nearly_as_fast_as_allowed(requests, seed) -> None:
    granted = played(seed, PerMinute(requests), n_workers=256, until_s=300, most_tokens=1)
    per_s = requests / 60
    # the first second, as each later one: no burst at the start
    assert most_in_a_window(granted, 1.0)[0] <= 1.3 * per_s + 2
    assert len(granted) > 0.9 * 300 * per_s


@pytest.mark.parametrize("seed", range(5))
def test_tokens_that_were_not_used_are_given_back(seed) -> None:
    """Half of what is counted ahead is used; without giving back, half of the limit would be."""
    granted = played(seed, PerMinute(tokens=60_000), n_workers=64, until_s=400, most_tokens=2_000)
    assert sum(tokens for _, tokens in granted) > 0.8 * 60_000 * 400 / 60


ARRIVALS = st.lists(
    st.tuples(st.floats(0, 90) | st.just(0.0), st.integers(0, 500), st.floats(0, 2)), min_size=1, max_size=120
)


@settings(max_examples=60)
@given(
    arrivals_=ARRIVALS, requests=st.none() | st.integers(1, 200), tokens=st.none() | st.integers(1, 5_000),
    share=st.floats(0, 1),
)  # fmt: skip
def test_whenever_they_come_no_window_holds_too_many_and_nobody_waits_for_ever(
    arrivals_, requests, tokens, share
) -> None:
    """Gap to the one before, tokens, and seconds by which it comes late after each wait; `share` of them is used."""
    limit, state, granted = PerMinute(requests, tokens), State(), []
    at = turn = 1000.0
    for gap_s, n_tokens, late_s in arrivals_:
        at += gap_s
        turn = max(turn, at)  # first come, first served
        began, n_asked = turn, 0
        while (wait_s := admit(state, limit, n_tokens, turn)) > 0:
            turn, n_asked = turn + wait_s + late_s, n_asked + 1
            assert n_asked < 200, "it is told to come again, and again"
        assert turn - began <= 2 * (rate.WINDOW_S + 2) + n_asked * late_s
        counted = min(n_tokens, tokens or n_tokens)
        settle(state, int(turn), counted, int(share * counted))
        granted.append((turn, int(share * counted)))
    n, n_taken = most_in_a_window(granted, 60.0)
    assert n <= (requests or n)
    assert n_taken <= (tokens or n_taken)


def test_a_request_larger_than_the_limit_is_let_through_when_nothing_else_is() -> None:
    state, limit = State(), PerMinute(tokens=100)
    assert admit(state, limit, 5_000, 1000.0) == 0
    assert admit(state, limit, 1, 1030.0) > 0
    assert admit(state, limit, 5_000, 1062.0) == 0


def test_two_limits_on_one_count_are_each_kept() -> None:
    state = State()
    for now in range(0, 50, 2):
        admit(state, PerMinute(requests=60), 1, 1000.0 + now)
    assert admit(state, PerMinute(requests=20), 1, 1052.0) > 0
    assert admit(state, PerMinute(requests=60), 1, 1052.0) == 0


def test_an_estimate_counts_prompt_and_the_longest_answer() -> None:
    text = "How many eggs are left when Janet sold a dozen? " * 10
    assert len(text) / 3 <= estimate_tokens(question(text, max_tokens=64)) - 64 <= len(text) / 3 + 2
    likelihood = Request(sample_id="s", subtask="s", operation="loglikelihood", prompt="ab ", continuation="cd")
    assert estimate_tokens(likelihood) == 3
    chat = Request(sample_id="s", subtask="s", operation="chat", messages=({"role": "user", "content": "äöü"},))
    assert estimate_tokens(chat) == 3


@pytest.mark.parametrize(
    ("params", "renames", "n_most"),
    [
        ({"max_tokens": 4000}, {}, 4000),
        ({"max_output_tokens": 4000}, {}, 4000),
        ({"max_length": 4000}, {"max_tokens": "max_length"}, 4000),
        ({"max_length": 4000}, {}, None),
        ({"temperature": 0}, {"max_tokens": None}, None),
    ],
)
def test_the_longest_answer_is_known_by_the_name_that_the_server_has_for_it(params, renames, n_most) -> None:
    limits = rate.limits_of_answers(renames)
    assert rate.most_tokens(question("2+2?", **params), limits) == n_most
    assert estimate_tokens(question("2+2?", **params), 2, limits) == 2 * (n_most or 0) + 2


@pytest.mark.parametrize(
    ("limit", "renames", "params", "is_sent"),
    [
        ({"tokens_per_minute": 100_000}, {}, {}, False),
        ({"daily_budget": DailyBudget("a", "d", tokens=100_000)}, {}, {}, False),
        ({"daily_budget": DailyBudget("a", "d", tokens=100_000)}, {"max_tokens": None}, {"max_tokens": 9}, False),
        ({"daily_budget": DailyBudget("a", "d", tokens=100_000)}, {"max_tokens": "most"}, {"max_tokens": 9}, True),
        ({"requests_per_minute": 60_000}, {}, {}, True),
        ({}, {}, {}, True),
    ],
)
async def test_an_answer_of_unknown_length_is_not_asked_where_tokens_are_counted(
    faulty, tmp_path, limit, renames, params, is_sent
) -> None:
    endpoint = Endpoint(faulty.url, "mock", "hosted", offers=frozenset({"chat"}), renames=renames, **limit)
    messages = ({"role": "user", "content": "2+2?"},)
    request = Request(sample_id="s", subtask="s", operation="chat", messages=messages, params=params)
    with Journal(tmp_path / "j.jsonl") as journal:
        report = await ask([request], 1, endpoint, journal=journal, limits=Limits(), on_outcome=lambda *_: None)
    assert (faulty.stats().get("answered", 0), report.n_answered) == (int(is_sent), int(is_sent))
    assert ("Let requests carry `max_tokens`" in report.stopped) != is_sent


# the count, shared


def state_in(path: Path) -> State:
    return rate._state_of(SharedFile(path, "count").read())


async def test_what_one_counts_the_other_sees(tmp_path) -> None:
    one, other = (Limiter(PerMinute(requests=1), tmp_path / "rates") for _ in range(2))
    await one.take(1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(other.take(1), 0.3)


async def test_a_settled_ticket_makes_room_for_others(tmp_path) -> None:
    one, other = (Limiter(PerMinute(tokens=100_000), tmp_path / "rates") for _ in range(2))
    ticket = await one.take(100_000)
    waiting = asyncio.create_task(other.take(100))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    for _ in range(40):  # as answers come, the mean of what is taken falls
        one.settle(ticket, 10)
        ticket = rate.Ticket(one, ticket.bucket, 10)
    await asyncio.wait_for(waiting, 3)


async def test_while_somebody_else_writes_one_waits(tmp_path) -> None:
    path = tmp_path / "rates"
    limiter = Limiter(PerMinute(requests=6000), path)
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = asyncio.create_task(limiter.take(1))
        await asyncio.sleep(0.2)
        assert (waiting.done(), path.stat().st_size) == (False, 0)
    await asyncio.wait_for(waiting, 1)


async def test_half_a_write_leaves_the_state_before_it(tmp_path) -> None:
    path = tmp_path / "rates"
    limiter = Limiter(PerMinute(requests=6000), path)
    await limiter.take(1)
    first = state_in(path)
    await limiter.take(1)
    whole = path.read_bytes()
    for n_bytes in (1, 9, 20, 60):  # of the second state, over what was there before
        path.write_bytes(whole[:n_bytes] + b"\0" * (SLOT_BYTES - n_bytes) + whole[SLOT_BYTES:])
        assert state_in(path) == first
    await limiter.take(1)
    assert sum(n for n, _ in state_in(path).buckets.values()) == 2


async def test_without_a_folder_a_client_counts_alone() -> None:
    limiter = Limiter(PerMinute(requests=1), None)
    await limiter.take(1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(limiter.take(1), 0.2)


async def test_a_folder_that_cannot_be_written_is_told(tmp_path) -> None:
    (tmp_path / "rates").write_text("{half")
    with pytest.raises(ConfigError, match=r"rates: cannot count requests per minute"):
        await Limiter(PerMinute(requests=1), tmp_path / "rates").take(1)


async def test_who_was_cancelled_while_waiting_took_nothing(tmp_path) -> None:
    limiter = Limiter(PerMinute(requests=1), tmp_path / "rates")
    await limiter.take(1)
    before = state_in(tmp_path / "rates")
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(limiter.take(1), 0.05)
    assert state_in(tmp_path / "rates") == before


def test_addresses_and_key_variables_count_apart(tmp_path) -> None:
    paths = {rate.path_of(url, env, tmp_path) for url in ("http://a/v1", "http://b/v1") for env in ("K", "L", None)}
    assert len(paths) == 6


async def test_each_address_of_an_endpoint_has_the_whole_limit(tmp_path) -> None:
    urls = ("http://127.0.0.1:8/v1", "http://127.0.0.1:80/v1")
    endpoint = Endpoint(
        urls[0], "m", "hosted", replicas=tuple(map(Replica, urls)), requests_per_minute=1, shared_folder=tmp_path
    )
    async with open_client(endpoint) as client:
        for url in urls:
            await asyncio.wait_for(gate.turn(client, f"{url}/chat/completions", question()), 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(gate.turn(client, f"{urls[1]}/completions", question()), 0.2)


async def test_without_a_limit_nothing_is_written_and_nothing_costs(tmp_path) -> None:
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", "hosted", shared_folder=tmp_path, min_in_flight=32)
    async with open_client(endpoint) as client:
        one, started = question(), time.thread_time()
        for _ in range(1000):
            gate.over(client, await gate.turn(client, "http://127.0.0.1:9/v1/chat/completions", one), (), None)
        each_s = (time.thread_time() - started) / 1000
    assert [path for path in tmp_path.iterdir() if not path.name.startswith("pace-")] == []
    assert each_s < 50e-6


ASKER = textwrap.dedent("""
    import asyncio, sys
    sys.path.insert(0, {root!r})
    from pathlib import Path
    from eval_pipelines.client import rate
    from eval_pipelines.client.fanout import Limits, ask
    from eval_pipelines.client.journal import Journal
    from eval_pipelines.endpoint import Endpoint
    from eval_pipelines.records import Request

    rate.WINDOW_S = {window_s}
    folder, name, n = Path({folder!r}), sys.argv[1], int(sys.argv[2])
    endpoint = Endpoint(
        {url!r}, "mock", "hosted", max_in_flight=16, request_timeout_s=10,
        requests_per_minute={requests}, tokens_per_minute={tokens}, shared_folder=folder, key_env="KEY",
    )
    requests = [
        Request(sample_id=f"s/{{i}}", subtask="s", operation="completion", prompt=f"{{name}} {{i}}",
                params={{"max_tokens": 50}})
        for i in range(n)
    ]
    with Journal(folder / f"{{name}}.jsonl") as journal:
        report = asyncio.run(ask(requests, n, endpoint, journal=journal, limits=Limits(16), on_outcome=lambda *_: None))
    print(report.n_answered)
""")


def asker(faulty, folder: Path, name: str, n: int, **limits) -> subprocess.Popen[str]:
    script = ASKER.format(
        root=str(ROOT), folder=str(folder), url=faulty.url, **{"requests": None, "tokens": None, **limits}
    )
    return subprocess.Popen([sys.executable, "-c", script, name, str(n)], stdout=subprocess.PIPE, text=True)


def arrivals(faulty) -> list[tuple[float, int]]:
    return [(at, 1) for at in httpx.get(f"{faulty.root}/arrivals").json()]


def test_two_processes_together_keep_to_one_limit(faulty, tmp_path) -> None:
    """In windows of 3 s, so that several fit into a test. The server counts."""
    askers = [asker(faulty, tmp_path, name, 90, window_s=3.0, requests=60) for name in "ab"]
    assert [one.communicate(timeout=60)[0].strip() for one in askers] == ["90", "90"]
    seen = arrivals(faulty)
    assert len(seen) == 180
    assert most_in_a_window(seen, 3.0)[0] <= 60
    # 61st and later could only start in later windows; and the flow was even, with no burst at its start
    assert 180 / 60 * 3.0 - 3.0 < seen[-1][0] - seen[0][0] < 180 / 60 * 4.0 * 1.25
    assert most_in_a_window(seen, 0.5)[0] <= 16


def test_what_a_killed_process_was_granted_stays_counted(faulty, tmp_path) -> None:
    dice = random.Random(7)
    for i in range(6):
        with asker(faulty, tmp_path, f"killed-{i}", 10_000, window_s=10.0, requests=4_000) as one:
            n_before, deadline = len(arrivals(faulty)), time.monotonic() + 30
            while len(arrivals(faulty)) == n_before and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.3 * dice.random())
            os.kill(one.pid, signal.SIGKILL)
        time.sleep(0.1)  # what was on the wire arrives
        [path] = tmp_path.glob("rates-*")
        buckets = {bucket: n for bucket, (n, _) in state_in(path).buckets.items()}
        # what arrived a second after a bucket began was granted in it, or later
        came = sum(at >= min(buckets) + 1 for at, _ in arrivals(faulty))
        assert len(arrivals(faulty)) - n_before > 0
        assert came <= sum(buckets.values())


# Retry-After


async def test_a_server_that_asks_to_wait_is_left_alone_by_all(faulty) -> None:
    endpoint = Endpoint(faulty.url, "mock", "hosted")
    async with open_client(endpoint) as client:
        gate.hold(client, f"{faulty.url}/completions", 0.5)
        started = time.perf_counter()
        await asyncio.gather(*(gate.turn(client, f"{faulty.url}/chat/completions", question()) for _ in range(8)))
        assert 0.45 < time.perf_counter() - started < 1.5


@pytest.mark.parametrize("floor", [1, 8], ids=["adapting", "fixed"])
async def test_who_waits_for_the_rate_limit_hears_of_it_too(faulty, tmp_path, floor) -> None:
    """And what was let through meanwhile is given back: the limit, the slots and the daily budget."""
    shared = {"shared_folder": tmp_path, "budgets_folder": tmp_path, "daily_budget": DailyBudget("a", "d", tokens=100)}
    endpoint = Endpoint(
        faulty.url, "mock", "hosted", max_in_flight=8, min_in_flight=floor, requests_per_minute=1_200, **shared
    )
    url = f"{faulty.url}/completions"
    async with open_client(endpoint) as client:
        waiting = [asyncio.create_task(gate.turn(client, url, question("2+2?", max_tokens=4))) for _ in range(8)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        gate.hold(client, url, 0.3)
        n_before = sum(task.done() for task in waiting)
        await asyncio.sleep(0.28)
        assert (sum(task.done() for task in waiting), n_before < 4) == (n_before, True)
        for turn in await asyncio.wait_for(asyncio.gather(*waiting), 3):
            gate.over(client, turn, ({"prompt_tokens": 3, "completion_tokens": 3},), None)
    buckets = client.gate._limiters[faulty.url]._file.read()["buckets"]
    assert (sum(n for _, n, _ in buckets), sum(tokens for _, _, tokens in buckets)) == (8, 8 * 6)
    assert spent_today(tmp_path, time.time())[0].tokens == 8 * 6


async def test_another_server_is_asked_meanwhile(faulty) -> None:
    async with open_client(Endpoint(faulty.url, "mock", "hosted")) as client:
        gate.hold(client, f"{faulty.url}/completions", 30)
        await asyncio.wait_for(gate.turn(client, "http://127.0.0.1:9/v1/completions", question()), 0.2)


async def test_a_first_request_waits_as_long_as_the_server_asks(faulty) -> None:
    faulty.set(faults_of_canaries=True, faults=[{"kind": "429", "retry_after": 0.7, "first": 1}])
    endpoint = Endpoint(faulty.url, "mock", "hosted")
    async with open_client(endpoint) as client:
        assert await probe.try_capability(client, endpoint, "chat") is None
    first, second = (at for at, _ in arrivals(faulty))
    assert second - first >= 0.7


async def test_one_refusal_holds_back_everybody_and_not_one_request_only(faulty, tmp_path) -> None:
    faulty.set(latency_s=0.05, faults=[{"kind": "429", "match": "refused", "retry_after": 1, "first": 1}])
    requests = [question("refused"), *(question(f"{i}+{i}?") for i in range(12))]
    with Journal(tmp_path / "journal.jsonl") as journal:
        endpoint = Endpoint(faulty.url, "mock", "hosted")
        report = await ask(requests, 13, endpoint, journal=journal, limits=Limits(3), on_outcome=lambda *_: None)
    moments = [at for at, _ in arrivals(faulty)]
    assert (report.n_answered, report.n_attempts, len(moments)) == (13, 14, 14)
    # the two that were on the wire beside it, and nothing more for a second
    assert sum(at < moments[0] + 1 for at in moments) <= 3
