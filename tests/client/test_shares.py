"""One limit for all who ask an endpoint: never more together, fair, and nobody's death costs the others anything."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_pipelines.client import gate, slots
from eval_pipelines.client.failures import Backoff
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.pace_state import Bounds
from eval_pipelines.client.report import AskReport
from eval_pipelines.client.shared_file import SharedFile
from eval_pipelines.client.shares import Member, Shares, agree, max_min
from eval_pipelines.client.slots import Slots
from eval_pipelines.client.transport import open_client
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import ConfigError
from eval_pipelines.records import Failure, FailureKind, Request
from tests.client.virtual import Asker, Server, played

ROOT = Path(__file__).parent.parent.parent
WANTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 300), max_size=8)


def questions(n: int, name: str = "q") -> list[Request]:
    return [Request(sample_id=f"s/{i}", subtask="s", operation="completion", prompt=f"{name} {i}?") for i in range(n)]


def in_file(folder: Path) -> dict:
    [path] = (path for path in folder.glob("pace-*") if "." not in path.name)
    return SharedFile(path, "share", slot_bytes=slots._SLOT_BYTES).read()


# the rule


@given(wants=WANTS, n=st.integers(0, 600))
def test_shares_are_fair_and_nothing_is_left_while_somebody_wants_it(wants, n) -> None:
    shares = max_min(wants, n)
    assert sum(shares.values()) == min(n, sum(wants.values()))
    assert all(0 <= shares[name] <= wanted for name, wanted in wants.items())
    short_of = [shares[name] for name in wants if shares[name] < wants[name]]
    # nobody has more than one who would take more, but for what cannot be divided
    assert not short_of or max(shares.values()) <= min(short_of) + 1


@settings(deadline=None)
@given(
    limits=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 50), st.floats(0, 1)), max_size=60),
)
def test_what_all_hold_together_never_grows_beyond_the_limit(limits, steps) -> None:
    shares, now = Shares(members={name: Member(0, 0, 1, 64) for name in "abcde"}), 0.0
    n_in_flight = dict.fromkeys("abcde", 0)
    for i, (name, wants, share_done) in enumerate(steps):
        limit = limits[i * len(limits) // len(steps)]
        now += 0.3
        n_in_flight[name] -= round(share_done * n_in_flight[name])
        before = sum(member.held for member in shares.members.values())
        allotment = agree(
            shares, name, wants=max(wants, n_in_flight[name]), n_in_flight=n_in_flight[name], limit=limit, now=now
        )
        n_in_flight[name] = max(n_in_flight[name], min(allotment, wants))
        assert sum(member.held for member in shares.members.values()) <= max(limit, before)
        assert n_in_flight[name] <= shares.members[name].held


@given(wants=WANTS.filter(any), limit=st.integers(1, 100))
def test_once_all_have_looked_twice_all_have_their_share(wants, limit) -> None:
    shares = Shares(members={name: Member(0, 0, 1, 64) for name in wants})
    for name in [*wants] * 2:
        agree(shares, name, wants=wants[name], n_in_flight=0, limit=limit, now=0.0)
    assert {name: member.held for name, member in shares.members.items()} == max_min(wants, limit)


# several clients, in virtual time


def together(askers: list[Asker], starts_s: list[float], until_s: float) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for asker, start_s in zip(askers, starts_s, strict=True):
                group.create_task(late(asker, start_s))

    async def late(asker: Asker, start_s: float) -> None:
        await asyncio.sleep(start_s)
        await asker.run(until_s)

    played(main)


@settings(max_examples=8)
@given(
    n_workers=st.lists(st.integers(1, 40), min_size=2, max_size=4), ceiling=st.integers(1, 40),
    starts_s=st.lists(st.floats(0, 3), min_size=4, max_size=4), n_to_ask=st.integers(10, 150),
    latency_s=st.sampled_from([0.03, 0.3]),
)  # fmt: skip
def test_clients_that_come_and_go_never_have_more_in_flight_than_the_limit(
    n_workers, ceiling, starts_s, n_to_ask, latency_s
) -> None:
    server = Server(latency_s=latency_s)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pace-test"
        askers = [Asker(server, Bounds(1, ceiling), n, path, n_to_ask=n_to_ask) for n in n_workers]
        together(askers, starts_s[: len(askers)], 10_000)
        assert server.most <= ceiling
        assert [asker.n_answered for asker in askers] == [n_to_ask] * len(askers)
        assert [one.name for one in Path(folder).iterdir()] == ["pace-test"], "a claim was left behind"


@pytest.mark.slow
def test_two_clients_together_keep_to_what_the_server_takes(tmp_path) -> None:
    server = Server(capacity=40)
    most: list[int] = []
    askers = [
        Asker(server, Bounds(1, 200), 200, tmp_path / "pace-x", watch=lambda _: most.append(server.n)) for _ in range(2)
    ]
    together(askers, [0.0, 5.0], 40)
    assert 35 <= sorted(most[len(most) // 2 :])[len(most) // 4] <= 64
    shares = [sum(point.n_in_flight for point in asker.slots.course.points if point.at_s > 8) for asker in askers]
    n_points = [sum(point.at_s > 8 for point in asker.slots.course.points) for asker in askers]
    first, second = (total / n for total, n in zip(shares, n_points, strict=True))
    assert first == pytest.approx(second, rel=0.25)


def test_who_wants_little_gets_it_all_and_the_rest_goes_to_the_others(tmp_path) -> None:
    server, path = Server(latency_s=0.3), tmp_path / "pace-x"
    modest, greedy = Asker(server, Bounds(15, 16), 3, path), Asker(server, Bounds(15, 16), 100, path)
    together([greedy, modest], [0.0, 1.0], 20)
    assert [max(point.n_in_flight for point in one.slots.course.points[-9:]) for one in (modest, greedy)] == [3, 13]
    assert server.most <= 16


@pytest.mark.slow
@pytest.mark.parametrize(("latency_s", "until_s"), [(0.02, 25), (0.9, 40), (5.0, 80)])
def test_with_more_clients_than_slots_each_has_its_turn(latency_s, until_s, tmp_path) -> None:
    server = Server(latency_s=latency_s, spread=0)
    askers = [Asker(server, Bounds(1, 2), 4, tmp_path / "pace-x") for _ in range(5)]
    together(askers, [0.0] * 5, until_s)
    assert server.most <= 2
    fair = len(server.answered_at) / 5
    assert all(0.4 * fair <= asker.n_answered <= 1.8 * fair for asker in askers)
    assert len(server.answered_at) > 0.6 * 2 * until_s / (latency_s + 0.2)


def test_what_one_client_is_refused_slows_down_the_others(tmp_path) -> None:
    askers = [
        Asker(Server(), Bounds(1, 64), 64, tmp_path / "pace-x"),
        Asker(Server(), Bounds(1, 64), 2, tmp_path / "pace-x"),
    ]
    askers[1].server.refuses_above = 0
    together(askers, [0.0, 3.0], 6)
    assert askers[0].slots.course.n_lowered["429"] >= 1
    assert askers[0].slots.course.points[-1].limit < 64


def test_the_narrowest_bounds_hold_for_all_while_their_client_is_there(tmp_path) -> None:
    server, path = Server(), tmp_path / "pace-x"
    wide, narrow = Asker(server, Bounds(1, 60), 60, path), Asker(server, Bounds(1, 10), 10, path)
    together([wide, narrow], [0.0, 4.0], 10)
    assert max(point.limit for point in wide.slots.course.points if point.at_s < 4) == 60
    assert {point.limit for point in wide.slots.course.points if point.at_s > 5} <= set(range(7, 11))


# one client


async def test_slots_are_given_first_come_first_served() -> None:
    one, order = Slots(Bounds(1, 2), None), []

    async def work(name: int) -> None:
        await one.take()
        order.append(name)
        await asyncio.sleep(0.001)
        one.give()

    await asyncio.gather(*(work(i) for i in range(30)))
    one.close()
    assert order == [*range(30)]


async def test_who_is_cancelled_while_waiting_or_asking_gives_everything_back(tmp_path) -> None:
    one = Slots(Bounds(1, 4), tmp_path / "pace-x")

    async def work() -> None:
        await one.take()
        try:
            await asyncio.sleep(0.02)
        finally:
            one.give()

    for cancelled_after_s in (0.0, 0.001, 0.015, 0.021, 0.03):
        tasks = [asyncio.create_task(work()) for _ in range(12)]
        await asyncio.sleep(cancelled_after_s)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert one.n_in_flight == 0
    # also the one whose slot was given and who was cancelled before it woke
    await asyncio.gather(*(one.take() for _ in range(4)))
    last = asyncio.create_task(one.take())
    await asyncio.sleep(0.01)
    one.give()
    last.cancel()
    await asyncio.wait([last])
    assert one.n_in_flight == 3
    await asyncio.wait_for(one.take(), 1)
    one.close()


async def test_a_batch_waits_for_all_its_slots_and_its_cancellation_lets_those_behind_it_pass() -> None:
    one = Slots(Bounds(4, 4), None)
    assert await one.take(3) == 3
    batch, behind = asyncio.create_task(one.take(2)), asyncio.create_task(one.take())
    await asyncio.sleep(0.01)
    assert not behind.done(), "first come, first served"
    batch.cancel()
    assert await asyncio.wait_for(behind, 1) == 1
    larger = asyncio.create_task(one.take(9))
    one.give(3)
    await asyncio.sleep(0.01)
    assert not larger.done()
    one.give()
    assert await asyncio.wait_for(larger, 1) == one.n_in_flight == 4
    one.close()


async def test_a_batch_takes_all_its_slots_also_where_little_was_wanted_so_far() -> None:
    one = Slots(Bounds(20, 20), None)
    one.give(await one.take())
    assert await asyncio.wait_for(one.take(8), 1) == 8
    one.close()


async def test_who_is_cancelled_at_the_gate_holds_nothing(faulty) -> None:
    """While the server is to be left alone, while all slots are taken, and while the rate limit has no room."""
    endpoint = Endpoint(faulty.url, "m", "hosted", max_in_flight=2, requests_per_minute=1)
    url, question = f"{faulty.url}/completions", questions(1)[0]
    async with open_client(endpoint) as client:
        held = client.gate._slots
        assert held is not None
        first = await gate.turn(client, url, question)
        waiting = [asyncio.create_task(gate.turn(client, url, question)) for _ in range(3)]
        await asyncio.sleep(0.1)
        assert held.n_in_flight == 2
        gate.over(client, first, (), None)
        gate.hold(client, url, 60)
        await asyncio.sleep(0.1)
        for task in waiting:
            task.cancel()
        assert len((await asyncio.wait(waiting))[0]) == 3
        assert held.n_in_flight == 0


async def test_what_was_asked_before_goes_first_in_its_own_order(tmp_path) -> None:
    one, order = Slots(Bounds(1, 1), tmp_path / "pace-x"), []

    async def take(name: str, *, is_again: bool) -> None:
        n = await one.take(is_again=is_again)
        order.append(name)
        one.give(n)

    await one.take()
    names = [("a", False), ("b", False), ("again 1", True), ("c", False), ("again 2", True)]
    waiting = [asyncio.create_task(take(name, is_again=is_again)) for name, is_again in names]
    await asyncio.sleep(0.01)
    one.give()
    await asyncio.wait_for(asyncio.gather(*waiting), 2)
    assert order == ["again 1", "again 2", "a", "b", "c"]
    one.close()


async def test_a_client_that_is_stopped_gives_way_once_it_has_told_nothing_for_a_while(tmp_path) -> None:
    moment = 1000.0
    stopped = Slots(Bounds(4, 5), tmp_path / "pace-x", now=lambda: 1000.0)
    while stopped.n_in_flight < 4:
        await asyncio.wait_for(stopped.take(), 1)
    assert stopped._timer
    stopped._timer.cancel()  # Ctrl-Z

    other = Slots(Bounds(4, 5), tmp_path / "pace-x", now=lambda: moment)
    waiting = [asyncio.create_task(other.take()) for _ in range(4)]
    await asyncio.wait(waiting, timeout=0.3)
    assert other.n_in_flight <= 1
    moment += slots._SILENT_S + 1
    await asyncio.wait_for(asyncio.gather(*waiting), 1)

    stopped._look()  # it goes on: a member like any other
    assert len(in_file(tmp_path)["members"]) == 2
    for one in (stopped, other):
        one.close()


async def test_what_another_release_wrote_is_no_obstacle(tmp_path) -> None:
    shared = SharedFile(tmp_path / "pace-x", "share", slot_bytes=slots._SLOT_BYTES)
    with shared.draft() as draft:
        assert draft is not None
        draft.value = {"pace": {"limit": 7, "speed": 3}, "members": {}, "held_until": {}}
    one = Slots(Bounds(1, 4), tmp_path / "pace-x")
    await asyncio.wait_for(one.take(), 1)
    one.give()
    one.close()
    assert shared.read()["pace"]["limit"] == 4


async def test_with_floor_and_ceiling_the_same_nothing_adapts_and_all_share_so_many(faulty, tmp_path) -> None:
    endpoint = Endpoint(faulty.url, "m", "hosted", max_in_flight=3, min_in_flight=3, shared_folder=tmp_path)
    url, question = f"{faulty.url}/completions", questions(1)[0]
    refused = Failure(kind=FailureKind.OVERLOADED, message="slow down", http_status=429)
    async with open_client(endpoint) as one, open_client(endpoint) as other:
        for _ in range(30):  # refused, and never fewer
            gate.over(one, await gate.turn(one, url, question), (), refused)
        turns = [await asyncio.wait_for(gate.turn(one, url, question), 1) for _ in range(3)]
        waiting = asyncio.create_task(gate.turn(other, url, question))
        await asyncio.wait([waiting], timeout=0.5)
        assert not waiting.done()
        for turn in turns:
            gate.over(one, turn, (), None)
        gate.over(other, await asyncio.wait_for(waiting, 2), (), None)
        assert one.gate.course is None
    assert in_file(tmp_path)["pace"]["limit"] == 3


async def test_without_a_folder_with_floor_and_ceiling_the_same_nothing_is_counted(faulty) -> None:
    endpoint = Endpoint(faulty.url, "m", "hosted", max_in_flight=3, min_in_flight=3)
    async with open_client(endpoint) as client:
        for _ in range(50):
            await gate.turn(client, f"{faulty.url}/completions", questions(1)[0])


async def test_a_folder_that_cannot_be_written_is_told_to_whoever_waits(tmp_path) -> None:
    (tmp_path / "pace-x").write_text("{half")
    one = Slots(Bounds(1, 4), tmp_path / "pace-x")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"pace-x: cannot share the requests in flight"):
            await asyncio.wait_for(one.take(), 2)
    one.close()


@pytest.mark.slow
async def test_a_server_that_asks_one_client_to_wait_is_left_alone_by_all(faulty, tmp_path) -> None:
    endpoint = Endpoint(faulty.url, "m", "hosted", shared_folder=tmp_path)
    url, question = f"{faulty.url}/completions", questions(1)[0]
    async with open_client(endpoint) as one, open_client(endpoint) as other:
        for client in (one, other):
            gate.over(client, await gate.turn(client, url, question), (), None)
        gate.hold(one, url, 1.2)
        await asyncio.sleep(0.4)
        started = time.perf_counter()
        await gate.turn(other, url, question)
        assert 0.6 < time.perf_counter() - started < 2
        late = await asyncio.wait_for(_joined(endpoint, url), 5)
    assert late


async def _joined(endpoint: Endpoint, url: str) -> bool:
    async with open_client(endpoint) as client:
        await gate.turn(client, url, questions(1)[0])
    return True


async def test_a_slot_costs_little_and_no_file_for_each_request(tmp_path, monkeypatch) -> None:
    one, n_opened = Slots(Bounds(1, 64), tmp_path / "pace-x"), itertools.count()
    opened = SharedFile.draft
    monkeypatch.setattr(SharedFile, "draft", lambda self: (next(n_opened), opened(self))[1])
    await one.take()
    one.give()
    started = time.perf_counter()
    for _ in range(5_000):
        await one.take()
        one.saw(1.0, ({"prompt_tokens": 1, "completion_tokens": 1},), None)
        one.give()
    each_s = (time.perf_counter() - started) / 5_000
    one.close()
    assert next(n_opened) < 20
    assert each_s < 60e-6


# the whole way


async def ask_all(faulty, folder: Path, n: int, *, ceiling: int, floor: int = 1, name: str = "q") -> AskReport:
    endpoint = Endpoint(faulty.url, "m", "hosted", ceiling, 10, min_in_flight=floor, shared_folder=folder)
    with Journal(folder / "journal.jsonl") as journal:
        return await ask(
            questions(n, name), n, endpoint, journal=journal, on_outcome=lambda *_: None,
            limits=Limits(ceiling, max_attempts=12, backoff=Backoff(0.05, 0.5)),
        )  # fmt: skip


@pytest.mark.slow
async def test_a_server_that_refuses_more_is_asked_about_as_many_as_it_takes(faulty, tmp_path) -> None:
    faulty.set(latency_s=0.05, refuses_above=12)
    report = await ask_all(faulty, tmp_path, 600, ceiling=96)
    assert report.n_answered == 600
    assert report.course is not None
    later = [point.limit for point in report.course.points if point.at_s > 2]
    assert later
    assert all(5 <= limit <= 16 for limit in later)
    assert "(429)" in report.course.words
    assert faulty.stats()["refused"] < 200


@pytest.mark.slow
async def test_the_next_cell_starts_where_the_last_one_ended(faulty, tmp_path) -> None:
    faulty.set(latency_s=0.05)
    first = await ask_all(faulty, tmp_path, 500, ceiling=60)
    learned = in_file(tmp_path)["pace"]
    second = await ask_all(faulty, tmp_path, 60, ceiling=60, name="second")
    assert first.course.points[0].limit == 16
    # a trial that had not ended is none
    rested_at = learned["other"]["limit"] if learned["phase"] in ("up", "down") else learned["limit"]
    assert second.course.points[0].limit == rested_at >= 24


async def test_what_was_learned_long_ago_is_forgotten(faulty, tmp_path, monkeypatch) -> None:
    await ask_all(faulty, tmp_path, 2, ceiling=60, floor=40)
    monkeypatch.setattr("eval_pipelines.client.pace.FORGET_S", 0.05)
    await asyncio.sleep(0.1)
    second = await ask_all(faulty, tmp_path, 2, ceiling=60, name="second")
    assert second.course.points[0].limit == 16


ASKER = textwrap.dedent("""
    import asyncio, sys
    sys.path.insert(0, {root!r})
    from pathlib import Path
    from eval_pipelines.client.fanout import Limits, ask
    from eval_pipelines.client.journal import Journal
    from eval_pipelines.endpoint import Endpoint
    from eval_pipelines.records import Request

    folder, name, n = Path({folder!r}), sys.argv[1], int(sys.argv[2])
    endpoint = Endpoint(
        {url!r}, "mock", "hosted", {ceiling}, request_timeout_s=10, min_in_flight={floor}, shared_folder=folder
    )
    requests = (
        Request(sample_id=f"s/{{i}}", subtask="s", operation="completion", prompt=f"{{name}} {{i}}") for i in range(n)
    )
    with Journal(folder / f"{{name}}.jsonl") as journal:
        asking = ask(requests, n, endpoint, journal=journal, limits=Limits({ceiling}), on_outcome=lambda *_: None)
        print(asyncio.run(asking).n_answered)
""")


def asker(faulty, folder: Path, name: str, n: int, ceiling: int, floor: int = 1) -> subprocess.Popen[str]:
    script = ASKER.format(root=str(ROOT), folder=str(folder), url=faulty.url, ceiling=ceiling, floor=floor)
    return subprocess.Popen([sys.executable, "-c", script, name, str(n)], stdout=subprocess.PIPE, text=True)


def wait_until(is_so: Callable[[], bool], within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_processes", "floor", "ceiling", "n"), [(2, 1, 10, 120), (3, 1, 10, 120), (3, 1, 1, 12), (2, 8, 8, 60)]
)
def test_processes_together_never_have_more_in_flight_than_the_limit(
    faulty, tmp_path, n_processes, floor, ceiling, n
) -> None:
    faulty.set(latency_s=0.1)
    askers = [asker(faulty, tmp_path, name, n, ceiling, floor) for name in "abc"[:n_processes]]
    assert [one.communicate(timeout=60)[0].strip() for one in askers] == [str(n)] * n_processes
    assert faulty.stats()["most_on_wire"] == ceiling
    assert list(tmp_path.glob("pace-*.*")) == []


@pytest.mark.slow
def test_the_share_of_a_killed_process_goes_to_the_others(faulty, tmp_path) -> None:
    faulty.set(latency_s=0.4)
    killed, other = (asker(faulty, tmp_path, name, 10_000, ceiling=10) for name in ("killed", "other"))
    try:
        wait_until(lambda: sorted(one["held"] for one in _members(tmp_path)) == [5, 5])
        os.kill(killed.pid, signal.SIGKILL)
        wait_until(lambda: [one["held"] for one in _members(tmp_path)] == [10])
        wait_until(lambda: faulty.stats()["on_wire"] >= 9)
        assert faulty.stats()["most_on_wire"] <= 10 + 5  # what the killed one had asked may still be answered
        assert len([*tmp_path.glob("pace-*.*")]) == 1
    finally:
        for process in (killed, other):
            process.kill()
            process.communicate()


def _members(folder: Path) -> list[dict]:
    try:
        return [*in_file(folder)["members"].values()]
    except (ValueError, TypeError):
        return []
