"""Two models on the same questions, against hand-computed McNemar probabilities."""

import pytest
from scipy.stats import binomtest

from eval_pipelines.scoring.paired import compare

pytestmark = pytest.mark.unit


def verdicts(text: str) -> dict[str, float]:
    return {f"s/{i}": float(c) for i, c in enumerate(text)}


def test_it_is_mcnemars_exact_test_by_hand() -> None:
    # 1 question only a got, 5 only b: p = 2 * (C(6,0) + C(6,1)) / 2**6
    found = compare(verdicts("1000000111"), verdicts("0111110111"))
    assert (found.n_a_only, found.n_b_only) == (1, 5)
    assert found.p_value == pytest.approx(2 * (1 + 6) / 64)


@pytest.mark.parametrize(("n_a", "n_b"), [(0, 1), (3, 3), (2, 19), (40, 61)])
def test_it_agrees_with_scipy(n_a, n_b) -> None:
    found = compare(verdicts("1" * n_a + "0" * n_b + "11"), verdicts("0" * n_a + "1" * n_b + "11"))
    assert found.p_value == pytest.approx(binomtest(n_a, n_a + n_b, 0.5).pvalue)


def test_the_difference_is_b_minus_a() -> None:
    assert compare(verdicts("1100"), verdicts("1110")).difference == 0.25


def test_swapping_the_models_changes_only_the_sign() -> None:
    a, b = verdicts("110010"), verdicts("011111")
    one, other = compare(a, b), compare(b, a)
    assert (one.difference, one.p_value) == (-other.difference, other.p_value)


def test_questions_only_one_was_graded_on_are_left_out() -> None:
    found = compare({"x": 1.0, "only a": 1.0}, {"x": 1.0, "only b": 0.0})
    assert (found.n, found.difference) == (1, 0.0)


def test_no_difference_is_not_significant() -> None:
    found = compare(verdicts("101"), verdicts("101"))
    assert (found.p_value, found.is_significant) == (None, False)


def test_nothing_in_common_is_no_comparison() -> None:
    found = compare({"a": 1.0}, {"b": 1.0})
    assert (found.n, found.p_value) == (0, None)


def test_merely_lower_is_not_a_regression() -> None:
    assert not compare(verdicts("1111100000"), verdicts("1111000000")).is_significant


def test_clearly_lower_is_one() -> None:
    assert compare(verdicts("1" * 20), verdicts("1" * 10 + "0" * 10)).is_significant
