"""How many requests an endpoint gets at once: near what it takes, never beyond the bounds, and back after an outage."""

import asyncio
import itertools
import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eval_pipelines.client import pace
from eval_pipelines.client.pace_state import Bounds, Pace, Seen
from tests.client.virtual import BEGAN_AT, Asker, Server, played

WIDE = Bounds(1, 128)
BOUNDS = st.tuples(st.integers(1, 64), st.integers(0, 400)).map(lambda pair: Bounds(pair[0], sum(pair)))


def course(server: Server, *, until_s: float, bounds: Bounds = WIDE, n_workers: int = 128, **fields: Any) -> Asker:
    asker = Asker(server, bounds, n_workers, **fields)
    played(lambda: asker.run(until_s))
    return asker


def limits(asker: Asker, after_s: float = 0.0, until_s: float = 1e9) -> list[int]:
    return [point.limit for point in asker.slots.course.points if after_s <= point.at_s <= until_s]


def share_used(server: Server, after_s: float, until_s: float) -> float:
    """Answers as a share of what the server could give at best."""
    n = sum(after_s <= at - BEGAN_AT < until_s for at in server.answered_at)
    return n / (until_s - after_s) / (min(server.capacity, server.refuses_above) / server.latency_s)


SEEN = st.builds(
    Seen,
    n_done=st.integers(0, 4_000), n_tokens=st.none() | st.integers(0, 10**6),
    n_fine=st.integers(0, 500), n_broken=st.integers(0, 500), busy_s=st.floats(0, 5_000),
    refused_at=st.none() | st.floats(0, 5_000),
)  # fmt: skip


@settings(max_examples=100)
@given(changing=st.lists(BOUNDS, min_size=1, max_size=3), told=st.lists(st.tuples(SEEN, st.floats(0, 40)), max_size=40))
def test_whatever_is_seen_the_limit_stays_within_its_bounds(changing, told) -> None:
    now = 100.0
    state = pace.begin(changing[0], now)
    for (seen, passed_s), bounds in zip(told, itertools.cycle(changing), strict=False):
        now += passed_s
        seen.since = state.decreased_at
        pace.advance(state, seen, bounds, now, lag_s=0.5 * (len(changing) - 1))
        assert bounds.floor <= state.limit <= bounds.ceiling


@pytest.mark.slow
@settings(max_examples=8)
@given(
    capacity=st.integers(3, 90), latency_s=st.sampled_from([0.05, 0.2, 2.0]), spread=st.floats(0, 1),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_it_settles_where_more_requests_would_only_queue(capacity, latency_s, spread, seed) -> None:
    """Within 150 round trips. Below the knee throughput is lost, above it only latency: hence the lopsided bounds."""
    server = Server(capacity, latency_s, spread=spread, dice=random.Random(seed))
    asker = course(server, until_s=150 * latency_s + 5, n_workers=128)
    settled = sorted(limits(asker, after_s=60 * latency_s + 2))
    typical = settled[len(settled) // 2]
    assert 0.75 * capacity <= typical <= max(1.6 * capacity + 2, pace.START * 1.4)
    assert share_used(server, 60 * latency_s, 150 * latency_s) > 0.85


@pytest.mark.slow
@settings(max_examples=6)
@given(most=st.integers(3, 70), latency_s=st.sampled_from([0.1, 0.5]), seed=st.integers(0, 9))
def test_it_settles_below_what_the_server_refuses(most, latency_s, seed) -> None:
    server = Server(refuses_above=most, latency_s=latency_s, dice=random.Random(seed))
    asker = course(server, until_s=50)
    assert all(0.5 * most - 1 <= limit <= 1.3 * most + 1 for limit in limits(asker, after_s=15))
    assert share_used(server, 15, 50) > 0.75
    # once it knows, one or two now and then
    n_refused, n_answered = (sum(at > BEGAN_AT + 8 for at in told) for told in (server.refused_at, server.answered_at))
    assert n_refused < 0.05 * n_answered + 4


def test_one_refusal_of_many_at_once_is_one_decrease() -> None:
    server = Server(refuses_above=20)
    asker = course(server, until_s=0.6)
    assert len(server.refused_at) > 5
    assert asker.slots.course.n_lowered == {"429": 1}


@settings(max_examples=5)
@given(began_s=st.floats(3, 6), lasted_s=st.floats(5, 25))
def test_it_comes_back_after_an_outage(began_s, lasted_s) -> None:
    ends_s = began_s + lasted_s
    server = Server(latency_s=0.5, broken=lambda at, die: began_s < at < ends_s)
    asker = course(server, until_s=ends_s + 25, bounds=Bounds(2, 64), n_workers=64)
    assert min(limits(asker, began_s, ends_s)) <= 16
    assert max(limits(asker, ends_s)) >= 50


def test_a_server_that_answers_nobody_is_asked_no_less_than_at_the_start() -> None:
    """With one in flight, and each attempt a timeout, the budget of failures would last for hours."""
    asker = course(Server(broken=lambda at, die: True), until_s=20, bounds=Bounds(1, 64), n_workers=64)
    assert {*limits(asker)} == {pace.START}
    answers_few = Server(broken=lambda at, die: die < 0.9)
    assert min(limits(course(answers_few, until_s=20, bounds=Bounds(1, 64), n_workers=64))) < pace.START


def test_it_finds_a_server_that_got_faster() -> None:
    server = Server(12, 0.2)

    async def grows() -> None:
        asyncio.get_running_loop().call_later(20, lambda: setattr(server, "capacity", 60))
        await asker.run(75)

    asker = Asker(server, Bounds(1, 128), 128)
    played(grows)
    assert max(limits(asker, 10, 20)) <= 24
    assert 50 <= limits(asker)[-1] <= 90
    assert share_used(server, 65, 75) > 0.85


def test_it_asks_less_of_a_server_that_got_slower() -> None:
    server = Server(60, 0.2)

    async def shrinks() -> None:
        asyncio.get_running_loop().call_later(8, lambda: setattr(server, "capacity", 15))
        await asker.run(150)

    asker = Asker(server, Bounds(1, 128), 128)
    played(shrinks)
    assert max(limits(asker, 130)) <= 30
    assert share_used(server, 100, 150) > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_a_small_share_of_errors_is_no_reason_to_slow_down(seed) -> None:
    server = Server(latency_s=0.5, broken=lambda at, die: die < 0.1, dice=random.Random(seed))
    asker = course(server, until_s=20, bounds=Bounds(1, 64), n_workers=64)
    assert asker.slots.course.n_lowered.total() <= 1
    assert min(limits(asker, after_s=8)) >= 30


def test_one_poisoned_prompt_is_no_reason_to_slow_down() -> None:
    """It fails again and again, also when everything else is answered and nobody else is asked."""
    state, bounds, now = pace.begin(Bounds(1, 32), 0.0), Bounds(1, 32), 0.0
    for _ in range(15):
        now += 1.5
        pace.advance(state, Seen(since=state.decreased_at, n_broken=1, busy_s=0.1), bounds, now)
    assert (state.limit, state.n_decreases) == (16, 0)


def test_what_had_started_before_a_decrease_counts_no_second_time() -> None:
    state, bounds = pace.begin(Bounds(1, 64), 10.0), Bounds(1, 64)
    pace.advance(state, Seen(refused_at=10.5), bounds, 11.0)
    assert (state.limit, state.n_decreases) == (8, 1)
    pace.advance(state, Seen(refused_at=10.9, n_broken=40), bounds, 11.2)  # told by who did not know yet
    assert (state.limit, state.n_decreases) == (8, 1)
    pace.advance(state, Seen(since=11.0, refused_at=11.1), bounds, 11.3)
    assert (state.limit, state.n_decreases) == (6, 2)


@pytest.mark.parametrize("n_workers", [1, 5, 14])
def test_it_does_not_grow_while_nobody_would_use_it(n_workers) -> None:
    asker = course(Server(), until_s=10, bounds=Bounds(1, 256), n_workers=n_workers)
    assert max(limits(asker)) <= 32
    assert len(asker.server.answered_at) == pytest.approx(n_workers * 10 / 0.2, rel=0.1)


def test_a_limit_that_is_no_multiple_of_a_batch_grows_all_the_same() -> None:
    """What is kept free for a batch that waits counts as used."""
    asker = course(Server(), until_s=10, bounds=Bounds(22, 64), n_workers=64, n_per_request=8)
    assert limits(asker)[0] == 22
    assert limits(asker)[-1] == 64
    assert asker.server.most == 8


def test_tokens_are_the_throughput_where_all_answers_tell_them() -> None:
    """As many answers per second as before, twice the tokens: longer answers came."""

    def double_at(n_tokens: int | None) -> Pace:
        state, bounds = pace.begin(Bounds(1, 64), 0.0), Bounds(1, 64)
        pace.advance(state, Seen(n_done=16, n_tokens=160, busy_s=16.0), bounds, 1.0)
        for i in range(4):
            pace.advance(state, Seen(n_done=24, n_tokens=n_tokens, busy_s=48), bounds, 2.5 + 1.5 * i)
        return state

    assert double_at(480).limit == 64
    assert double_at(None).limit == 16


@settings(max_examples=30)
@given(st.integers(2, 40))
@example(16)
def test_it_starts_modestly_and_doubles_each_round_trip(floor) -> None:
    asker = course(Server(spread=0), until_s=1.2, bounds=Bounds(floor, 256), n_workers=256)
    start = max(16, floor)
    assert asker.slots.course.points[0].limit == start
    for n_rounds in range(1, 4):
        assert max(limits(asker, until_s=0.2 * n_rounds + 0.15)) == min(256, start * 2**n_rounds)
