"""Which verdicts and which numbers are set beside each other, and which are not: in SQL, in Python and by gates alike."""

import math
import random
from contextlib import closing
from pathlib import Path

import pytest

from eval_pipelines.analysis import comparison, history
from eval_pipelines.analysis.gating import judge_model
from eval_pipelines.config import Gate
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import open_published, query

from .builders import at, evaluation, land, metric

pytestmark = pytest.mark.slow

ONE, TWO, THREE = "tiny@step-1", "tiny@step-2", "tiny@step-3"
N = 60


@pytest.fixture
def with_infinite(tmp_path: Path) -> Path:
    """Three checkpoints whose perplexities fall; of the last two, one question's is beyond all numbers."""
    perplexities = [random.Random(3).uniform(5, 20) for _ in range(N)]
    for minute, (model, factor) in enumerate(((ONE, 1.0), (TWO, 0.9), (THREE, 0.8))):
        values = [factor * one for one in perplexities]
        if model != ONE:
            values[5] = math.inf
        number = metric(17.0, n=N, n_asked=N, higher_is_better=False)
        land(tmp_path, evaluation(model, recorded_at=at(minute), n_samples=N), values, metrics=[number], pairs=())
    assert publish(tmp_path).failing == ()
    return tmp_path


def test_an_infinite_verdict_is_left_out_of_every_comparison(with_infinite: Path) -> None:
    rows = query(with_infinite, "FROM comparisons ORDER BY step, against")
    assert [(row["n"], row["verdict"]) for row in rows] == [(N - 1, "better")] * 4
    assert all(math.isfinite(row[name]) for row in rows for name in ("mean_b", "difference", "ci_low", "p_value"))
    assert query(with_infinite, "FROM regressions") == []
    with closing(open_published(with_infinite)) as connection:
        [pair] = comparison.pairs(connection, TWO, THREE)
        course = history.course(connection, "tiny", "gsm8k")
    assert (pair.found.n, pair.found.verdict) == (N - 1, "better")
    assert [row["verdict"] for row in course] == [None, "better", "better"]


@pytest.mark.parametrize(
    ("limits", "decision"), [({"max_value": 20.0}, "GO"), ({"min_coverage": 0.99}, "INCONCLUSIVE")]
)
def test_a_gate_counts_an_infinite_verdict_as_ungraded(
    with_infinite: Path, limits: dict[str, float], decision: str
) -> None:
    gate = Gate.model_validate({"benchmarks": {"gsm8k": {"max_drop": 0.5, **limits}}})
    with closing(open_published(with_infinite)) as connection:
        verdict = judge_model(connection, "release", gate, THREE).verdict
    assert verdict.decision == decision
    assert ("only 59 of 60 questions were graded" in str(verdict.benchmarks)) == (decision == "INCONCLUSIVE")
