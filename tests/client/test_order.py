"""What shares a beginning travels together, and no straggler holds the end."""

import heapq
import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_pipelines.client import order
from eval_pipelines.client.order import ordered, shares_beginning
from eval_pipelines.records import Request

pytestmark = pytest.mark.unit

FEWSHOT = "".join(f"Question: what is {i} + {i}? Answer: {2 * i}.\n" for i in range(20))


def ask(number: int, *, before: str = "", subtask: str = "s", repeat: int = 0, is_chat: bool = False) -> Request:
    question = f"{number}: what comes next?"
    fields = (
        {"operation": "chat", "messages": ({"role": "user", "content": before}, {"role": "user", "content": question})}
        if is_chat
        else {"operation": "completion", "prompt": f"{before}{question}"}
    )
    return Request(sample_id=f"{subtask}/{number}", subtask=subtask, repeat=repeat, **fields)


def lengths_of(requests: Sequence[Request], lengths: Sequence[int]) -> dict[str, int]:
    return {one.digest: length for one, length in zip(requests, lengths, strict=True)}


def numbers(requests: Sequence[Request]) -> list[int]:
    return [int(one.sample_id.split("/")[1]) for one in requests]


def makespan(lengths: Sequence[int], n_in_flight: int) -> int:
    ends = [0] * n_in_flight
    for length in lengths:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


def in_groups(sizes: Sequence[int], is_chat: bool = False) -> list[Request]:
    """One subtask each, whose questions share few-shot examples of their own."""
    found = []
    for name, size in enumerate(sizes):
        start = len(found)
        before = f"Examples of {name}.\n{FEWSHOT}"
        found += [ask(start + i, before=before, subtask=f"t{name}", is_chat=is_chat) for i in range(size)]
    return found


groups_with_lengths = st.lists(st.integers(1, 6), min_size=1, max_size=6).flatmap(
    lambda sizes: st.tuples(
        st.just(in_groups(sizes)), st.lists(st.integers(1, 400), min_size=sum(sizes), max_size=sum(sizes))
    )
)


@settings(max_examples=30)
@given(groups_with_lengths, st.integers(1, 8), st.integers(0, 10))
def test_the_order_is_a_permutation(grouped, n_in_flight, n_unknown) -> None:
    requests, lengths = grouped
    expected = dict(list(lengths_of(requests, lengths).items())[n_unknown:])
    assert sorted(numbers(ordered(requests, expected, n_in_flight))) == numbers(requests)


@settings(max_examples=30)
@given(groups_with_lengths, st.integers(1, 8))
def test_groups_stay_together_but_for_those_that_would_hold_the_end(grouped, n_in_flight) -> None:
    requests, lengths = grouped
    expected = lengths_of(requests, lengths)
    mean = sum(lengths) / len(lengths)
    found = list(ordered(requests, expected, n_in_flight))
    n_first = len(list(itertools.takewhile(lambda one: expected[one.digest] > 2 * mean, found)))
    runs = [name for name, _ in itertools.groupby(found[n_first:], key=lambda one: one.subtask)]
    assert len(runs) == len(set(runs))


@settings(max_examples=30)
@given(groups_with_lengths)
def test_equal_lengths_leave_the_order_as_it_is(grouped) -> None:
    requests, _ = grouped
    assert list(ordered(requests, lengths_of(requests, [7] * len(requests)))) == requests


@settings(max_examples=30)
@given(groups_with_lengths, st.integers(1, 8))
def test_no_order_ends_later_than_the_mean_load_and_twice_the_longest(grouped, n_in_flight) -> None:
    requests, lengths = grouped
    expected = lengths_of(requests, lengths)
    took = makespan([expected[one.digest] for one in ordered(requests, expected, n_in_flight)], n_in_flight)
    assert took <= sum(lengths) / n_in_flight + max(lengths)


def test_long_answers_come_first_within_a_group() -> None:
    requests = in_groups([4])
    assert numbers(ordered(requests, lengths_of(requests, [5, 8, 6, 7]), 1)) == [1, 3, 2, 0]


def test_the_group_with_the_longest_answer_comes_first() -> None:
    requests = in_groups([2, 2])
    assert numbers(ordered(requests, lengths_of(requests, [5, 6, 7, 5]), 1)) == [2, 3, 1, 0]


def test_who_would_hold_the_end_is_asked_first_of_all() -> None:
    # the last group is small: its one long answer would begin when little else is left
    requests = in_groups([40, 3])
    lengths = [100] * 40 + [10, 90, 10]
    lengths[0] = 1_000
    found = list(ordered(requests, lengths_of(requests, lengths), 8))
    assert numbers(found)[0] == 0
    requests = in_groups([40, 40])
    lengths = [100] * 80
    lengths[3], lengths[60] = 900, 800
    assert numbers(ordered(requests, lengths_of(requests, lengths), 16))[:2] == [3, 60]


def test_the_end_comes_as_early_as_it_can() -> None:
    draw = random.Random(7)
    requests = in_groups([30] * 6)
    lengths = [draw.choice([10, 20, 30, 40, 400]) for _ in requests]
    expected = lengths_of(requests, lengths)
    took = makespan([expected[one.digest] for one in ordered(requests, expected, 16)], 16)
    assert took <= 1.03 * max(sum(lengths) / 16, max(lengths))
    assert took < makespan(lengths, 16)


def test_with_nothing_learnt_the_order_stays_and_nothing_is_read_ahead() -> None:
    n_read = 0

    def source():
        nonlocal n_read
        for request in in_groups([3, 3]):
            n_read += 1
            yield request

    found = ordered(source(), {})
    assert numbers([next(found), next(found)]) == [0, 1]
    assert n_read == 2


def test_what_was_learnt_of_others_leaves_the_order_as_it_is() -> None:
    requests = in_groups([3, 3])
    assert list(ordered(requests, {"another": 9})) == requests


def test_the_repeats_of_a_question_stay_together_and_in_their_order() -> None:
    requests = [ask(i, before=FEWSHOT, repeat=repeat) for i in range(4) for repeat in range(3)]
    lengths = [10, 10, 10, 10, 80, 10, 10, 10, 90, 10, 10, 10]
    found = list(ordered(requests, lengths_of(requests, lengths), 2))
    assert [(one.sample_id, one.repeat) for one in found[:6]] == [(f"s/{i}", r) for i in (2, 1) for r in range(3)]


def test_the_choices_of_a_question_stay_together() -> None:
    requests = [
        Request(
            sample_id=f"s/{i}",
            subtask="s",
            part=part,
            operation="loglikelihood",
            prompt=f"{i}?",
            continuation=f" {part}",
        )
        for i in range(5)
        for part in range(4)
    ]
    assert list(ordered(requests, lengths_of(requests, [1] * 20))) == requests


def test_one_that_is_not_known_counts_as_the_mean() -> None:
    requests = in_groups([3])
    expected = {requests[0].digest: 10, requests[2].digest: 30}
    assert numbers(ordered(requests, expected, 1)) == [2, 1, 0]


@pytest.mark.parametrize("is_chat", [False, True])
def test_questions_after_the_same_examples_share_a_beginning(is_chat) -> None:
    one, other = ask(1, before=FEWSHOT, is_chat=is_chat), ask(2, before=FEWSHOT, is_chat=is_chat)
    assert shares_beginning(one, other)
    assert not shares_beginning(one, ask(2, before="Something else.\n" + FEWSHOT, is_chat=is_chat))


def test_questions_without_examples_share_none() -> None:
    assert not shares_beginning(ask(1), ask(2))


def test_a_million_are_ordered_window_by_window(monkeypatch) -> None:
    monkeypatch.setattr(order, "WINDOW", 4)
    requests = in_groups([8])
    found = ordered(iter(requests), lengths_of(requests, [1, 2, 3, 4, 5, 6, 7, 8]), 1)
    assert numbers(found) == [3, 2, 1, 0, 7, 6, 5, 4]
