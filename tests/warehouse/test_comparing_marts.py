"""Marts that set numbers beside each other: ranks that overlap, checkpoints in order, questions, provenance."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import query

from .builders import answer, at, evaluation, grade, land, metric, requests

pytestmark = pytest.mark.slow

ONE, TWO, THREE = "tiny@step-100", "tiny@step-200", "tiny@step-400"


def rows(root: Path, sql: str) -> list[tuple[Any, ...]]:
    """Publish, expect no failing test, and query."""
    assert publish(root).failing == ()
    return [tuple(row.values()) for row in query(root, sql)]


def land_intervals(root: Path, intervals: dict[str, tuple[float, float, float]], *, higher_is_better: bool) -> None:
    for model, (low, value, high) in intervals.items():
        found = metric(value, ci_low=low, ci_high=high, higher_is_better=higher_is_better)
        land(root, evaluation(model), metrics=[found])


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_ranks_range_over_all_models_whose_intervals_overlap(tmp_path: Path, higher_is_better: bool) -> None:
    rng = random.Random(7)
    intervals = {f"m@{n}": tuple(sorted(rng.choice(range(20)) / 20 for _ in range(3))) for n in range(25)}
    land_intervals(tmp_path, intervals, higher_is_better=higher_is_better)  # type: ignore[arg-type]
    sign = 1 if higher_is_better else -1
    ends = {model: sorted((sign * found[0], sign * found[2])) for model, found in intervals.items()}
    expected = {
        model: (
            1 + sum(other[0] > high for other in ends.values()),
            25 - sum(other[1] < low for other in ends.values()),
        )
        for model, (low, high) in ends.items()
    }

    found = rows(tmp_path, "SELECT model_key, rank_best, rank_worst, rank FROM leaderboard")

    assert {model: (best, worst) for model, best, worst, _ in found} == expected
    assert all(best <= rank <= worst for _, best, worst, rank in found)


def test_a_model_without_a_number_has_no_range_and_one_without_an_interval_is_taken_at_its_value(
    tmp_path: Path,
) -> None:
    land_intervals(tmp_path, {"a@1": (0.1, 0.4, 0.6)}, higher_is_better=True)
    land(tmp_path, evaluation("b@1"), (1, 1, 1, 0))
    land(tmp_path, evaluation("c@1"), (None, None, None, None))

    found = rows(tmp_path, "SELECT model_key, rank, rank_best, rank_worst FROM leaderboard ORDER BY model_key")
    assert found == [("a@1", 2, 2, 2), ("b@1", 1, 1, 1), ("c@1", None, None, None)]


def test_each_checkpoint_is_set_beside_the_one_before_it_of_its_family(tmp_path: Path) -> None:
    land(tmp_path, evaluation(THREE), (1, 1, 0, 0))
    land(tmp_path, evaluation(ONE), (1, 0, 0, 0))
    land(tmp_path, evaluation(TWO), (1, 1, 1, 0))
    land(tmp_path, evaluation("other@step-150"), (1, 1, 1, 1))
    land(tmp_path, evaluation("tiny@main"), (1, 1, 1, 1))

    found = rows(
        tmp_path,
        "SELECT step, previous_step, is_comparable, change, change_per_1k_steps, best_so_far, is_best_so_far, "
        "n_checkpoints FROM checkpoint_progress WHERE family = 'tiny' ORDER BY step",
    )
    assert found == [
        (100, None, None, None, None, 0.25, True, 3),
        (200, 100, True, 0.5, 5.0, 0.75, True, 3),
        (400, 200, True, -0.25, -1.25, 0.75, False, 3),
    ]


def test_flips_are_the_questions_that_changed_with_both_answers(tmp_path: Path) -> None:
    asked = requests(4)
    land(tmp_path, evaluation(ONE), (1, 0, 0, None), pairs=[(one, answer(one, "first")) for one in asked])
    land(tmp_path, evaluation(TWO), (0, 1, 0, 1), pairs=[(one, answer(one, "second")) for one in asked])
    land(tmp_path, evaluation("other@step-150"), (1, 1, 1, 1))

    columns = "sample_id, change, previous_answer, answer, target"
    expected = [("main/0", -1.0, "first", "second", "0"), ("main/1", 1.0, "first", "second", "1")]
    assert rows(tmp_path, f"SELECT {columns} FROM sample_flips('{TWO}', 'gsm8k')") == expected
    assert rows(tmp_path, f"SELECT {columns} FROM sample_flips('{TWO}', 'gsm8k', against := '{ONE}')") == expected
    assert rows(tmp_path, f"FROM sample_flips('{ONE}', 'gsm8k')") == []
    [flip] = rows(
        tmp_path, f"SELECT {columns} FROM sample_flips('other@step-150', 'gsm8k', '{ONE}') WHERE change > 0.5 LIMIT 1"
    )
    assert flip == ("main/1", 1.0, "first", "It is main/1.", "1")


def test_discrimination_is_the_point_biserial_correlation_with_the_rest(tmp_path: Path) -> None:
    rng = random.Random(3)
    ability = [n / 12 for n in range(12)]
    verdicts = [[float(rng.random() < skill) for _ in range(6)] + [float(skill < 0.5), 0.0, 1.0] for skill in ability]
    verdicts[2][0] = None  # type: ignore[call-overload]
    for n, values in enumerate(verdicts):
        land(tmp_path, evaluation(f"m@{n}"), values)
        land(tmp_path, evaluation(f"m@{n}", "other"), (1, 0, 1, 0))

    def oracle(item: int) -> float:
        pairs = [
            (values[item], sum(rest) / len(rest))
            for values in verdicts
            if values[item] is not None
            and (rest := [one for other, one in enumerate(values) if other != item and one is not None])
        ]
        return float(stats.pointbiserialr(*zip(*pairs, strict=True)).statistic)

    found = rows(
        tmp_path,
        "SELECT n_models, mean_value, difficulty, discrimination, is_always_right, is_never_right, suspicion "
        "FROM item_analysis WHERE benchmark = 'gsm8k' ORDER BY sample_id",
    )

    assert [row[3] for row in found[:7]] == pytest.approx([oracle(item) for item in range(7)])
    assert found[0][0] == 11
    assert [row[1] + row[2] for row in found] == pytest.approx([1.0] * 9)
    assert found[7] == (12, 0.0, 1.0, None, False, True, "nobody is right")
    assert found[8] == (12, 1.0, 0.0, None, True, False, None)
    assert found[6][6] == "better models fail"
    assert {row[6] for row in found[:6]} == {None}


def why(root: Path, a: str, b: str) -> dict[str, str]:
    found = query(root, "SELECT part, verdict FROM why_not_comparable(?, ?) WHERE NOT is_same", [a, b])
    return {row["part"]: row["verdict"] for row in found}


def test_why_two_numbers_do_not_compare_is_a_query(tmp_path: Path) -> None:
    first = land(tmp_path, evaluation(ONE, server_version="0.32"))
    grade(tmp_path, first, score_version="s2", score_run="later", minute=30)
    same = land(tmp_path, evaluation(TWO, server_version="0.32"), score_version="s2", score_run="later", minute=30)
    fewer = evaluation(
        ONE, run_id="trial", n_samples=2, parameters=json.dumps({"limit": 2}), recorded_at=at(3), server_version="0.32"
    )
    land(tmp_path, fewer, (1, 0), score_version="s2", score_run="later", minute=30)
    old = land(
        tmp_path, evaluation(THREE, ask_version="0.9-old", run_id="older", backend="sglang", recorded_at=at(-60))
    )
    publish(tmp_path)

    assert why(tmp_path, first.evaluation_id, same.evaluation_id) == {
        "evaluation_id": "is meant", "model_key": "is meant", "fingerprint": "is meant",
    }  # fmt: skip
    assert why(tmp_path, f"{ONE}/gsm8k", f"{fewer.evaluation_id}/trial") == {
        "parameters": "weakens", "n_samples": "weakens", "run_id": "tells", "evaluated_at": "tells",
    }  # fmt: skip
    found = why(tmp_path, first.evaluation_id, old.evaluation_id)
    assert {part for part, verdict in found.items() if verdict == "forbids"} == {"ask_version", "score_version"}
    assert {"backend", "server_version"} <= found.keys()
    gradings = [f"{first.evaluation_id}/{first.run_id}/{version}" for version in ("s1", "s2")]
    assert why(tmp_path, gradings[0], gradings[1]) == {"score_version": "forbids", "recorded_at": "tells"}


def test_a_name_of_nothing_graded_is_said_to_be_not_found(tmp_path: Path) -> None:
    known = land(tmp_path, evaluation(ONE)).evaluation_id
    publish(tmp_path)

    for a, b, named in (("no", known, "no"), (known, "ne", "ne"), ("no", "ne", "no and ne"), (known, None, "null")):
        [row] = query(tmp_path, "SELECT a, b, is_same, verdict, why FROM why_not_comparable(?, ?)", [a, b])
        assert row == {
            "a": a, "b": b, "is_same": False, "verdict": "forbids", "why": f"not found among what was graded: {named}",
        }  # fmt: skip


def test_the_grid_tells_a_number_of_bytes_that_were_overwritten_since(tmp_path: Path) -> None:
    land(tmp_path, evaluation(ONE, "gsm8k"))
    land(tmp_path, evaluation(ONE, "mmlu", fingerprint="new-bytes", recorded_at=at(9)))

    assert rows(tmp_path, "SELECT benchmark, status FROM grid") == [("gsm8k", "overwritten"), ("mmlu", "scored")]
