"""Intervals cover, tests keep their level, gates err as rarely as they say: the small version of tests/bench/statistics.py."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.bench.statistics import EXACT, SIMULATED, Rate

pytestmark = pytest.mark.slow

N_WORLDS = 400


@pytest.mark.parametrize("simulate", SIMULATED, ids=lambda one: one.__name__)
def test_what_is_stated_is_found_by_simulation(
    simulate: Callable[[int, np.random.Generator], Iterator[Rate]],
) -> None:
    assert [rate for rate in simulate(N_WORLDS, np.random.default_rng(7)) if not rate.is_kept] == []


@pytest.mark.parametrize("sum_up", EXACT, ids=lambda one: one.__name__)
def test_what_is_stated_is_found_over_all_outcomes(sum_up: Callable[[], Iterator[Rate]]) -> None:
    assert [rate for rate in sum_up() if not rate.is_kept] == []
