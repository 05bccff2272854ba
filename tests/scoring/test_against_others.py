"""Our statistics against scipy's and statsmodels' on the same data."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from eval_pipelines.scoring import estimates, power
from eval_pipelines.scoring.multiplicity import benjamini_hochberg, holm, none
from eval_pipelines.scoring.paired_tests import mcnemar_exact, sign_flip

RANDOM = np.random.default_rng(20)


@pytest.mark.parametrize(("n_a", "n_b"), [(0, 1), (1, 0), (4, 4), (3, 17), (210, 250), (0, 40)])
def test_mcnemars_test(n_a: int, n_b: int) -> None:
    assert mcnemar_exact(n_a, n_b) == pytest.approx(mcnemar([[50, n_a], [n_b, 50]], exact=True).pvalue)


@pytest.mark.parametrize(
    "values", [RANDOM.normal(0.2, 1, 90), RANDOM.integers(-4, 5, 120) / 4 + 0.25 * (RANDOM.random(120) < 0.3)]
)
def test_the_sign_flip_permutation(values: np.ndarray) -> None:
    def mean(x: np.ndarray, axis: int) -> np.ndarray:
        return x.mean(axis=axis)

    theirs = stats.permutation_test((values,), mean, permutation_type="samples", vectorized=True, rng=1)
    ours = sign_flip(values)
    assert ours is not None
    assert ours == pytest.approx(theirs.pvalue, abs=4 * math.sqrt(0.25 / 9_999))


def test_students_interval_and_one_sided_tests() -> None:
    values = RANDOM.exponential(1, 40)
    ours = estimates.students_t(values)
    assert ours.interval() == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.95))
    assert ours.p_above(0.8) == pytest.approx(stats.ttest_1samp(values, 0.8, alternative="greater").pvalue)
    assert ours.p_below(1.1) == pytest.approx(stats.ttest_1samp(values, 1.1, alternative="less").pvalue)


def test_cluster_robust_errors() -> None:
    import statsmodels.api as sm

    clusters = RANDOM.integers(0, 17, 200)
    values = RANDOM.normal(size=200) + RANDOM.normal(size=17)[clusters]
    theirs = sm.OLS(values, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    ours = estimates.clustered(values, [f"c{one}" for one in clusters])
    assert (ours.value, ours.stderr) == pytest.approx((theirs.params[0], theirs.bse[0]))
    assert ours.interval() == pytest.approx(tuple(theirs.conf_int()[0]))


def test_the_studentised_bootstrap() -> None:
    values = RANDOM.lognormal(0, 0.8, 80)
    low, high = estimates.bootstrap(values, n_resamples=20_000).interval()
    theirs = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, rng=2).confidence_interval
    # both are right to second order, and of skewed data both reach further up than down
    width = theirs.high - theirs.low
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.15 * width)
    assert high - values.mean() > 1.15 * (values.mean() - low)


def test_a_bootstraps_one_sided_tests_are_its_interval_inverted() -> None:
    ours = estimates.bootstrap(RANDOM.exponential(1, 60), n_resamples=4_000)
    low, high = ours.interval(0.90)
    assert ours.p_above(low) == pytest.approx(0.05, abs=0.002)
    assert ours.p_below(high) == pytest.approx(0.05, abs=0.002)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_holm_and_benjamini_hochberg(n: int) -> None:
    p_values = list(RANDOM.random(n) ** 3)
    p_values[-1] = p_values[0]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert benjamini_hochberg(p_values) == pytest.approx(multipletests(p_values, method="fdr_bh")[1])
    assert none(p_values) == p_values


@pytest.mark.parametrize(("n", "discordance"), [(60, 0.3), (100, 0.1), (300, 0.2), (1_319, 0.05)])
def test_the_smallest_difference_that_is_found_is_found_four_times_in_five(n: int, discordance: float) -> None:
    difference = power.min_detectable_shares(n, discordance)
    share_b = (1 + difference / discordance) / 2
    found = 0.0
    for n_discordant in range(1, n + 1):
        n_b = np.arange(n_discordant + 1)
        p_values = 2 * stats.binom.cdf(np.minimum(n_b, n_discordant - n_b), n_discordant, 0.5)
        of_these = stats.binom.pmf(n_b, n_discordant, share_b)[p_values < 0.05].sum()
        found += stats.binom.pmf(n_discordant, n, discordance) * of_these
    assert 0.79 < found < 0.93


def test_too_few_questions_in_discord_find_nothing_smaller_than_eight_of_them() -> None:
    assert power.min_detectable_shares(100, 0.0) == pytest.approx(0.0785, abs=0.001)
    assert power.min_detectable_shares(5, 0.2) == 1.0


def test_so_many_questions_as_are_said_to_be_needed_do() -> None:
    # 100 questions with an error of 0.03; one wants to stay within 0.02
    n = power.n_needed(100, 0.03, 0.02)
    error = 0.03 * math.sqrt(100 / n)
    assert stats.norm.cdf((0.02 - 1.645 * error) / error) == pytest.approx(0.8, abs=0.005)
