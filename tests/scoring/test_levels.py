"""Where most samples show nothing, little is said: the level of one-sided claims, summed over all outcomes."""

import numpy as np
import pytest
from scipy import optimize, stats

from eval_pipelines.scoring import score_test
from eval_pipelines.scoring.estimates import adjusted_clustered, adjusted_wald, clustered, students_t
from eval_pipelines.scoring.paired import compare, estimate_mean, paired_difference
from tests.bench import one_sided

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


@pytest.mark.parametrize(("n", "limit"), [(30, 0.073), (100, 0.052), (300, 0.0175), (1_000, 0.016)])
def test_a_limit_just_lost_is_rarely_shown_to_be_kept_also_where_nothing_was_won(n: int, limit: float) -> None:
    assert one_sided.kept(n, limit, 0.0) <= 0.05


@pytest.mark.parametrize("right", [0.95, 1.0])
def test_a_share_of_the_baseline_just_lost_is_rarely_shown_to_be_kept(right: float) -> None:
    assert max(one_sided.share_kept(60, share, right) for share in (0.04, 0.07, 0.15)) <= 0.05


def test_a_limit_just_kept_is_rarely_shown_to_be_broken() -> None:
    assert max(one_sided.broken(100, limit, 0.0) for limit in (0.01, 0.02, 0.05)) <= 0.05


@pytest.mark.parametrize(
    ("counts", "weight", "limit"),
    # right in both, only in the baseline, only in the model, in neither
    [((20, 6, 4, 10), 1.0, -0.2), ((30, 0, 0, 10), 1.0, -0.1), ((20, 0, 9, 11), 1.0, 0.1), ((30, 3, 2, 5), 0.8, 0.0)],
)
def test_the_error_is_that_of_the_likeliest_world_in_which_the_limit_is_lost(
    counts: tuple[int, int, int, int], weight: float, limit: float
) -> None:
    seen, value = np.array(counts, float), np.array([1 - weight, -weight, 1.0, 0.0])
    n = seen.sum()
    found = optimize.minimize(
        lambda p: -float(seen @ np.log(np.maximum(p, 1e-12))),
        np.full(4, 0.25),
        bounds=[(1e-9, 1)] * 4,
        constraints=[
            {"type": "eq", "fun": lambda p: p.sum() - 1},
            {"type": "eq", "fun": lambda p: p @ value - limit},
        ],
        options={"maxiter": 1_000, "ftol": 1e-14},
    )
    error = np.sqrt(float(found.x @ (value - limit) ** 2) / n)
    z = (float(seen @ value) / n - limit - score_test.CORRECTION / n) / error
    p = score_test.p_above(np.repeat(value, counts), limit, low=-weight)
    assert p == pytest.approx(float(stats.norm.sf(z)), rel=1e-3)


def test_what_is_shown_to_lie_within_a_margin_has_its_ninety_percent_interval_there_but_not_the_reverse() -> None:
    for lost in range(12):
        old, new = np.ones(300), (np.arange(300) >= lost).astype(float)
        found = paired_difference(old, new, None)
        assert found is not None
        low, high = found.interval(0.9)
        for margin in (0.01, 0.02, 0.03, 0.05):
            if max(found.p_above(-margin), found.p_below(margin)) < 0.05:
                assert -margin < low
                assert high < margin
    same = {str(i): 1.0 for i in range(300)}
    assert compare(same, same, margin=0.01).verdict == "inconclusive"
    same |= {f"more {i}": 1.0 for i in range(20)}
    assert compare(same, same, margin=0.01).verdict == "equivalent"


def test_what_no_difference_can_lose_is_kept_and_what_the_data_speak_for_is_not_shown() -> None:
    lost = paired_difference(np.ones(30), np.zeros(30), None)
    assert lost is not None
    assert score_test.p_above(np.zeros(30), -1.0, low=-1.0) == 0.0
    assert lost.p_above(-0.5) > 0.5 > 0.05 > lost.p_below(-0.5)
