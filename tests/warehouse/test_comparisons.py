"""compare, comparisons and regressions: the same numbers as the Python functions, on random data."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval_pipelines.records import Sample
from eval_pipelines.scoring import estimates, power
from eval_pipelines.scoring.multiplicity import benjamini_hochberg, holm
from eval_pipelines.scoring.paired import Comparison, compare, groups_of
from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import query

from .builders import at, evaluation, land, metric

pytestmark = pytest.mark.slow

RANDOM = np.random.default_rng(12)
KINDS = (
    "binary", "same", "graded", "few", "shifted", "perplexity", "clustered", "two_passages", "same_clustered", "uneven",
    "perplexity_clustered",
)  # fmt: skip
# of four questions two are shared: fewer than McNemar's power is defined for
CELLS = (*((kind, n) for kind in KINDS for n in (7, 230)), ("binary", 4))
SHARED = ("n", "mean_a", "mean_b", "difference", "n_a_only", "n_b_only", "n_clusters", "n_only_in_a", "n_only_in_b")


def values(kind: str, n: int) -> np.ndarray:
    skill = RANDOM.beta(1, 1, n)
    match kind:
        case "graded":
            return RANDOM.binomial(4, skill) / 4
        case "few":
            return np.where(np.arange(n) % 9 == 0, RANDOM.random(n), 1.0)
        case "perplexity" | "perplexity_clustered":
            return RANDOM.lognormal(2, 0.5, n)
        case "same" | "same_clustered":
            return np.ones(n)
        case "shifted":
            return np.full(n, RANDOM.integers(1, 8) / 8)
        case _:
            return (RANDOM.random(n) < skill).astype(float)


def passages(kind: str, n: int) -> dict[str, str]:
    per = {
        "clustered": 5,
        "two_passages": -(-n // 2),
        "same_clustered": 2,
        "uneven": n // 3,
        "perplexity_clustered": 2,
    }.get(kind)
    # of uneven groups one is large, and the other questions are alone
    n_grouped = n // 3 if kind == "uneven" else n
    return {f"main/{i}": f"passage {i // per}" for i in range(n_grouped)} if per else {}


def put(root: Path, model: str, benchmark: str, given: Iterable[float | None], *, minute: float) -> dict[str, float]:
    listed = [None if value is None else float(value) for value in given]
    land(root, evaluation(model, benchmark, recorded_at=at(minute), n_samples=len(listed)), listed, pairs=())
    return {f"main/{i}": value for i, value in enumerate(listed) if value is not None}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, str], dict[str, float]]]:
    """Three checkpoints on benchmarks of every kind and size; some questions ungraded."""
    root = tmp_path_factory.mktemp("world")
    found: dict[tuple[str, str], dict[str, float]] = {}
    for kind, n in CELLS:
        benchmark = f"{kind}_{n}"
        samples = [
            Sample(
                sample_id=f"main/{i}", subtask="main", question="?", target="!", n_requests=1,
                cluster=passages(kind, n).get(f"main/{i}"),
            )
            for i in range(n)
        ]  # fmt: skip
        Landing(root).land_samples(benchmark, "1.0-aaaa", samples)
        for step in (100, 200, 300):
            given: list[float | None] = list(values(kind, n))
            given[step // 100] = None
            found[f"tiny@step-{step}", benchmark] = put(root, f"tiny@step-{step}", benchmark, given, minute=step)
    assert publish(root).failing == ()
    return root, found


def of_python(row: dict[str, Any], found: dict[tuple[str, str], dict[str, float]]) -> Comparison:
    a, b = found[row["model_a"], row["benchmark"]], found[row["model_b"], row["benchmark"]]
    kind, _, n = row["benchmark"].rpartition("_")
    return compare(a, b, clusters=passages(kind, int(n)))


def test_sql_and_python_agree(world: tuple[Path, dict[tuple[str, str], dict[str, float]]]) -> None:
    root, found = world
    rows = query(root, "FROM comparisons WHERE against = 'previous'")
    assert len(rows) == 2 * len(CELLS)
    tests = set()
    for row in rows:
        python, where = of_python(row, found), f"{row['benchmark']} {row['model_b']}"
        assert [row[name] for name in SHARED] == pytest.approx([getattr(python, name) for name in SHARED]), where
        tests.add(row["test"])
        if row["test"] == "mcnemar":
            assert row["p_value"] == (None if python.p_value is None else pytest.approx(python.p_value)), where
            assert (row["ci_low"], row["ci_high"]) == pytest.approx((python.ci_low, python.ci_high)), where
            assert row["min_detectable"] == pytest.approx(python.min_detectable), where
            assert (row["ci_method"], row["verdict"]) == (python.ci_method, python.verdict), where
            continue
        check_graded(row, python, found, where)
    assert tests == {"mcnemar", "t", "clustered_t"}


def check_graded(
    row: dict[str, Any], python: Comparison, found: dict[tuple[str, str], dict[str, float]], where: str
) -> None:
    """SQL has Student's t where Python resamples: equal to our t, and near to the resampled one."""
    a, b = found[row["model_a"], row["benchmark"]], found[row["model_b"], row["benchmark"]]
    keys = sorted(a.keys() & b.keys())
    difference = np.array([b[key] - a[key] for key in keys])
    kind, _, n = row["benchmark"].rpartition("_")
    groups = groups_of(keys, passages(kind, int(n)))
    mine = estimates.clustered(difference, groups) if groups else estimates.students_t(difference)
    n_different = int((difference != 0).sum())
    least = 2.0 ** (1 - min(n_different, len({*groups}) if groups else n_different, 49))
    two_sided = max(2 * min(mine.p_above(0), mine.p_below(0)), least)
    if python.p_value is None:
        two_sided = None
    if groups and kind != "perplexity_clustered":
        mine = estimates.adjusted_clustered(difference, groups)
    assert row["p_value"] == (None if two_sided is None else pytest.approx(min(1, two_sided), abs=1e-5)), where
    if python.ci_method == "adjusted_wald":
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((python.ci_low, python.ci_high)), where
    elif mine.df >= 3:
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(mine.interval(), abs=0.02 * mine.stderr), where
        assert row["min_detectable"] == pytest.approx(power.min_detectable(mine.stderr)), where
    else:
        assert (row["ci_low"], row["ci_high"], row["ci_method"]) == (None, None, "clustered"), where
    if row["test"] == "t" and len(keys) > 200 and python.p_value is not None:
        assert row["p_value"] == pytest.approx(python.p_value, abs=0.04), where


def test_a_checkpoint_is_compared_with_the_best_before_it(world: tuple[Path, Any]) -> None:
    root, _ = world
    rows = query(root, "SELECT * FROM comparisons WHERE benchmark = 'binary_230' AND against = 'best' ORDER BY step")
    value = {row["model_key"]: row["value"] for row in query(root, "FROM leaderboard WHERE benchmark = 'binary_230'")}
    steps = [f"tiny@step-{step}" for step in (100, 200, 300)]
    for i, row in enumerate(rows, start=1):
        assert row["model_a"] == max(steps[:i], key=lambda key: value[key])
    # seven questions are too few to be the best on
    assert query(root, "FROM comparisons WHERE benchmark = 'binary_7' AND against = 'best'") == []


def test_any_two_models_and_a_margin(world: tuple[Path, dict[tuple[str, str], dict[str, float]]]) -> None:
    root, found = world
    call = "FROM compare('tiny@step-300', 'tiny@step-100', margin := 0.2) WHERE test = 'mcnemar'"
    rows = query(root, call)
    assert {row["against"] for row in rows} == {"named"}
    assert {row["verdict"] for row in rows} == {"equivalent", "inconclusive"}
    for row in rows:
        a, b = found["tiny@step-300", row["benchmark"]], found["tiny@step-100", row["benchmark"]]
        assert row["verdict"] == compare(a, b, margin=0.2).verdict
    assert query(root, "FROM compare('tiny@step-300', 'nobody@1')") == []
    both = query(root, "SELECT DISTINCT model_a, against FROM compare(model_b := 'tiny@step-200') ORDER BY ALL")
    assert [(row["model_a"], row["against"]) for row in both] == [
        ("tiny@step-100", "best"),
        ("tiny@step-100", "previous"),
    ]


def test_equivalent_is_shown_by_the_same_test_in_sql(tmp_path: Path) -> None:
    # questions, those only the first gets right, those only the second
    cells = ((300, 0, 0), (320, 0, 0), (100, 2, 0), (100, 0, 2), (120, 3, 3), (200, 1, 6), (90, 0, 1), (25, 25, 0))
    given: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
    for n, lost, won in cells:
        first = [1.0] * lost + [0.0] * won + [1.0] * (n - lost - won)
        second = [0.0] * lost + [1.0] * won + [1.0] * (n - lost - won)
        name = f"b{n}_{lost}_{won}"
        given[name] = (
            put(tmp_path, "tiny@step-1", name, first, minute=1),
            put(tmp_path, "tiny@step-2", name, second, minute=2),
        )
    publish(tmp_path)
    shown = set()
    for margin in (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.2, 1.0, 1.5):
        for row in query(tmp_path, f"FROM compare('tiny@step-1', 'tiny@step-2', margin := {margin})"):
            a, b = given[row["benchmark"]]
            assert row["verdict"] == compare(a, b, margin=margin).verdict, (row["benchmark"], margin)
            shown.add((row["benchmark"], margin, row["verdict"]))
    # where the interval alone would do
    assert ("b300_0_0", 0.01, "inconclusive") in shown
    assert ("b320_0_0", 0.01, "equivalent") in shown


def test_a_number_that_is_no_mean_of_verdicts_is_a_regression_only_where_it_is_worse_itself(tmp_path: Path) -> None:
    verdicts = {"tiny@step-1": [1.0] * 60, "tiny@step-2": [0.0] * 20 + [1.0] * 40}
    quoted = {"f1_up": (0.5, 0.6), "f1_down": (0.6, 0.5), "mean": (1.0, 40 / 60)}
    for minute, (model, values) in enumerate(verdicts.items()):
        for benchmark, numbers in quoted.items():
            what = evaluation(model, benchmark, recorded_at=at(minute), n_samples=60)
            land(tmp_path, what, values, pairs=(), metrics=[metric(numbers[minute], n=60, n_asked=60)])
    publish(tmp_path)
    told = (
        "SELECT benchmark, is_mean, value_a, value_b, verdict FROM comparisons WHERE against = 'previous' ORDER BY ALL"
    )
    assert [tuple(row.values()) for row in query(tmp_path, told)] == [
        ("f1_down", False, 0.6, 0.5, "worse"),
        ("f1_up", False, 0.5, 0.6, "worse"),
        ("mean", True, 1.0, 40 / 60, "worse"),
    ]
    found = query(tmp_path, "SELECT benchmark FROM regressions WHERE against = 'previous' ORDER BY ALL")
    assert [row["benchmark"] for row in found] == ["f1_down", "mean"]


def test_regressions_are_corrected_for_the_number_of_benchmarks(tmp_path: Path) -> None:
    n = 60
    worse = {"a": 20, "b": 6, "c": 6, "d": 6, "e": 6, "f": 0}
    for minute, model in enumerate(("tiny@step-1", "tiny@step-2")):
        for benchmark, n_lost in worse.items():
            lost = n_lost if model == "tiny@step-2" else 0
            put(tmp_path, model, benchmark, [0.0] * lost + [1.0] * (n - lost), minute=minute)
    publish(tmp_path)
    rows = query(tmp_path, "FROM comparisons WHERE against = 'previous' ORDER BY benchmark")
    p_values = [1.0 if row["p_value"] is None else row["p_value"] for row in rows]
    assert p_values == pytest.approx([2.0**-19, *[2.0**-5] * 4, 1.0])
    found = query(tmp_path, "FROM regressions WHERE against = 'previous' ORDER BY benchmark")
    assert [row["benchmark"] for row in found] == ["a", "b", "c", "d", "e"]
    assert [row["p_holm"] for row in found] == pytest.approx(holm(p_values)[:5])
    assert [row["p_benjamini_hochberg"] for row in found] == pytest.approx(benjamini_hochberg(p_values)[:5])
    assert [row["is_certain"] for row in found] == [True, False, False, False, False]
    assert {row["n_tests"] for row in found} == {6}
    improved = query(
        tmp_path, "SELECT count(*) AS n FROM compare('tiny@step-2', 'tiny@step-1') WHERE verdict = 'better'"
    )
    assert improved == [{"n": 5}]
