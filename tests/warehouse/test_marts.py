"""The marts' rules: which number is the number."""

from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import query

from .builders import at, evaluation, grade, land, metric, samples

pytestmark = pytest.mark.slow

ONE, TWO = "tiny@step-100", "tiny@step-200"


def rows(root: Path, sql: str) -> list[tuple[Any, ...]]:
    """Publish, expect no failing test, and query."""
    assert publish(root).failing == ()
    return [tuple(row.values()) for row in query(root, sql)]


def test_of_two_tries_the_newest_within_its_budget_is_quoted(tmp_path: Path) -> None:
    land(tmp_path, evaluation(run_id="old"), (0, 0, 0, 0))
    land(tmp_path, evaluation(run_id="new", recorded_at=at(5)), (1, 1, 0, 0))
    broken = evaluation(run_id="broken", recorded_at=at(9), is_within_budget=False, n_failed=3)
    land(tmp_path, broken.model_copy(update={"failures": '{"timeout": 1, "overloaded": 2}'}), (1, None, None, None))

    assert rows(tmp_path, "SELECT run_id, value FROM latest_metrics") == [("new", 0.5)]
    history = rows(tmp_path, "SELECT run_id, is_within_budget, is_latest FROM metric_history")
    assert history == [("old", True, False), ("new", True, True), ("broken", False, False)]


def test_a_trial_on_few_samples_does_not_replace_the_whole(tmp_path: Path) -> None:
    land(tmp_path, evaluation(run_id="whole", n_samples=4), (1, 1, 1, 0))
    land(tmp_path, evaluation(run_id="trial", n_samples=2, recorded_at=at(5)), (0, 0))

    assert rows(tmp_path, "SELECT run_id, n FROM leaderboard") == [("whole", 4)]


def test_overwritten_weights_replace_the_number_even_from_a_smaller_try(tmp_path: Path) -> None:
    land(tmp_path, evaluation(n_samples=4), (1, 1, 1, 0))
    land(tmp_path, evaluation(n_samples=2, fingerprint="new-bytes", recorded_at=at(5)), (0, 0))

    assert rows(tmp_path, "SELECT fingerprint, value FROM leaderboard") == [("new-bytes", 0.0)]


def test_a_new_prompt_makes_older_numbers_incomparable_until_they_are_asked_again(tmp_path: Path) -> None:
    land(tmp_path, evaluation(ONE), (1, 1, 1, 1))
    land(tmp_path, evaluation(TWO, ask_version="2.0-bbbb", recorded_at=at(5)), (1, 0, 0, 0))

    assert rows(tmp_path, "SELECT model_key, rank, value FROM leaderboard") == [(TWO, 1, 0.25)]
    grid = rows(tmp_path, "SELECT model_key, status, has_number FROM grid ORDER BY 1")
    assert grid == [(ONE, "outdated", False), (TWO, "scored", True)]


def test_a_new_scorer_replaces_the_numbers_it_has_graded_and_hides_the_rest(tmp_path: Path) -> None:
    first = land(tmp_path, evaluation(ONE), (1, 1, 1, 1))
    land(tmp_path, evaluation(TWO, recorded_at=at(5)), (1, 0, 0, 0))
    grade(tmp_path, first, (1, 1, 0, 0), score_version="s2", minute=20)

    assert rows(tmp_path, "SELECT model_key, score_version, value FROM latest_metrics") == [(ONE, "s2", 0.5)]


def test_regrading_an_old_version_of_the_benchmark_does_not_bring_it_back(tmp_path: Path) -> None:
    old = land(tmp_path, evaluation(ONE), (1, 1, 1, 1))
    land(tmp_path, evaluation(TWO, ask_version="2.0-bbbb", recorded_at=at(5)), (1, 0, 0, 0))
    grade(tmp_path, old, (0, 0, 0, 0), score_version="s2", minute=90)

    assert rows(tmp_path, "SELECT model_key, ask_version FROM latest_metrics") == [(TWO, "2.0-bbbb")]


def test_graded_twice_by_one_scorer_version_the_newest_grading_wins_as_a_whole(tmp_path: Path) -> None:
    extra = [metric(1.0), metric(0.9, metric="gone", is_headline=False)]
    what = land(tmp_path, evaluation(), (1, 1, 1, 1), metrics=extra)
    grade(tmp_path, what, (1, 0, 0, 0), score_run="grade2", minute=20)

    assert rows(tmp_path, "SELECT metric, value FROM latest_metrics") == [("exact_match", 0.25)]
    assert rows(tmp_path, "SELECT count(*), sum(value) FROM sample_scores") == [(4, 1.0)]


def test_an_evaluation_landed_twice_is_one_try(tmp_path: Path) -> None:
    what = land(tmp_path, evaluation())
    Landing(tmp_path).land_evaluation(what.model_copy(update={"recorded_at": at(2), "n_reused": 4}))

    found = rows(tmp_path, "SELECT n_reused, coverage, failed_share, n_timeout FROM coverage_and_failures")
    assert found == [(4, 1.0, 0.0, 0)]


def test_failures_are_counted_by_kind(tmp_path: Path) -> None:
    land(tmp_path, evaluation(n_failed=3, failures='{"timeout": 1, "overloaded": 2}'), (1, None, None, None))

    found = rows(tmp_path, "SELECT coverage, failed_share, n_timeout, n_overloaded FROM coverage_and_failures")
    assert found == [(0.25, 0.75, 1, 2)]


def test_ranks_follow_the_metrics_direction_and_ties_share_one(tmp_path: Path) -> None:
    for model, value in (("a@1", 9.0), ("b@1", 7.0), ("c@1", 7.0), ("d@1", None)):
        one = metric(value, n=0 if value is None else 4, metric="perplexity", higher_is_better=False)
        land(tmp_path, evaluation(model, "wiki"), (None,) * 4 if value is None else (1, 1, 1, 1), metrics=[one])

    found = rows(tmp_path, "SELECT model_key, rank, n_ranked FROM leaderboard ORDER BY model_key")
    assert found == [("a@1", 3, 3), ("b@1", 1, 3), ("c@1", 1, 3), ("d@1", None, 3)]


def test_the_overall_mean_is_taken_over_the_benchmarks_that_all_models_have(tmp_path: Path) -> None:
    land(tmp_path, evaluation(ONE, "gsm8k"), (1, 1, 0, 0))
    land(tmp_path, evaluation(ONE, "mmlu"), (0, 0, 0, 0))
    land(tmp_path, evaluation(TWO, "gsm8k"), (1, 1, 1, None))

    found = rows(tmp_path, "SELECT model_key, rank, macro_average, n_common, n_benchmarks, min_coverage "
                           "FROM leaderboard_overall ORDER BY rank")  # fmt: skip
    assert found == [(TWO, 1, 1.0, 1, 1, 0.75), (ONE, 2, 0.5, 1, 2, 1.0)]


def test_without_a_common_benchmark_nobody_has_a_mean(tmp_path: Path) -> None:
    land(tmp_path, evaluation(ONE, "gsm8k"))
    land(tmp_path, evaluation(TWO, "mmlu"))

    assert rows(tmp_path, "SELECT rank, macro_average, n_common FROM leaderboard_overall") == [(None, None, 0)] * 2


def test_the_grid_tells_missing_from_failed_from_not_yet_graded(tmp_path: Path) -> None:
    land(tmp_path, evaluation(ONE, "gsm8k"))
    land(tmp_path, evaluation(ONE, "gsm8k", run_id="later", recorded_at=at(5), is_within_budget=False), (1, None))
    land(tmp_path, evaluation(TWO, "mmlu"))
    Landing(tmp_path).land_samples("mmlu", "1.0-aaaa", samples())
    Landing(tmp_path).land_evaluation(evaluation(ONE, "mmlu"))

    found = rows(tmp_path, "SELECT model_key, benchmark, status, has_number, coverage FROM grid ORDER BY 1, 2")
    assert found == [
        (ONE, "gsm8k", "over_budget", True, 1.0),
        (ONE, "mmlu", "asked", False, None),
        (TWO, "gsm8k", "missing", False, None),
        (TWO, "mmlu", "scored", True, 1.0),
    ]


def test_what_is_merely_not_graded_yet_is_asked_in_the_grid_whatever_came_before(tmp_path: Path) -> None:
    tries: dict[str, dict[str, object]] = {
        "failed": {"is_within_budget": False},
        "older": {"ask_version": "0.9-old"},
        "former": {"fingerprint": "bytes-before"},
        "same": {},
    }
    for benchmark, fields in tries.items():
        land(tmp_path, evaluation(ONE, benchmark, **fields))
        land(tmp_path, evaluation(TWO, benchmark, recorded_at=at(3)))
        Landing(tmp_path).land_evaluation(evaluation(ONE, benchmark, "later", recorded_at=at(5)))
    land(tmp_path, evaluation(ONE, "untouched", fingerprint="bytes-before"))

    found = rows(tmp_path, f"SELECT benchmark, status, has_number FROM grid WHERE model_key = '{ONE}' ORDER BY 1")
    assert found == [
        ("failed", "asked", False), ("former", "asked", True), ("older", "asked", False), ("same", "scored", True),
        ("untouched", "overwritten", True),
    ]  # fmt: skip


def test_sample_scores_are_one_row_per_sample_and_show_question_target_and_coverage(tmp_path: Path) -> None:
    land(tmp_path, evaluation(ONE), (1, None))
    land(tmp_path, evaluation(ONE, run_id="again", recorded_at=at(3)), (0, None))
    found = rows(
        tmp_path, "SELECT sample_id, question, target, value, ungraded_reason, coverage FROM sample_scores ORDER BY 1"
    )
    assert found == [
        ("main/0", "What is 0?", "0", 0.0, None, 0.5),
        ("main/1", "What is 1?", "1", None, "no answer", 0.5),
    ]
