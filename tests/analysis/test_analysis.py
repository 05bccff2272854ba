"""The questions people ask of the record: is b better, on which questions, since when, and what did it say."""

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eval_pipelines.analysis import answers, comparison, history
from eval_pipelines.errors import ConfigError, UnknownNameError, WarehouseError
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import open_published
from tests.published_record import BOREALIS, HOSTILE, LONG
from tests.warehouse.builders import evaluation, land, metric

if TYPE_CHECKING:
    import duckdb

GOOD, BAD = "atlas-1b@step-02000", "atlas-1b@step-02500"


@pytest.fixture
def connection(record: Path) -> Iterator["duckdb.DuckDBPyConnection"]:
    with closing(open_published(record)) as connection:
        yield connection


def right(connection: "duckdb.DuckDBPyConnection", model: str, benchmark: str = "gsm8k") -> set[str]:
    """What a model got right, read from the landed scores without any mart."""
    rows = connection.execute(
        "SELECT sample_id FROM scores WHERE model_key = ? AND benchmark = ? AND value = 1", [model, benchmark]
    ).fetchall()
    return {row[0] for row in rows}


def test_a_worse_checkpoint_is_told_with_the_questions_it_lost(connection) -> None:
    [gsm8k] = comparison.pairs(connection, GOOD, BAD, ["gsm8k"])
    lost, won = right(connection, GOOD) - right(connection, BAD), right(connection, BAD) - right(connection, GOOD)

    assert (gsm8k.found.verdict, gsm8k.found.n, gsm8k.found.n_a_only, gsm8k.found.n_b_only) == (
        "worse",
        60,
        len(lost),
        len(won),
    )
    assert gsm8k.found.difference == pytest.approx((len(won) - len(lost)) / 60)
    flips = comparison.flips(connection, GOOD, BAD, "gsm8k")
    assert {row["sample_id"] for row in flips if row["change"] == "lost"} == lost
    assert {row["sample_id"] for row in flips if row["change"] == "won"} == won


def test_each_flipped_question_shows_both_answers(connection) -> None:
    for row in comparison.flips(connection, GOOD, BAD, "gsm8k", limit=5):
        assert row["answer_a"].endswith(f"#### {row['target']}")
        assert row["answer_b"].endswith(f"#### {int(row['target']) + 1}")
    [choice] = comparison.flips(connection, GOOD, BAD, "arc", limit=1)
    assert choice["answer_a"] == "the right one (likeliest: log-probability -2.00)"


def test_models_without_a_common_benchmark_have_no_pair(connection) -> None:
    assert comparison.pairs(connection, BOREALIS, GOOD, ["arc"]) == []


def test_what_a_failed_request_left_ungraded_is_no_flip(connection) -> None:
    shared = connection.execute(
        "SELECT count(*) FROM scores WHERE model_key = ? AND benchmark = 'gsm8k' AND value IS NOT NULL", [BOREALIS]
    ).fetchall()[0][0]
    [pair] = comparison.pairs(connection, GOOD, BOREALIS)
    assert shared < 60
    assert pair.found.n == shared


def test_a_family_is_told_by_step_and_its_one_regression_is_marked(connection) -> None:
    rows = history.course(connection, "atlas-1b", "gsm8k")
    assert [row["step"] for row in rows] == [500, 1000, 1500, 2000, 2500, 3000]
    assert [row["step"] for row in rows if row["verdict"] == "worse"] == [2500]
    assert rows[0]["change"] is None


def test_a_falling_perplexity_is_an_improvement(connection) -> None:
    rows = history.course(connection, "atlas-1b", "wiki")
    assert all(row["change"] < 0 for row in rows[1:])
    assert "worse" not in {row["verdict"] for row in rows}


def test_one_question_is_told_whole(connection) -> None:
    told = answers.one(connection, BOREALIS, "gsm8k", "gsm8k/7")
    assert [(one["metric"], one["value"]) for one in told.verdicts] == [
        ("exact_match", float("gsm8k/7" in right(connection, BOREALIS)))
    ]
    assert told.replies[0]["reasoning"].startswith("Ducks: 11.")
    assert answers.one(connection, LONG, "gsm8k", "5").replies[0]["text"] == HOSTILE
    assert answers.one(connection, GOOD, "gsm8k", "Janet has 63 ducks").sample["sample_id"] == "gsm8k/59"


def test_a_failure_says_its_kind_and_is_ungraded(connection) -> None:
    rows = answers.listed(connection, BOREALIS, "gsm8k", only="ungraded")
    assert rows
    for row in rows:
        assert row["answer"].startswith(("no answer: timeout: no answer within 60 s", "no answer: overloaded: 503"))


def test_lists_of_right_wrong_and_ungraded_answers_are_all_of_them(connection) -> None:
    parts = [answers.listed(connection, BOREALIS, "gsm8k", only=only) for only in ("right", "wrong", "ungraded")]
    assert sum(len(part) for part in parts) == 60


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda db: comparison.pairs(db, "atlas-1b@step-2000", BAD), "Did you mean 'atlas-1b@step-02000'?"),
        (lambda db: history.course(db, "atlas", "gsm8k"), "Did you mean 'atlas-1b'?"),
        (lambda db: answers.listed(db, GOOD, "gsm9k"), "Did you mean 'gsm8k'?"),
        (lambda db: answers.one(db, GOOD, "gsm8k", "gsm8k/70"), "no question is called 'gsm8k/70'. Did you mean 'gsm8k/7'?"),
        (lambda db: answers.one(db, GOOD, "gsm8k", "ducks"), "no single question is called 'ducks'"),
    ],
)  # fmt: skip
def test_a_name_that_is_not_there_is_told_with_the_near_miss(connection, call, message) -> None:
    with pytest.raises(UnknownNameError) as told:
        call(connection)
    assert message in str(told.value)
    assert len(str(told.value)) < 1_000


def test_a_cell_without_a_number_says_how_to_get_one(connection) -> None:
    with pytest.raises(
        WarehouseError, match=r"missing\. Evaluate it: eval-pipelines evaluate --model borealis-8b@hosted"
    ):
        answers.listed(connection, BOREALIS, "arc")


def test_of_very_many_names_only_the_nearest_are_told() -> None:
    known = [f"family-{random.Random(i).randrange(10**9)}@step-{i}" for i in range(2_000)]
    error = UnknownNameError("model", known[7] + "x", known=known)
    assert f"Did you mean {known[7]!r}?" in str(error)
    assert "and 1,990 more" in str(error)


def test_right_and_wrong_follow_the_metrics_direction_and_are_refused_of_mere_numbers(tmp_path: Path) -> None:
    what = evaluation("tiny@a", "errors", n_samples=4)
    land(tmp_path, what, (1, 0, 0, None), metrics=[metric(1 / 3, higher_is_better=False)])
    land(tmp_path, evaluation("tiny@a", "wiki", n_samples=2), (8.5, 0.5), metrics=[metric(4.5, higher_is_better=False)])
    publish(tmp_path)

    with closing(open_published(tmp_path)) as connection:
        found = {
            only: [row["sample_id"] for row in answers.listed(connection, "tiny@a", "errors", only=only)]
            for only in ("right", "wrong", "ungraded")
        }
        assert found == {"right": ["main/1", "main/2"], "wrong": ["main/0"], "ungraded": ["main/3"]}
        with pytest.raises(
            ConfigError, match=r"\(0\.5 to 8\.5\), which is neither right nor wrong. List them by .*'wiki'"
        ):
            answers.listed(connection, "tiny@a", "wiki", only="wrong")
        assert answers.listed(connection, "tiny@a", "wiki", only="ungraded") == []
