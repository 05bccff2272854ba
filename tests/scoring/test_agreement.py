"""Agreement of judges, against examples that were published with their results."""

import pytest

from eval_pipelines.scoring.agreement import (
    alpha_interval,
    cohens_kappa,
    fleiss_kappa,
    kappa_interval,
    krippendorffs_alpha,
    shares_of_agreeing_pairs,
)

pytestmark = pytest.mark.unit


def by_judge(*rows: str) -> list[list[float | None]]:
    """Rows of judges, `*` where one says nothing, as units."""
    return [
        [None if one == "*" else float(one) for one in unit] for unit in zip(*(r.split() for r in rows), strict=True)
    ]


# Krippendorff (2011), section D: four judges, twelve units
KRIPPENDORFF = by_judge(
    "1 2 3 3 2 1 4 1 2 * * *",
    "1 2 3 3 2 2 4 1 2 5 * 3",
    "* 3 3 3 2 3 4 2 2 5 1 *",
    "1 2 3 3 2 4 4 1 2 5 1 *",
)
# Fleiss (1971) as the example is usually given: fourteen judges, ten units, how many say 1 to 5
FLEISS = [
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip


def test_alpha_is_the_published_one_for_labels_and_for_numbers_with_missing_verdicts() -> None:
    assert krippendorffs_alpha(KRIPPENDORFF) == pytest.approx(0.743, abs=5e-4)
    assert krippendorffs_alpha(KRIPPENDORFF, are_numbers=True) == pytest.approx(0.849, abs=5e-4)


def test_kappa_of_two_is_the_published_one() -> None:
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert cohens_kappa(pairs) == pytest.approx(0.4)
    assert cohens_kappa([*pairs, ("yes", None)]) == pytest.approx(0.4), "a unit one is silent on counts for nothing"


def test_kappa_of_several_is_the_published_one() -> None:
    units = [[str(value) for value, n in enumerate(row, 1) for _ in range(n)] for row in FLEISS]
    assert fleiss_kappa(units) == pytest.approx(0.210, abs=5e-4)
    assert sum(shares_of_agreeing_pairs(units)) / 10 == pytest.approx(0.378, abs=5e-4)


def test_where_all_always_say_one_thing_there_is_nothing_beyond_chance_to_measure() -> None:
    same = [["yes", "yes"]] * 5
    assert shares_of_agreeing_pairs(same) == [1.0] * 5
    assert (cohens_kappa(same), fleiss_kappa(same), krippendorffs_alpha(same)) == (None, None, None)
    assert krippendorffs_alpha([["yes", None]]) is None


def test_opposite_judges_agree_less_than_by_chance() -> None:
    opposite = [["yes", "no"], ["no", "yes"]] * 10
    assert cohens_kappa(opposite) == pytest.approx(-1)
    assert (krippendorffs_alpha(opposite) or 0) < -0.9


def test_intervals_hold_the_estimate_and_are_the_same_each_time() -> None:
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    fleiss = [[str(value) for value, n in enumerate(row, 1) for _ in range(n)] for row in FLEISS]
    for interval, again, estimate in (
        (alpha_interval(KRIPPENDORFF), alpha_interval(KRIPPENDORFF), 0.743),
        (kappa_interval(pairs), kappa_interval(pairs), 0.4),
        (kappa_interval(fleiss), kappa_interval(fleiss), 0.210),
    ):
        assert interval is not None
        assert interval == again
        assert interval[0] < estimate < interval[1]
    # Cohen (1960): its large-sample error is 0.13 here
    low, high = kappa_interval(pairs) or (0, 0)
    assert (high - low) / (2 * 1.96) == pytest.approx(0.13, abs=0.02)
    assert kappa_interval([["yes", "yes"]] * 5) is None
