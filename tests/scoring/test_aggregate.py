"""A number and what it is worth, against scipy."""

import statistics

import pytest
from scipy.stats import binomtest

from eval_pipelines.errors import ScoringError
from eval_pipelines.scoring.aggregate import Verdicts, metric_of
from eval_pipelines.scoring.intervals import interval, standard_error, wilson

pytestmark = pytest.mark.unit


def metric(raw, n_asked, **fields):
    return metric_of(Verdicts(raw=list(raw), n_asked=n_asked, **fields), "", "acc", "none", is_headline=True)


@pytest.mark.parametrize(("n_right", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (7, 20), (621, 1303), (1, 10_000)])
def test_the_interval_of_a_share_is_wilsons(n_right, n) -> None:
    expected = binomtest(n_right, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(n_right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_standard_error_is_the_sample_deviation_over_root_n() -> None:
    values = [1.0, 0.0, 0.0, 1.0, 1.0]
    assert standard_error(values) == pytest.approx(statistics.stdev(values) / 5**0.5)


def test_one_value_has_no_standard_error() -> None:
    assert standard_error([1.0]) is None


def test_values_between_zero_and_one_get_the_normal_interval() -> None:
    values = [0.2, 0.4, 0.9]
    error = standard_error(values)
    assert error is not None
    assert interval(values) == pytest.approx((0.5 - 1.959964 * error, 0.5 + 1.959964 * error), abs=1e-6)


def test_one_value_that_is_no_share_has_no_interval() -> None:
    assert interval([0.4]) == (None, None)


def test_full_coverage_has_bounds_equal_to_the_value() -> None:
    found = metric([1, 0, 1, 1], 4)
    assert (found.value, found.bound_low, found.bound_high, found.coverage) == (0.75, 0.75, 0.75, 1.0)


def test_what_is_not_graded_widens_the_bounds_and_leaves_the_value() -> None:
    found = metric([1, 0, 1, 1], 10)
    assert (found.value, found.bound_low, found.bound_high, found.coverage) == (0.75, 0.3, 0.9, 0.4)


def test_nothing_graded_is_no_zero() -> None:
    found = metric([], 10)
    assert (found.value, found.stderr, found.ci_low, found.ci_high) == (None, None, None, None)
    assert (found.n, found.coverage, found.bound_low, found.bound_high) == (0, 0.0, 0.0, 1.0)


def test_of_nothing_graded_the_bounds_are_known_only_of_shares() -> None:
    found = metric([], 10, are_shares=False)
    assert (found.n, found.coverage, found.bound_low, found.bound_high) == (0, 0.0, None, None)
    whole = Verdicts(n_asked=1)
    whole.extend(Verdicts(n_asked=2, are_shares=False))
    assert not whole.are_shares


def test_an_aggregation_that_raises_is_told_by_its_name() -> None:
    def spread(values: list[float]) -> float:
        return 1 / (max(values) - min(values))

    with pytest.raises(
        ScoringError, match=r"the aggregation spread of acc raised ZeroDivisionError: .*test_aggregate.py:"
    ):
        metric([1.0, 1.0], 2, combine=spread)


def test_values_beyond_one_have_no_bounds() -> None:
    found = metric([12.5, 3.0], 4)
    assert (found.bound_low, found.bound_high) == (None, None)


def test_an_aggregation_of_its_own_is_used_and_resampled_for_its_error() -> None:
    found = metric([1.0, 3.0, 2.0], 3, combine=max)
    assert (found.value, found.ci_method, found.bound_low) == (3.0, "bootstrap", None)
    assert found.stderr is not None
    assert found.ci_low is not None
    assert 0 < found.stderr < 1
    assert 1 <= found.ci_low <= found.value == found.ci_high


def test_subtasks_are_pooled_sample_by_sample() -> None:
    whole = Verdicts()
    whole.extend(Verdicts(raw=[1.0], n_asked=1))
    whole.extend(Verdicts(raw=[0.0, 0.0, 0.0], n_asked=4))
    found = metric_of(whole, "", "acc", "none", is_headline=False)
    assert (found.value, found.n, found.n_asked) == (0.25, 4, 5)


def test_the_direction_travels_with_the_number() -> None:
    assert metric([1.0], 1, higher_is_better=False).higher_is_better is False
