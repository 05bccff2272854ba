"""Where most samples show nothing, little is said: the level of one-sided claims, summed over all outcomes."""

import numpy as np
import pytest
from scipy import stats

from eval_pipelines.scoring.estimates import adjusted_clustered, adjusted_wald, clustered, students_t
from eval_pipelines.scoring.paired import compare, estimate_mean, paired_difference

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("n_groups", "size", "drop"), [(10, 2, 0.03), (2, 15, 0.03), (50, 2, 0.02), (200, 5, 0.01), (60, 5, 0.05)]
)
def test_a_limit_just_lost_in_whole_groups_is_rarely_shown_to_be_kept(n_groups: int, size: int, drop: float) -> None:
    groups = [f"g{i // size}" for i in range(n_groups * size)]
    old, wrong = np.ones(n_groups * size), 0.0
    for n_lost in range(n_groups + 1):
        found = paired_difference(old, np.repeat(np.arange(n_groups) >= n_lost, size).astype(float), groups)
        assert found is not None
        wrong += float(stats.binom.pmf(n_lost, n_groups, drop)) * (found.p_above(-drop) <= 0.05)
    assert wrong <= 0.05


@pytest.mark.parametrize("n", [20, 50, 100, 300])
def test_a_floor_that_a_nearly_constant_grade_lies_at_is_rarely_shown_to_be_kept(n: int) -> None:
    wrong = 0.0
    for n_zero in range(n + 1):
        found = estimate_mean(np.where(np.arange(n) < n_zero, 0.0, 0.9), None)
        assert found is not None
        wrong += float(stats.binom.pmf(n_zero, n, 0.05)) * (found.p_above(0.855) <= 0.05)
    assert wrong <= 0.05


def test_groups_that_show_no_difference_are_worth_one_question_each() -> None:
    alone = adjusted_wald(np.zeros(50))
    grouped = adjusted_clustered(np.zeros(200), np.repeat(np.arange(50), 4))
    assert (grouped.centre, grouped.df) == (0.0, 49)
    assert grouped.stderr == pytest.approx(alone.stderr, rel=0.02)


def test_many_groups_that_differ_are_hardly_adjusted() -> None:
    random = np.random.default_rng(2)
    values, groups = random.integers(-1, 2, 2_000).astype(float), np.repeat(np.arange(500), 4)
    found, plain = adjusted_clustered(values, groups), clustered(values, groups)
    assert (found.value, found.df) == (plain.value, plain.df)
    assert found.stderr == pytest.approx(plain.stderr, rel=0.01)
    assert found.interval() == pytest.approx(plain.interval(), abs=0.1 * plain.stderr)


def test_an_interval_ends_at_what_a_difference_of_shares_can_be() -> None:
    old, new = {str(i): 0.0 for i in range(60)}, {str(i): 1.0 for i in range(60)}
    found = compare(old, new)
    assert (found.difference, found.ci_high) == (1.0, 1.0)
    assert compare(new, old).ci_low == -1.0
    pairs = compare(old, new, clusters={str(i): str(i // 2) for i in range(60)})
    assert (pairs.ci_high, pairs.ci_method) == (1.0, "clustered")
    # a perplexity may change by any number
    ten = {key: 10.0 + value for key, value in new.items()}
    assert compare(old, ten).ci_high == pytest.approx(students_t(np.full(60, 11.0)).value)
