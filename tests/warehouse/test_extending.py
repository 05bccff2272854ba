"""Extending what is published, for landings that are large: the same tables as building anew, from what is new only."""

import os
import random
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dbt_like_sql import load
from eval_pipelines.records import ServerMetrics
from eval_pipelines.warehouse import noticed, planning, publish, segments
from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.read import open_published, query

from .builders import answer, at, evaluation, grade, land, requests

pytestmark = pytest.mark.slow

MODELS = load()


@pytest.fixture(autouse=True)
def every_landing_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "FEW_FILES", 0)
    monkeypatch.setattr(segments, "FAN_IN", 3)


def contents(root: Path) -> dict[str, list[str]]:
    """Every table and view, sorted, with sums as far as floats are exact."""
    connection = open_published(root)
    try:
        names = [model.name for model in MODELS.models] + ["evaluations", "metrics", "scores", "responses", "samples"]
        found = {name: connection.execute(f"FROM {name}").fetchall() for name in names}
    finally:
        connection.close()
    return {name: sorted(str(tuple(map(_rounded, row))) for row in rows) for name, rows in found.items()}


def _rounded(value: Any) -> Any:
    return round(value, 9) if isinstance(value, float) else value


def land_something(root: Path, rng: random.Random, minute: int) -> None:
    """One of the things that happen: a new cell, another try, overwritten bytes, a new version, a grading anew."""
    model, benchmark = f"m@step-{rng.randrange(6)}", rng.choice(["gsm8k", "mmlu"])
    values = rng.choices([0.0, 1.0, None], [2, rng.randrange(1, 5), rng.choice([0.0, 1.0])], k=24)
    fields = {
        "fingerprint": rng.choice([f"bytes-of-{model}", "overwritten"]),
        "ask_version": rng.choice(["1.0-aaaa", "1.0-aaaa", "2.0-bbbb"]) if minute > 6 else "1.0-aaaa",
        "is_within_budget": rng.random() < 0.8,
    }
    what = evaluation(model, benchmark, f"run{minute}", recorded_at=at(minute), **fields)
    if rng.random() < 0.3:
        looks = [
            ServerMetrics(replica="http://a", started_at=at(minute), scraped_at=at(minute + n), n_running=n)
            for n in (0, 1)
        ]
        Landing(root).land_server_metrics(what, looks)
    land(root, what, values, score_version=rng.choice(["s1", "s1", "s2"]) if minute > 9 else "s1")
    if rng.random() < 0.4:
        anew, judge = rng.choices([0.0, 1.0], k=24), rng.choice([None, None, '{"judge": "v2"}'])
        grade(root, what, anew, score_run="again", score_version="s1", minute=minute + 0.5, judged_by=judge)


@pytest.mark.parametrize("seed", [5, 7])
def test_what_was_extended_again_and_again_equals_what_is_built_anew(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for minute in range(14):
        land_something(tmp_path, rng, minute)
        assert publish.publish(tmp_path, models=MODELS).is_full_rebuild == (minute == 0)

    extended, n_files = contents(tmp_path), len(list((tmp_path / "published").iterdir()))
    report = publish.publish(tmp_path, models=MODELS, is_full=True)

    assert report.is_full_rebuild
    assert report.failing == ()
    assert contents(tmp_path) == extended
    assert len(extended["item_analysis"]) > 5
    assert all(any(f"'{against}'" in row for row in extended["comparisons"]) for against in ("previous", "best"))
    assert len(segments_of(tmp_path)) == 3 < n_files


def test_comparisons_stand_while_both_cells_do_and_only_missing_ones_are_made(tmp_path: Path) -> None:
    values = {
        "m@step-1": [1.0] * 20 + [0.0] * 4,
        "m@step-2": [0.0] * 12 + [1.0] * 12,
        "m@step-4": [0.0] * 16 + [1.0] * 8,
    }
    tries = {model: land(tmp_path, evaluation(model), values[model], pairs=()) for model in values}
    land(tmp_path, evaluation("m@step-1", "mmlu"), values["m@step-1"], pairs=())
    publish.publish(tmp_path, models=MODELS)

    def pairs() -> dict[tuple[str, str], tuple[str, int]]:
        """(model, against) → its baseline, and what stands in the row; afterwards each row is marked as seen."""
        connection = duckdb.connect(tmp_path / "scores.duckdb")
        try:
            rows = connection.execute("SELECT model_b, against, model_a, n_only_in_a FROM comparisons").fetchall()
            connection.execute("UPDATE comparisons SET n_only_in_a = 99").fetchall()
        finally:
            connection.close()
        return {(model, against): (baseline, mark) for model, against, baseline, mark in rows}

    one, two, four = values
    first = {
        (two, "previous"): (one, 0),
        (two, "best"): (one, 0),
        (four, "previous"): (two, 0),
        (four, "best"): (one, 0),
    }
    assert pairs() == first

    land(tmp_path, evaluation("m@step-3"), [1.0] * 24, pairs=())  # out of order, and the best one yet
    publish.publish(tmp_path, models=MODELS)
    three, seen = "m@step-3", {key: (baseline, 99) for key, (baseline, _) in first.items()}
    second = seen | {(three, "previous"): (two, 0), (three, "best"): (one, 0),
                     (four, "previous"): (three, 0), (four, "best"): (three, 0)}  # fmt: skip
    assert pairs() == second

    grade(tmp_path, tries[one], [0.0] * 24, score_run="again", minute=9)  # no longer the best
    assert not publish.publish(tmp_path, models=MODELS).is_full_rebuild
    seen = {key: (baseline, 99) for key, (baseline, _) in second.items()}
    assert pairs() == seen | {(two, "previous"): (one, 0), (two, "best"): (one, 0), (three, "best"): (two, 0)}

    grade(tmp_path, tries[two], values[two], score_run="rejudged", minute=10, judged_by='{"judge": "v2"}')
    publish.publish(tmp_path, models=MODELS)
    assert pairs() == {(four, "previous"): (three, 99), (four, "best"): (three, 99)}


def segments_of(root: Path) -> set[str]:
    return {row["name"] for row in query(root, "SELECT name FROM segments")}


def test_only_folders_with_a_note_are_looked_into_and_no_landed_file_is_missed(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    publish.publish(tmp_path, models=MODELS)
    assert noticed.notices(tmp_path / "landing") == []

    land(tmp_path, evaluation("tiny@step-200"))
    assert publish.unpublished_files(tmp_path) == 4
    copied = next((tmp_path / "landing/metrics").rglob("*step-100/*/*.parquet")).with_name("copied.parquet")
    copied.write_bytes(b"not even Parquet")  # what came without a note is not seen, and does no harm

    assert publish.publish(tmp_path, models=MODELS).n_new_files == 4
    assert publish.unpublished_files(tmp_path) == 0
    copied.unlink()
    assert not publish.publish(tmp_path, models=MODELS, now=at(0).replace(year=2030)).is_full_rebuild


def test_a_landing_that_is_under_way_keeps_its_note_until_it_is_published(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    publish.publish(tmp_path, models=MODELS)
    folder = tmp_path / "landing/responses/model=tiny@step-200/benchmark=gsm8k"
    folder.mkdir(parents=True)
    aside = folder / ".x.parquet.tmp-1-aa"
    aside.write_bytes(b"PAR1")
    noticed.announced_by(tmp_path / "landing")(aside)

    publish.publish(tmp_path, models=MODELS)

    [notice] = noticed.notices(tmp_path / "landing")
    assert (notice.folder, notice.is_finished) == ("responses/model=tiny@step-200/benchmark=gsm8k", False)
    os.utime(notice.path, (time.time() - 2 * 86400,) * 2)
    publish.publish(tmp_path, models=MODELS)
    assert (aside.exists(), noticed.notices(tmp_path / "landing")) == (False, [])


def test_a_file_that_changed_in_a_folder_with_news_causes_a_full_rebuild(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    publish.publish(tmp_path, models=MODELS)
    for path in (tmp_path / "landing/scores").rglob("*.parquet"):
        os.utime(path, (1, 1))
    grade(tmp_path, evaluation(), score_run="again", minute=9)

    assert publish.publish(tmp_path, models=MODELS).is_full_rebuild


def test_deleted_segments_are_built_anew(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    publish.publish(tmp_path, models=MODELS)
    for path in (tmp_path / "published").iterdir():
        path.unlink()

    assert publish.publish(tmp_path, models=MODELS).is_full_rebuild
    assert query(tmp_path, "SELECT count(*) AS n FROM sample_scores") == [{"n": 4}]


def test_a_reader_of_an_older_state_reads_on_while_segments_are_merged_and_for_a_day(tmp_path: Path) -> None:
    land(tmp_path, evaluation("m@step-0"))
    publish.publish(tmp_path, models=MODELS)
    old = open_published(tmp_path)
    for n in range(1, 7):
        land(tmp_path, evaluation(f"m@step-{n}"))
        publish.publish(tmp_path, models=MODELS)

    assert old.execute("SELECT count(*) FROM scores").fetchall() == [(4,)]
    superseded = {path.name for path in (tmp_path / "published").iterdir()} - segments_of(tmp_path)
    assert superseded
    for name in superseded:
        os.utime(tmp_path / "published" / name, (time.time() - segments.KEPT_S - 1,) * 2)
    old.close()
    publish.publish(tmp_path, models=MODELS)
    assert {path.name for path in (tmp_path / "published").iterdir()} == segments_of(tmp_path)
    assert query(tmp_path, "SELECT count(*) AS n FROM scores") == [{"n": 28}]


def test_what_a_test_found_is_found_again_until_it_is_mended(tmp_path: Path) -> None:
    what = land(tmp_path, evaluation("m@step-0"))
    publish.publish(tmp_path, models=MODELS)
    (tmp_path / "landing/samples").rename(tmp_path / "samples")
    land(tmp_path, evaluation("m@step-1", "mmlu"), pairs=[(one, answer(one)) for one in requests(4)])
    lost = next((tmp_path / "landing/samples").rglob("*.parquet"))
    kept = lost.read_bytes()
    lost.unlink()
    for note in noticed.notices(tmp_path / "landing"):
        if note.folder.startswith("samples"):
            note.path.unlink()
    (tmp_path / "samples/benchmark=gsm8k").rename(tmp_path / "landing/samples/benchmark=gsm8k")

    def failing() -> list[tuple[str, int]]:
        found = publish.publish(tmp_path, models=MODELS)
        assert not found.is_full_rebuild
        return [(test.name, test.n_failing) for test in found.failing]

    assert failing() == [("no_score_without_a_sample", 4)]
    grade(tmp_path, what, score_run="again", minute=9)
    assert failing() == [("no_score_without_a_sample", 4)]
    lost.write_bytes(kept)
    noticed.announced_by(tmp_path / "landing")(lost.with_name("gone"))
    assert failing() == []


def test_what_belongs_to_no_evaluation_is_published_too(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    publish.publish(tmp_path, models=MODELS)
    row = {
        "gate": "release", "run_id": "r", "model_key": "tiny@step-100", "family": "tiny", "revision": "step-100",
        "benchmark": "", "verdict": "GO", "reason": "within", "significance": 0.05, "policy": "{}", "evidence": "e",
        "recorded_at": at(9),
    }  # fmt: skip
    Landing(tmp_path).land_gate_verdict("release", "tiny@step-100", "r", [row])

    assert publish.publish(tmp_path, models=MODELS).n_new_files == 1
    assert query(tmp_path, "SELECT gate, verdict FROM gates") == [{"gate": "release", "verdict": "GO"}]
    assert len(query(tmp_path, "FROM leaderboard")) == 1
