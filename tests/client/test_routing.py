"""Which server of several gets a request."""

from collections import Counter

import pytest

from eval_pipelines.client.routing import Router
from eval_pipelines.endpoint import Replica

pytestmark = pytest.mark.unit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def router(n: int, clock: Clock | None = None) -> Router:
    return Router([Replica(f"http://{i}") for i in range(n)], now=clock or Clock())


def test_requests_that_belong_together_go_to_the_same_server() -> None:
    them = router(4)
    for sample in range(50):
        chosen = set()
        for _ in range(4):
            index, _ = them.begin(f"s/{sample}")
            chosen.add(index)
            them.end(index, is_answer=True)
        assert len(chosen) == 1


def test_different_questions_spread_evenly() -> None:
    them = router(4)
    load = Counter(them.begin(f"s/{i}")[0] for i in range(400))
    assert max(load.values()) - min(load.values()) <= 0.3 * 100


def test_what_belongs_together_still_leaves_an_overloaded_server() -> None:
    them = router(2)
    load = Counter(them.begin("the same prompt")[0] for _ in range(100))
    assert min(load.values()) > 35


def test_a_slow_server_gets_less() -> None:
    them = router(2)
    stuck = [them.begin(f"a/{i}") for i in range(40)]
    for index, _ in stuck:
        if index == 1:
            them.end(index, is_answer=True)
    began = Counter()
    for i in range(40):
        index, _ = them.begin(f"b/{i}")
        began[index] += 1
        if index == 1:
            them.end(index, is_answer=True)
    assert began[1] > 35


def test_a_server_that_is_gone_gets_nothing_until_its_time_is_over_and_then_one_request() -> None:
    clock = Clock()
    them = router(2, clock)
    them.begin("x")
    them.begin("x")
    them.end(0, is_answer=False, is_gone=True)
    assert {them.begin(f"s/{i}")[0] for i in range(30)} == {1}
    clock.now += 1.5
    assert Counter(them.begin(f"t/{i}")[0] for i in range(30))[0] <= 1


def test_a_server_that_answers_again_is_used_again() -> None:
    clock = Clock()
    them = router(2, clock)
    them.begin("x")
    them.end(0, is_answer=False, is_gone=True)
    clock.now += 1.5
    trial = next(index for i in range(100) if (index := them.begin(f"s/{i}")[0]) == 0)
    them.end(trial, is_answer=True)
    assert Counter(them.begin(f"t/{i}")[0] for i in range(200))[0] > 50


def test_three_failures_in_a_row_leave_a_server_out_although_it_answers_quickly() -> None:
    them = router(2)
    for _ in range(3):
        them.begin("x")
        them.end(0, is_answer=False)
    assert {them.begin(f"s/{i}")[0] for i in range(30)} == {1}


def test_attempts_that_were_called_off_leave_no_server_out() -> None:
    them = router(2)
    for _ in range(5):
        them.begin("x")
        them.end(0, is_answer=False, is_fault=False)
    assert {them.begin(f"s/{i}")[0] for i in range(30)} == {0, 1}


def test_a_request_that_failed_at_one_server_goes_to_another() -> None:
    them = router(3)
    assert {them.begin(f"s/{i}", tried={0, 2})[0] for i in range(20)} == {1}
    assert them.has_other({0, 2})
    assert not them.has_other({0, 1, 2})


def test_where_all_servers_are_gone_one_of_them_is_tried() -> None:
    them = router(2)
    for index in (0, 1):
        them.begin("x")
        them.end(index, is_answer=False, is_gone=True)
    assert them.begin("y")[0] in (0, 1)
    assert not them.has_other(set())


def test_an_only_server_is_always_chosen() -> None:
    them = router(1)
    for _ in range(5):
        index, replica = them.begin("x", tried={0})
        them.end(index, is_answer=False, is_gone=True)
        assert replica.url == "http://0"


def test_a_server_that_asked_to_be_left_alone_is_left_to_those_that_have_no_other() -> None:
    them = router(2)
    them.is_held = lambda url: url == "http://0"
    assert {them.begin(f"s/{i}")[0] for i in range(20)} == {1}
    assert not them.has_other({1})
    them.is_held = lambda _: True
    assert them.begin("s/1")[0] in (0, 1)
