"""Intervals that hold however often one looks; how often they miss is in tests/bench/statistics.py."""

import itertools

import numpy as np
import pytest

from eval_pipelines.scoring.sequential import ConfidenceSequence


def drawn(n: int, share: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < share).astype(float)


def test_it_narrows_and_never_widens() -> None:
    values, found, ends = drawn(2_000, 0.7), ConfidenceSequence(2_000), []
    for start in range(0, 2_000, 100):
        found.see(values[start : start + 100])
        ends.append((found.low, found.high))
    assert all(a[0] <= b[0] <= b[1] <= a[1] for a, b in itertools.pairwise(ends))
    assert ends[0][1] - ends[0][0] > 4 * (ends[12][1] - ends[12][0])


def test_once_everything_was_seen_there_is_nothing_left_to_know() -> None:
    values, found = drawn(300, 0.4), ConfidenceSequence(300)
    found.see(values)
    assert (found.low, found.high) == pytest.approx((values.mean(), values.mean()))


def test_looks_of_any_size_see_the_same() -> None:
    values, one, many = drawn(700, 0.5), ConfidenceSequence(900), ConfidenceSequence(900)
    one.see(values)
    for value in values:
        many.see(np.array([value]))
    assert (one.low, one.high) == pytest.approx((many.low, many.high))


def test_graded_verdicts_have_one_too_and_it_is_narrower() -> None:
    random = np.random.default_rng(2)
    graded, binary = ConfidenceSequence(5_000), ConfidenceSequence(5_000)
    graded.see(random.binomial(8, 0.5, 600) / 8)
    binary.see(random.binomial(1, 0.5, 600).astype(float))
    assert graded.half_width < 0.6 * binary.half_width
    with pytest.raises(ValueError, match="between 0 and 1"):
        graded.see(np.array([1.5]))


def test_a_half_width_costs_about_twice_the_questions_of_one_look_and_far_fewer_than_all() -> None:
    found, values = ConfidenceSequence(14_042, aim=0.03), drawn(14_042, 0.5)
    while found.half_width > 0.03:
        found.see(values[found.n : found.n + 50])
    assert 1_067 < found.n < 2_300
