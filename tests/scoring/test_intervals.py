"""Errors and intervals of means and of other aggregations, against statsmodels, scikit-learn and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval_pipelines.scoring import bootstrap
from eval_pipelines.scoring.aggregate import Verdicts, metric_of
from eval_pipelines.scoring.intervals import of_mean, standard_error, wilson

pytestmark = pytest.mark.unit

few = st.sampled_from(["p", "q", "r", "s", None])
graded = st.lists(st.tuples(st.floats(0, 1), few), min_size=3, max_size=40)


@given(graded)
def test_the_clustered_error_is_that_of_statsmodels(rows) -> None:
    import statsmodels.api as sm

    values = [value for value, _ in rows]
    groups = [f"alone {i}" if cluster is None else cluster for i, (_, cluster) in enumerate(rows)]
    found = of_mean(values, [cluster for _, cluster in rows])
    numbers = np.unique(groups, return_inverse=True)[1]
    if len(set(groups)) < 2:
        assert (found.stderr, found.method) == (None, None)
        return
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": numbers})
    assert found.stderr == pytest.approx(float(fit.bse[0]), abs=1e-9)
    if len(set(groups)) < len(values):
        assert found.n_clusters == len(set(groups))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_clusters_of_one_question_change_nothing(values) -> None:
    assert of_mean(values, [str(i) for i in range(len(values))]) == of_mean(values)
    assert of_mean(values).stderr == standard_error(values)


def test_questions_that_repeat_each_other_count_once() -> None:
    alone = of_mean([1.0, 0.0, 1.0, 0.0])
    fourfold = of_mean([1.0, 0.0, 1.0, 0.0] * 4, ["a", "b", "c", "d"] * 4)
    assert fourfold.stderr == pytest.approx(alone.stderr)
    assert alone.low is not None
    assert fourfold.low == pytest.approx(wilson(0.5 * 3, 3)[0])  # n - 1 of n: the error divides by that


def test_all_right_in_few_passages_is_no_certainty() -> None:
    found = of_mean([1.0] * 100, [str(i // 25) for i in range(100)])
    assert found.low == pytest.approx(wilson(4, 4)[0])


@pytest.mark.parametrize(
    ("n_passages", "of_each"), [(2, [1, 0, 0]), (50, [1, 0, 0]), (50, [1] + [0] * 6), (50, [1, 0])]
)
def test_passages_of_equal_shares_count_once_each(n_passages, of_each) -> None:
    found = of_mean(of_each * n_passages, [str(i) for i in range(n_passages) for _ in of_each])
    share = sum(of_each) / len(of_each)
    assert found.stderr == 0
    assert (found.low, found.high) == pytest.approx(wilson(share * n_passages, n_passages))


def test_passages_that_differ_less_than_chance_count_as_no_more_questions_than_they_have() -> None:
    values, clusters = [1, 0, 0, 0] * 49 + [1, 1, 0, 0], [str(i) for i in range(50) for _ in range(4)]
    found = of_mean(values, clusters)
    assert (found.low, found.high) == pytest.approx(wilson(sum(values), len(values)))


def test_an_interval_of_a_mean_of_shares_stays_among_shares() -> None:
    found = of_mean([0.9, 1.0, 1.0, 0.95])
    assert found.high == 1.0
    assert of_mean([5.0, 9.0, 1.0]).high > 9.0


def test_clustered_intervals_cover_and_plain_ones_do_not() -> None:
    rng = np.random.default_rng(5)
    covered = {"clustered": 0, "wilson": 0}
    for _ in range(400):
        chances = rng.beta(2, 2, size=60)  # of each passage; their mean is 0.5
        values = (rng.random((60, 5)) < chances[:, None]).astype(float).ravel().tolist()
        clusters = [str(i // 5) for i in range(300)]
        for found in (of_mean(values, clusters), of_mean(values)):
            covered[str(found.method)] += found.low <= 0.5 <= found.high
    assert 0.92 <= covered["clustered"] / 400 <= 0.98
    assert covered["wilson"] / 400 < 0.92


labels = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=8, max_size=60)
classes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=8, max_size=60)
weighted = st.lists(st.tuples(st.floats(-50, -0.1), st.integers(1, 40)), min_size=3, max_size=30)
logs = st.lists(st.floats(-6, -0.1), min_size=3, max_size=30)
chances = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.floats(0, 1), min_size=3, max_size=3)), min_size=3, max_size=9
)
unknown = st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), min_size=3, max_size=30)
CASES = {
    "f1_score": labels, "matthews_corrcoef": classes, "weighted_perplexity": weighted, "bits_per_byte": weighted,
    "perplexity": logs, "brier_score": chances, "nanmean": unknown,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_value_from_sums_is_the_value_of_lm_evals_own_aggregation(name) -> None:
    import lm_eval.api.metrics as theirs

    @given(CASES[name])
    def holds(raw) -> None:
        rows, value_of = bootstrap._SUMMED[name]
        with np.errstate(all="ignore"):
            ours = float(value_of(rows(raw).sum(axis=0)[None])[0])
            reference = float(getattr(theirs, name)(raw))
        assert ours == pytest.approx(reference, nan_ok=True, rel=1e-9, abs=1e-12)

    holds()


@pytest.mark.parametrize("name", ["perplexity", "matthews_corrcoef", "f1_score", "weighted_perplexity"])
def test_the_bootstrapped_error_is_lm_evals_within_chance(name, monkeypatch) -> None:
    import lm_eval.api.metrics as theirs

    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    rng = np.random.default_rng(3)
    if name in ("f1_score", "matthews_corrcoef"):
        gold = rng.integers(0, 2, 80)
        raw = [(int(g), int(g if rng.random() < 0.8 else 1 - g)) for g in gold]
    elif name == "perplexity":
        raw = rng.uniform(-3, -0.1, 80).tolist()
    else:
        raw = [(float(one), 5) for one in rng.uniform(-30, -1, 80)]
    combine = getattr(theirs, name)
    found = bootstrap.of_aggregate(combine, raw)
    reference = theirs._bootstrap_internal(combine, 400)((1, raw))
    assert found.stderr == pytest.approx(theirs.sample_stddev(reference), rel=0.2)
    assert found == bootstrap.of_aggregate(combine, raw), "the same each time"


def test_a_bootstrapped_interval_covers_a_skewed_number() -> None:
    from lm_eval.api.metrics import perplexity

    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(300):
        found = bootstrap.of_aggregate(perplexity, (-rng.exponential(1.0, 60)).tolist())
        covered += found.low <= math.e <= found.high
    assert 0.9 <= covered / 300 <= 0.98


def test_passages_are_resampled_whole() -> None:
    from lm_eval.api.metrics import perplexity

    values = [-0.2, -1.0, -2.0, -0.5, -0.1, -3.0]
    alone = bootstrap.of_aggregate(perplexity, values)
    fourfold = bootstrap.of_aggregate(perplexity, values * 4, [str(i) for i in range(6)] * 4)
    assert fourfold.n_clusters == 6
    assert fourfold.stderr == pytest.approx(alone.stderr)


def test_an_aggregation_that_is_slow_has_no_error_rather_than_a_long_wait(monkeypatch) -> None:
    monkeypatch.setattr(bootstrap, "_SLOW_S", -1.0)
    assert bootstrap.of_aggregate(max, [1.0, 2.0, 3.0]).stderr is None


def test_an_aggregation_that_cannot_take_a_resample_keeps_its_value() -> None:
    def of_the_rare(raw: list[tuple[str, float]]) -> float:
        return dict(raw)["rare"]

    def beyond_all_numbers(raw: list[float]) -> float:
        return math.exp(1000 * len(raw))

    rare = Verdicts(combine=of_the_rare, raw=[("rare", 0.5), *[("x", 1.0)] * 20], n_asked=21)
    found = metric_of(rare, "", "m", "none", is_headline=True)
    assert (found.value, found.stderr) == (0.5, 0.0)
    vast = metric_of(Verdicts(combine=beyond_all_numbers, raw=[1.0, 2.0], n_asked=2), "", "m", "none", is_headline=True)
    assert (vast.value, vast.stderr) == (math.inf, None)


def test_a_hundred_thousand_questions_are_resampled_in_seconds() -> None:
    import time

    from lm_eval.api.metrics import weighted_perplexity

    raw = [(-float(i % 7), 1 + i % 5) for i in range(100_000)]
    started = time.process_time()
    assert bootstrap.of_aggregate(weighted_perplexity, raw).method == "bootstrap"
    assert time.process_time() - started < 10
