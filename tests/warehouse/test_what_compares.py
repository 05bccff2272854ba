"""Which verdicts and which numbers are set beside each other, and which are not: in SQL, in Python and by gates alike."""

import math
import random
from contextlib import closing
from pathlib import Path

import pytest

from eval_pipelines.analysis import comparison, history, leaderboard
from eval_pipelines.analysis.gating import judge_model
from eval_pipelines.config import Gate
from eval_pipelines.reports import comparison as comparison_report
from eval_pipelines.reports._page import Options
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import open_published, query

from .builders import at, evaluation, grade, land, metric

pytestmark = pytest.mark.slow

OTHER = "other@step-1"
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
        finite = [one for one in values if math.isfinite(one)]
        number = metric(math.fsum(finite) / len(finite), n=len(finite), n_asked=N, higher_is_better=False)
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
    assert [one.comparison.n for one in leaderboard.contrasts(with_infinite, leaderboard.rows(with_infinite))] == [
        N - 1
    ] * 3


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


@pytest.fixture(params=["graded_as", "judged_by"])
def differing(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Three checkpoints and a model of another family; the second and the other one were graded in another way."""
    for minute, (model, is_other) in enumerate(((ONE, False), (TWO, True), (THREE, False), (OTHER, True))):
        tried = evaluation(model, recorded_at=at(minute), n_samples=N)
        values = [float(is_other)] * N
        land(tmp_path, tried, values, pairs=(), score_run="first", minute=minute + 0.1)
        if is_other:
            how = {request.param: '[{"reasoning": 1}]'}
            grade(tmp_path, tried, values, score_run="second", minute=minute + 0.2, **how)
    assert publish(tmp_path).failing == ()
    return tmp_path, request.param


def test_what_was_graded_in_another_way_is_not_compared_within_a_family(differing: tuple[Path, str]) -> None:
    root, part = differing
    assert query(root, "FROM comparisons WHERE against = 'previous'") == []
    assert [row["part"] for row in query(
        root, f"FROM why_not_comparable('{ONE}/gsm8k', '{TWO}/gsm8k') WHERE verdict = 'forbids'"
    )] == [part]  # fmt: skip
    with closing(open_published(root)) as connection:
        [pair] = comparison.pairs(connection, ONE, TWO)
        [alike] = comparison.pairs(connection, ONE, THREE)
        course = history.course(connection, "tiny", "gsm8k")
    told = 'nothing and the other through [{"reasoning": 1}]' if part == "graded_as" else "by no model and the other by"
    assert (pair.verdict, pair.found.n, told in pair.why_not) == ("not comparable", 0, True)
    assert "Materialize scores/gsm8k" in pair.why_not
    assert (
        comparison.rows([pair, alike])[0] | {"verdict": "not comparable", "p_holm": None} == comparison.rows([pair])[0]
    )
    assert (alike.verdict, alike.found.n, alike.why_not) == ("inconclusive", N, "")
    assert [(row["verdict"], row["change"], bool(row["why_not"])) for row in course] == [
        (None, None, False), (None, None, True), (None, None, True),
    ]  # fmt: skip


def test_no_checkpoint_is_set_beside_a_predecessor_that_was_graded_in_another_way(differing: tuple[Path, str]) -> None:
    root, _ = differing
    columns = "previous_model_key, is_comparable, previous_value, change, best_so_far, is_best_so_far"
    rows = query(root, f"SELECT {columns} FROM checkpoint_progress WHERE family = 'tiny' ORDER BY step")
    assert [tuple(row.values()) for row in rows] == [
        (None, None, None, None, 0.0, True), (ONE, False, None, None, 1.0, True), (TWO, False, None, None, 0.0, False),
    ]  # fmt: skip
    assert query(root, f"FROM sample_flips('{TWO}', 'gsm8k')") == []
    assert query(root, f"FROM sample_flips('{TWO}', 'gsm8k', against := '{ONE}')") == []


def test_a_report_says_why_two_models_do_not_compare(differing: tuple[Path, str]) -> None:
    with closing(open_published(differing[0])) as connection:
        [page] = comparison_report.make(connection, Options(models=(ONE, TWO)))
    [told] = page.findings
    assert told.startswith("gsm8k: A and B do not compare: one was ")
    assert page.body.count("not comparable") >= 1


def test_what_stands_around_requests_may_differ_between_families_and_judges_may_not(
    differing: tuple[Path, str],
) -> None:
    root, part = differing
    is_compared = part == "graded_as"
    assert len(query(root, f"FROM compare('{ONE}', '{OTHER}')")) == is_compared
    assert len(query(root, f"FROM sample_flips('{OTHER}', 'gsm8k', against := '{ONE}')")) == N * is_compared
    forbids = f"FROM why_not_comparable('{ONE}/gsm8k', '{OTHER}/gsm8k') WHERE verdict = 'forbids'"
    assert (query(root, forbids) == []) == is_compared
    with closing(open_published(root)) as connection:
        [pair] = comparison.pairs(connection, ONE, OTHER)
    assert (pair.verdict == "better") == is_compared
    words = [one.in_words() for one in leaderboard.contrasts(root, leaderboard.rows(root))]
    assert sum("do not compare" in one for one in words) == (2 if is_compared else 4)


def test_no_model_is_compared_with_itself(differing: tuple[Path, str]) -> None:
    rows = query(differing[0], f"FROM compare(model_a := '{ONE}')")
    assert ONE not in {row["model_b"] for row in rows}
    assert THREE in {row["model_b"] for row in rows}
