"""Publishing: what is landed can be read, at once, whole, and by whoever comes."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from dbt_like_sql import SqlProject, SqlTest, load
from eval_pipelines.errors import WarehouseError
from eval_pipelines.warehouse.files import exclusive
from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.publish import publish, unpublished_files
from eval_pipelines.warehouse.read import Reader, open_published, query

from .builders import NOON, answer, at, evaluation, failure, grade, land, metric, requests, scores

pytestmark = pytest.mark.slow

OLD_DUCKDB = Path(__file__).parents[2] / ".cache" / "duckdb-1.5"
TABLES = ("evaluations", "metrics", "scores", "samples", "latest_metrics", "metric_history", "leaderboard", "grid")


def contents(root: Path) -> dict[str, list[Any]]:
    return {table: sorted(map(str, query(root, f"FROM {table}"))) for table in (*TABLES, "sample_scores", "responses")}


def test_an_empty_landing_publishes_every_table_empty(tmp_path: Path) -> None:
    report = publish(tmp_path)

    assert set(report.n_rows.values()) == {0}
    assert report.failing == ()
    assert query(tmp_path, "SELECT * FROM sample_scores") == query(tmp_path, "SELECT * FROM responses") == []


def test_what_was_landed_is_on_the_leaderboard(tmp_path: Path) -> None:
    land(tmp_path, evaluation("tiny@step-100"), (1, 1, 0, 0))
    land(tmp_path, evaluation("tiny@step-200"), (1, 1, 1, None))

    report = publish(tmp_path, now=NOON)

    rows = query(tmp_path, "SELECT rank, model_key, step, value, n, coverage FROM leaderboard ORDER BY rank")
    assert [tuple(row.values()) for row in rows] == [
        (1, "tiny@step-200", 200, 1.0, 3, 0.75),
        (2, "tiny@step-100", 100, 0.5, 4, 1.0),
    ]
    [meta] = query(tmp_path, "SELECT generation, published_at, n_metrics FROM meta")
    assert meta == {"generation": report.generation, "published_at": NOON, "n_metrics": 2}


def test_extending_gives_the_same_tables_as_building_anew(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    first = publish(tmp_path)
    land(tmp_path, evaluation("tiny@step-200", recorded_at=at(5)), (1, None, 1, 0))
    land(tmp_path, evaluation(ask_version="2.0-bbbb", recorded_at=at(9)))

    extended = publish(tmp_path)
    by_extension = contents(tmp_path)
    rebuilt = publish(tmp_path, is_full=True)

    assert (first.is_full_rebuild, extended.is_full_rebuild, rebuilt.is_full_rebuild) == (True, False, True)
    assert (extended.n_new_files, extended.generation, rebuilt.generation) == (9, 2, 3)
    assert contents(tmp_path) == by_extension


def test_a_landed_file_that_changed_or_went_away_causes_a_full_rebuild(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    land(tmp_path, evaluation("tiny@step-200"))
    publish(tmp_path)
    for path in list((tmp_path / "landing").rglob("*step-200*/**/*.parquet")):
        path.unlink()

    report = publish(tmp_path)

    assert report.is_full_rebuild
    assert report.n_rows["leaderboard"] == 1


def test_a_vanished_landing_does_not_empty_the_leaderboard(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    publish(tmp_path)
    (tmp_path / "landing").rename(tmp_path / "unmounted")

    with pytest.raises(WarehouseError, match="not mounted"):
        publish(tmp_path)

    assert len(query(tmp_path, "FROM leaderboard")) == 1


def test_a_damaged_publication_is_built_anew(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    (tmp_path / "scores.duckdb").write_bytes(b"not a database" * 1000)

    with pytest.raises(WarehouseError, match="derived: delete it"):
        query(tmp_path, "FROM meta")
    assert publish(tmp_path).n_rows["leaderboard"] == 1


def test_a_landed_file_of_another_shape_is_named_and_the_former_publication_stays(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    publish(tmp_path)
    path = grade(tmp_path, evaluation(), score_run="grade2")
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["coverage"]), path)

    with pytest.raises(WarehouseError, match=r"s1-grade2\.parquet: column 'coverage' is missing"):
        publish(tmp_path)

    assert query(tmp_path, "SELECT generation FROM meta") == [{"generation": 1}]
    assert list(tmp_path.glob(".pub-*")) == []


def test_scores_whose_grading_was_killed_before_its_metrics_are_not_shown(tmp_path: Path) -> None:
    what = land(tmp_path, evaluation())
    grade(tmp_path, what, (0, 0, 0, 0), score_run="grade2", minute=30).unlink()

    publish(tmp_path)

    assert query(tmp_path, "SELECT sum(value) AS total, count(*) AS n FROM stg_scores") == [{"total": 2.0, "n": 4}]


def test_answers_of_a_try_that_was_killed_show_up_with_the_try_that_reused_them(tmp_path: Path) -> None:
    asked = requests(4)
    Landing(tmp_path).land_responses(evaluation(run_id="killed"), [(one, answer(one)) for one in asked[:3]])
    publish(tmp_path)
    assert query(tmp_path, "FROM responses") == []

    land(tmp_path, evaluation(run_id="resumed", n_reused=3), pairs=[(asked[3], answer(asked[3]))])
    publish(tmp_path)

    assert len(query(tmp_path, "FROM responses")) == 4
    answers = query(tmp_path, "SELECT answer FROM sample_scores ORDER BY sample_id")
    assert [row["answer"] for row in answers] == [f"It is main/{i}." for i in range(4)]


def test_answers_landed_after_a_publication_are_not_in_it(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    publish(tmp_path)
    [late] = requests(1, salt="later: ")
    Landing(tmp_path).land_responses(evaluation(run_id="run2"), [(late, answer(late))])

    assert len(query(tmp_path, "FROM responses")) == 4
    assert unpublished_files(tmp_path) == 1


def test_a_failed_request_is_shown_as_its_kind_and_not_as_an_answer(tmp_path: Path) -> None:
    asked = requests(2)
    land(tmp_path, evaluation(), (1, None), pairs=[(asked[0], answer(asked[0])), (asked[1], failure(asked[1]))])
    publish(tmp_path)

    rows = query(tmp_path, "SELECT value, answer, failure_kind FROM sample_scores ORDER BY sample_id")

    assert [tuple(row.values()) for row in rows] == [(1.0, "It is main/0.", None), (None, None, "overloaded")]


def test_a_failing_test_is_reported_with_its_rows_and_does_not_stop_the_publication(tmp_path: Path) -> None:
    land(tmp_path, evaluation(), (None, None), metrics=[metric(0.5, n=0, n_asked=2)])

    report = publish(tmp_path)

    [failing] = [test for test in report.failing if test.name == "no_value_from_nothing"]
    assert (failing.model, failing.n_failing, failing.severity) == ("stg_metrics", 1, "error")
    assert failing.rows[0]["value"] == 0.5
    assert failing.path.is_file()


def test_a_score_without_a_sample_is_found(tmp_path: Path) -> None:
    what = land(tmp_path, evaluation())
    Landing(tmp_path).land_scores(
        what, scores([1.0] * 5), [metric(1.0, n=5, n_asked=5)], score_version="s2", run_id="g", recorded_at=at(7)
    )

    assert [test.name for test in publish(tmp_path).failing] == ["no_score_without_a_sample"]


def test_a_blocking_test_keeps_the_former_publication(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    publish(tmp_path)
    packaged = load()
    never = SqlTest("never", "leaderboard", Path("never.sql"), "SELECT 1 AS one", "nobody may publish.", "block")
    blocked = SqlProject(packaged.folder, packaged.items, (*packaged.tests, never))

    with pytest.raises(WarehouseError, match=r"never\.sql found 1 rows"):
        publish(tmp_path, models=blocked, is_full=True)

    assert query(tmp_path, "SELECT generation FROM meta") == [{"generation": 1}]
    assert len(list((tmp_path / "published").iterdir())) == 2


def test_two_publications_do_not_run_at_once(tmp_path: Path) -> None:
    with exclusive(tmp_path / ".publish.lock", timeout_s=1), pytest.raises(WarehouseError, match="another process"):
        publish(tmp_path, lock_timeout_s=0.05)


def test_reading_before_anything_is_published_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="eval-pipelines publish"):
        open_published(tmp_path)


def test_a_process_with_an_old_connection_open_still_sees_the_newest_state(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    publish(tmp_path)
    plain, old = duckdb.connect(str(tmp_path / "scores.duckdb"), read_only=True), open_published(tmp_path)
    land(tmp_path, evaluation("tiny@step-200"))
    publish(tmp_path)

    assert len(query(tmp_path, "FROM leaderboard")) == 2
    assert plain.execute("SELECT count(*) FROM leaderboard").fetchall() == [(1,)]
    assert old.execute("SELECT count(*) FROM leaderboard").fetchall() == [(1,)]


def test_a_long_lived_reader_goes_on_with_the_newest_state_when_it_is_told_to(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    publish(tmp_path)
    with Reader(tmp_path) as reader:
        land(tmp_path, evaluation("tiny@step-200"))
        publish(tmp_path)

        assert len(reader.query("FROM leaderboard")) == 1
        assert (reader.refresh(), reader.refresh()) == (True, False)
        assert len(reader.query("FROM leaderboard")) == 2


def test_the_published_database_cannot_be_written_through_a_reader(tmp_path: Path) -> None:
    publish(tmp_path)

    with pytest.raises(duckdb.Error, match="read-only"):
        query(tmp_path, "DELETE FROM metrics")


def test_a_data_root_with_a_quote_and_wildcards_in_its_name_works(tmp_path: Path) -> None:
    root = tmp_path / "it's [1] * odd"
    land(root, evaluation())
    publish(root)
    land(root, evaluation("tiny@step-200"))
    publish(root)

    assert query(root, "SELECT count(*) AS n FROM responses") == [{"n": 8}]


@pytest.mark.skipif(
    not OLD_DUCKDB.exists(), reason=f"no duckdb 1.5 in {OLD_DUCKDB}: pip install --target it to compare"
)
def test_duckdb_1_5_reads_what_we_publish_and_publishes_what_we_read(tmp_path: Path) -> None:
    script = """
import sys, duckdb
from pathlib import Path
from eval_pipelines.warehouse.publish import publish
from warehouse.builders import evaluation, land
root = Path(sys.argv[1])
con = duckdb.connect(str(root / "scores.duckdb"), read_only=True)
print(duckdb.__version__, con.execute("SELECT count(*) FROM sample_scores").fetchall())
con.close()
land(root, evaluation("tiny@step-200"))
print(publish(root).is_full_rebuild, publish(root, is_full=True).is_full_rebuild)
"""
    land(tmp_path, evaluation())
    publish(tmp_path)
    here = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(OLD_DUCKDB), str(here), str(here.parent)])}

    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )

    assert done.stderr == ""
    assert re.sub(r"^1\.5\.\d+", "1.5", done.stdout).splitlines() == ["1.5 [(4,)]", "False True"]
    assert len(query(tmp_path, "FROM sample_scores")) == 8
    assert not publish(tmp_path).is_full_rebuild


def test_a_data_root_that_is_a_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(WarehouseError, match="could not be written"):
        publish(tmp_path / "data")
