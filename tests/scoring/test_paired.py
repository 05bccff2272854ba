"""Two models on the same questions: the data choose the test, and the verdict says no more than they show."""

import numpy as np
import pytest
from scipy.stats import binomtest

from eval_pipelines.errors import ScoringError
from eval_pipelines.scoring.paired import Comparison, compare

pytestmark = pytest.mark.unit


def verdicts(text: str) -> dict[str, float]:
    return {f"s/{i}": float(c) for i, c in enumerate(text)}


def of(values: np.ndarray) -> dict[str, float]:
    return {f"s/{i:05}": float(value) for i, value in enumerate(values)}


def test_it_is_mcnemars_exact_test_by_hand() -> None:
    # 1 question only a got, 5 only b: p = 2 * (C(6,0) + C(6,1)) / 2**6
    found = compare(verdicts("1000000111"), verdicts("0111110111"))
    assert (found.n_a_only, found.n_b_only, found.test) == (1, 5, "mcnemar")
    assert found.p_value == pytest.approx(2 * (1 + 6) / 64)


@pytest.mark.parametrize(("n_a", "n_b"), [(0, 1), (3, 3), (2, 19), (40, 61)])
def test_it_agrees_with_scipy(n_a: int, n_b: int) -> None:
    found = compare(verdicts("1" * n_a + "0" * n_b + "11"), verdicts("0" * n_a + "1" * n_b + "11"))
    assert found.p_value == pytest.approx(binomtest(n_a, n_a + n_b, 0.5).pvalue)


def test_the_difference_is_b_minus_a() -> None:
    found = compare(verdicts("1100"), verdicts("1110"))
    assert (found.difference, found.mean_a, found.mean_b) == (0.25, 0.5, 0.75)


@pytest.mark.parametrize("grades", [2, 5])
def test_swapping_the_models_changes_only_the_sign(grades: int) -> None:
    random = np.random.default_rng(1)
    a, b = (of(random.integers(0, grades, 60) / (grades - 1)) for _ in "ab")
    one, other = compare(a, b), compare(b, a)
    assert (one.difference, one.p_value) == (-other.difference, other.p_value)
    assert (one.n_a_only, one.n_b_only, one.min_detectable) == (other.n_b_only, other.n_a_only, other.min_detectable)
    assert other.ci_high is not None
    assert one.ci_low == pytest.approx(-other.ci_high, abs=0.02)  # a bootstrap's resamples are others


def test_questions_only_one_was_graded_on_are_left_out_and_counted() -> None:
    found = compare({"x": 1.0, "only a": 1.0}, {"x": 1.0, "only b": 0.0, "too": 1.0})
    assert (found.n, found.difference, found.n_only_in_a, found.n_only_in_b) == (1, 0.0, 1, 2)


def test_no_difference_is_not_significant() -> None:
    found = compare(verdicts("101"), verdicts("101"))
    assert (found.p_value, found.is_significant, found.verdict) == (None, False, "inconclusive")


def test_nothing_in_common_is_no_comparison() -> None:
    found = compare({"a": 1.0}, {"b": 1.0})
    assert (found.n, found.p_value, found.ci_low, found.verdict) == (0, None, None, "inconclusive")


def test_merely_lower_is_not_a_regression() -> None:
    assert compare(verdicts("1111100000"), verdicts("1111000000")).verdict == "inconclusive"


def test_clearly_lower_is_one_in_the_metrics_own_direction() -> None:
    a, b = verdicts("1" * 20), verdicts("1" * 10 + "0" * 10)
    assert compare(a, b).verdict == "worse"
    assert compare(a, b, higher_is_better=False).verdict == "better"


def test_means_of_several_answers_are_no_business_of_mcnemars() -> None:
    # b is a little better on 12 questions, a is much better on 8: by the sign of each alone b would be ahead
    a = of(np.repeat([0.25, 1.0], [12, 8]))
    b = of(np.repeat([0.50, 0.0], [12, 8]))
    found = compare(a, b)
    assert (found.test, found.n_b_only, found.n_a_only) == ("permutation", 12, 8)
    assert found.difference == pytest.approx(-0.25)
    assert found.p_value == pytest.approx(exact_sign_flip(np.repeat([0.25, -1.0], [12, 8])), abs=0.01)


def exact_sign_flip(differences: np.ndarray) -> float:
    sums = np.zeros(1)
    for size in np.abs(differences):
        sums = np.concatenate([sums + size, sums - size])
    return float((np.abs(sums) >= abs(differences.sum()) - 1e-9).mean())


def test_a_passage_with_many_questions_is_one_observation() -> None:
    # five passages of 20 questions each; on three of them b gets all that a does not, on two the reverse
    a, b = of(np.repeat([0, 0, 0, 1, 1], 20)), of(np.repeat([1, 1, 1, 0, 0], 20))
    alone = compare(a, b)
    grouped = compare(a, b, clusters={key: f"passage {i // 20}" for i, key in enumerate(sorted(a))})
    assert alone.p_value is not None
    assert alone.p_value < 0.06
    assert (grouped.test, grouped.ci_method, grouped.n_clusters) == ("clustered_permutation", "clustered", 5)
    assert grouped.p_value == pytest.approx(1.0)
    assert grouped.ci_low is not None
    assert alone.ci_low is not None
    assert grouped.ci_low < alone.ci_low - 0.5


def test_groups_of_one_question_are_no_groups() -> None:
    a, b = verdicts("1100"), verdicts("1110")
    assert compare(a, b, clusters={key: key for key in a}) == compare(a, b)


def test_equivalence_is_shown_not_assumed() -> None:
    few, many = compare(*halves(60), margin=0.02), compare(*halves(20_000), margin=0.02)
    assert (few.verdict, many.verdict) == ("inconclusive", "equivalent")


def test_a_difference_of_no_consequence_is_equivalent_even_if_it_is_significant() -> None:
    random = np.random.default_rng(0)
    a = (random.random(100_000) < 0.7).astype(float)
    b = np.where(random.random(100_000) < 0.004, 1 - a, a)
    b[:300] = 0.0
    found = compare(of(a), of(b), margin=0.01)
    assert found.is_significant
    assert (found.verdict, compare(of(a), of(b)).verdict) == ("equivalent", "worse")


def halves(n: int) -> tuple[dict[str, float], dict[str, float]]:
    random = np.random.default_rng(3)
    a = (random.random(n) < 0.5).astype(float)
    return of(a), of(np.where(random.random(n) < 0.1, 1 - a, a))


def test_two_models_that_agree_everywhere_still_have_an_interval() -> None:
    found = compare(verdicts("1" * 30), verdicts("1" * 30))
    assert found.ci_high is not None
    assert 0.05 < found.ci_high < 0.12  # the rule of three says 0.1


def test_the_same_data_give_the_same_numbers() -> None:
    random = np.random.default_rng(5)
    a, b = of(random.random(400)), of(random.random(400))
    assert compare(a, b) == compare(dict(reversed(a.items())), b)
    assert compare(a, b).ci_method == "bootstrap"


def test_a_verdict_that_is_no_number_is_named() -> None:
    with pytest.raises(ScoringError, match="s/1 has the verdict inf"):
        compare({"s/0": 1.0, "s/1": float("inf")}, verdicts("11"))


def test_a_comparison_can_be_made_of_its_first_five_numbers() -> None:
    assert Comparison(n=10, difference=0.2, n_a_only=1, n_b_only=3, p_value=0.6).verdict == "inconclusive"
