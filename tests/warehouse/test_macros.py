"""The questions with parameters: asked of the published file as any tool opens it."""

from contextlib import closing
from datetime import timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest

from eval_pipelines.analysis import history
from eval_pipelines.records import Request, Response
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import open_published

from .builders import answer, at, evaluation, failure, grade, land, requests

pytestmark = pytest.mark.slow

ONE, TWO = "tiny@step-100", "tiny@step-200"


def ask(root: Path, sql: str) -> list[tuple[Any, ...]]:
    """As the command line would: the file itself, opened by its path."""
    with duckdb.connect(str(root / "scores.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def test_the_leaderboard_of_a_moment_is_the_one_that_was_published_then(tmp_path: Path) -> None:
    states: list[tuple[str, list[tuple[Any, ...]]]] = []

    def publish_at(minute: float) -> None:
        assert publish(tmp_path).failing == ()
        for table in ("leaderboard", "latest_metrics", "stg_metrics", "stg_evaluations"):
            states.append(
                (f"{table}(as_of := '{at(minute):%Y-%m-%d %H:%M}')", ask(tmp_path, f"FROM {table} ORDER BY ALL"))
            )

    first = land(tmp_path, evaluation(ONE), (1, 1, 0, 0))
    land(tmp_path, evaluation(TWO, recorded_at=at(2)), (1, 0, 0, 0))
    publish_at(5)
    grade(tmp_path, first, (0, 0, 0, 0), score_run="again", minute=10)
    publish_at(12)
    land(tmp_path, evaluation(ONE, run_id="few", n_samples=2, fingerprint="overwritten", recorded_at=at(20)), (1, 1))
    publish_at(22)
    land(tmp_path, evaluation(TWO, ask_version="2.0-bbbb", recorded_at=at(30)), (1, 1, 1, 0))
    publish_at(32)

    assert [(call, ask(tmp_path, f"FROM {call} ORDER BY ALL")) for call, _ in states] == states
    assert len({str(rows) for call, rows in states if call.startswith("leaderboard")}) == 4
    assert ask(tmp_path, "FROM leaderboard(as_of := '2026-11-21 11:00')") == []


def test_a_moment_is_the_same_in_every_time_zone_of_a_session(tmp_path: Path) -> None:
    for minute in (0, 10, 20):
        land(tmp_path, evaluation(f"tiny@step-{minute}", recorded_at=at(minute)), (1, 0))
    publish(tmp_path)
    before, after = at(15), at(24 * 60)
    moments: dict[Any, int] = {
        before: 2, after: 3, before.replace(tzinfo=None): 2, after.date(): 3, at(0).date(): 0,
        f"{before:%Y-%m-%d %H:%M:%S}": 2, f"{before:%Y-%m-%dT%H:%M:%SZ}": 2, f"{after:%Y-%m-%d}": 3,
        before.astimezone(timezone(timedelta(hours=2))).isoformat(): 2,
        f"{before.astimezone(timezone(timedelta(hours=-5))):%Y-%m-%d %H:%M:%S}-05": 2,
    }  # fmt: skip

    with duckdb.connect(str(tmp_path / "scores.duckdb"), read_only=True) as connection:
        for zone in ("UTC", "America/New_York", "Asia/Tokyo"):
            connection.execute(f"SET TimeZone = '{zone}'")
            for table in ("leaderboard", "stg_evaluations"):
                sql = f"SELECT count(DISTINCT model_key) FROM {table}(as_of := ?)"
                found = {moment: connection.execute(sql, [moment]).fetchone() for moment in moments}
                assert found == {moment: (n,) for moment, n in moments.items()}, zone
            now = "TIMESTAMPTZ '2026-11-21 12:15:00+00'"
            assert connection.execute(f"SELECT count(*) FROM leaderboard(as_of := {now})").fetchone() == (2,)


def test_the_history_of_a_family_holds_every_number_and_says_which_ones_compare(tmp_path: Path) -> None:
    land(tmp_path, evaluation(TWO, recorded_at=at(5)), (1, 0, 0, 0))
    land(tmp_path, evaluation(ONE, ask_version="2.0-bbbb", recorded_at=at(9)), (1, 1, 0, 0))
    land(tmp_path, evaluation("other@1", "mmlu"))
    publish(tmp_path)

    rows = ask(tmp_path, "SELECT model_key, value, is_latest, is_comparable FROM history('tiny', 'gsm8k')")
    assert rows == [(ONE, 0.5, True, True), (TWO, 0.25, False, False)]
    assert ask(tmp_path, f"SELECT value FROM history('{TWO}')") == [(0.25,)]
    assert ask(tmp_path, "FROM history('tiny', benchmark := 'mmlu')") == []


def test_checkpoints_come_in_one_order_wherever_they_are_listed(tmp_path: Path) -> None:
    good, bad = [1.0] * 40 + [0.0] * 20, [0.0] * 40 + [1.0] * 20
    land(tmp_path, evaluation("tiny@v1", n_samples=60, recorded_at=at(5)), good, pairs=())
    land(tmp_path, evaluation("tiny@v2", n_samples=60, recorded_at=at(6)), bad, pairs=())
    # asked again, it is no newer model
    land(tmp_path, evaluation("tiny@v1", run_id="again", n_samples=60, recorded_at=at(7)), good, pairs=())
    # of one step, asked in the other order
    land(tmp_path, evaluation("tiny@step-9-b", n_samples=60, recorded_at=at(0)), good, pairs=())
    land(tmp_path, evaluation("tiny@step-9-a", n_samples=60, recorded_at=at(1)), good, pairs=())
    publish(tmp_path)

    order = ["tiny@step-9-a", "tiny@step-9-b", "tiny@v1", "tiny@v2"]
    assert list(dict.fromkeys(key for (key,) in ask(tmp_path, "SELECT model_key FROM history('tiny')"))) == order
    with closing(open_published(tmp_path)) as connection:
        course = history.course(connection, "tiny", "gsm8k")
    assert [row["model_key"] for row in course] == order
    pairs = ask(tmp_path, "SELECT model_a, model_b FROM comparisons WHERE against = 'previous' ORDER BY model_b")
    assert pairs == list(pairwise(order))
    assert course[-1]["verdict"] == "worse"
    steps = "SELECT previous_model_key, model_key FROM checkpoint_progress WHERE previous_step IS NOT NULL"
    assert ask(tmp_path, steps) == [tuple(order[:2])]


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """One model, two questions: the first answered twice over, the second refused."""
    first, second = requests(2)
    again = Request(sample_id="main/0", subtask="main", operation="completion", prompt="again?", repeat=1)
    pairs: list[tuple[Request, Response]] = [
        (first, answer(first, "It is 0.", minute=1)), (again, answer(again, "Is it 0?")), (second, failure(second)),
    ]  # fmt: skip
    land(tmp_path, evaluation(run_id="old"), (0, None), pairs=[(first, answer(first, "It is 9."))])
    land(tmp_path, evaluation(recorded_at=at(1)), (1, None), pairs=pairs)
    land(tmp_path, evaluation(TWO), (1, 0))
    publish(tmp_path)
    return tmp_path


def test_the_answers_to_a_question_are_found_by_its_id_and_by_its_words(asked: Path) -> None:
    columns = "sample_id, value, answer, list_transform(responses, lambda r: (r.repeat, r.text, r.failure_kind))"
    first = ("main/0", 1.0, None, [(0, "It is 0.", None), (1, "Is it 0?", None)])
    second = ("main/1", None, None, [(0, None, "overloaded")])

    assert ask(asked, f"SELECT {columns} FROM answers('{ONE}', 'gsm8k', 'main/0')") == [first]
    assert ask(asked, f"SELECT {columns} FROM answers('{ONE}', 'gsm8k', question := 'WHAT IS 1')") == [second]
    assert ask(asked, f"SELECT {columns} FROM answers('{ONE}', 'gsm8k')") == [first, second]
    assert ask(asked, f"SELECT answer FROM answers('{TWO}', benchmark := 'gsm8k', question := 'main/1')") == [
        ("It is main/1.",)
    ]
    assert ask(asked, f"FROM answers('{ONE}', 'mmlu')") == []


def test_an_index_is_a_question_and_no_word_of_others(tmp_path: Path) -> None:
    land(tmp_path, evaluation(ONE, n_samples=12), [1] * 12, pairs=())
    publish(tmp_path)

    for named, found in (("1", ["main/1"]), ("main/11", ["main/11"]), ("is 1", ["main/1", "main/10", "main/11"])):
        assert ask(tmp_path, f"SELECT sample_id FROM answers('{ONE}', 'gsm8k', '{named}')") == [(one,) for one in found]


def test_publishing_anew_replaces_the_macros(tmp_path: Path) -> None:
    land(tmp_path, evaluation(ONE))
    publish(tmp_path)
    land(tmp_path, evaluation(TWO))

    assert not publish(tmp_path).is_full_rebuild
    assert len(ask(tmp_path, "FROM leaderboard()")) == 2
