"""dbt_like_sql: a mistake in a file is reported with that file and the right line."""

import shutil
import time
from pathlib import Path

import pytest

from dbt_like_sql import FOLDER, SOURCES, column_notes, load
from eval_pipelines.errors import SqlModelError
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import query

from .builders import evaluation, land

HEADER = """-- {name}: a table for the test · with a character of two bytes.
--
-- Grain    one row per (model_key)
-- Rule     none
-- Columns  none
-- Reader   this test
"""


def write(folder: Path, name: str, sql: str, header: str = HEADER) -> Path:
    path = folder / "marts" / f"{name}.sql"
    path.parent.mkdir(exist_ok=True)
    path.write_text(header.format(name=name) + sql)
    return path


def complaint(folder: Path) -> SqlModelError:
    with pytest.raises(SqlModelError) as caught:
        load(folder)
    return caught.value


def test_the_packaged_models_are_built_after_what_they_read() -> None:
    project = load()
    built = set(SOURCES)
    for model in project.models:
        assert set(model.depends_on) <= built
        built.add(model.name)
    assert {model.name for model in project.models} >= {"latest_metrics", "leaderboard", "grid", "sample_scores"}


def test_every_packaged_model_says_who_reads_it_and_its_tables_are_tested_for_their_grain() -> None:
    project = load()
    tested = {test.model for test in project.tests if test.name.endswith("_has_its_grain")}

    assert all(model.reader and model.grain.startswith("one row per (") for model in project.models)
    views = {"sample_scores", "sample_judgements"}  # over the samples
    assert tested == {model.name for model in project.models} - views


def test_loading_is_cheap_enough_for_every_process_start() -> None:
    load()
    started = time.process_time()
    load()
    assert time.process_time() - started < 0.25


def test_a_model_knows_everything_upstream() -> None:
    assert load().upstream("leaderboard") == {
        "latest_metrics",
        "stg_metrics",
        "stg_evaluations",
        "metrics",
        "evaluations",
    }


def test_a_description_carries_rule_and_coverage() -> None:
    text = load().model("latest_metrics").description
    assert "**Grain**: one row per (model_key, benchmark, subtask, metric, filter)" in text
    assert "coverage: graded / asked" in text


def test_a_syntax_error_is_reported_on_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "odd", "SELECT model_key\nFROM metrics\nWHERE ORDER BY 1\n")

    error = complaint(tmp_path)

    assert (error.path, error.line) == (path, 9)
    assert "syntax error" in str(error)


def test_an_unknown_table_is_reported_on_its_line_with_a_guess(tmp_path: Path) -> None:
    path = write(tmp_path, "odd", "SELECT m.model_key\nFROM metrics AS m\nJOIN\n    evaluatoins AS e USING (run_id)\n")

    error = complaint(tmp_path)

    assert (error.path, error.line) == (path, 10)
    assert "'evaluatoins'. Did you mean 'evaluations'?" in str(error)


def test_an_unknown_column_is_reported_on_its_line_when_it_is_built(tmp_path: Path) -> None:
    path = write(tmp_path, "odd", "SELECT\n    model_key,\n    mood\nFROM metrics\n")

    with pytest.raises(SqlModelError, match='"mood" not found') as caught:
        publish(tmp_path / "data", models=load(tmp_path))

    assert (caught.value.path, caught.value.line) == (path, 9)


def test_a_model_may_become_a_table_or_a_view_or_go_between_two_publications(tmp_path: Path) -> None:
    land(tmp_path / "data", evaluation())
    for materialized in ("view", "table", "view"):
        write(tmp_path, "odd", "SELECT DISTINCT model_key FROM metrics\n", f"{HEADER}-- materialized: {materialized}\n")
        report = publish(tmp_path / "data", models=load(tmp_path))
    assert (report.is_full_rebuild, query(tmp_path / "data", "FROM odd")) == (False, [{"model_key": "tiny@step-100"}])

    (tmp_path / "marts/odd.sql").rename(tmp_path / "marts/even.sql")
    write(tmp_path, "even", "SELECT DISTINCT model_key FROM metrics\n")
    publish(tmp_path / "data", models=load(tmp_path))
    names = {
        row["name"] for row in query(tmp_path / "data", "SELECT table_name AS name FROM information_schema.tables")
    }
    assert ("even" in names, "odd" in names) == (True, False)


def test_a_value_that_does_not_convert_is_reported_with_its_file(tmp_path: Path) -> None:
    path = write(tmp_path, "odd", "SELECT model_key,\n    model_key::INTEGER AS n\nFROM metrics\n")
    land(tmp_path / "data", evaluation())

    with pytest.raises(SqlModelError, match="Could not convert") as caught:
        publish(tmp_path / "data", models=load(tmp_path))

    assert caught.value.path == path


def test_a_cycle_is_reported_where_it_starts(tmp_path: Path) -> None:
    write(tmp_path, "hen", "SELECT 1 AS model_key\n\nFROM egg\n")
    write(tmp_path, "egg", "SELECT 1 AS model_key FROM hen\n")

    error = complaint(tmp_path)

    assert "a cycle: " in str(error)
    assert " reads " in str(error)
    assert (error.path.stem, error.line) in {("hen", 9), ("egg", 7)}


def test_a_mart_without_a_grain_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "odd", "SELECT 1 AS model_key\n", "-- {name}: no grain.\n--\n-- Rule     none\n")

    error = complaint(tmp_path)

    assert (error.path, error.line) == (path, 1)
    assert "lacks 'Grain'" in str(error)


def test_a_header_that_names_another_table_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "odd", "SELECT 1 AS model_key\n", HEADER.replace("{name}", "even"))
    assert "the first line must read `-- odd:" in str(complaint(tmp_path))


def test_a_setting_nobody_knows_is_reported_on_its_line(tmp_path: Path) -> None:
    write(tmp_path, "odd", "SELECT 1 AS model_key\n", HEADER + "-- materialized: incremental\n")
    error = complaint(tmp_path)
    assert (error.line, "not one of table, view" in str(error)) == (7, True)


@pytest.mark.parametrize(
    ("kept_by", "told"),
    [
        ("metrics", "both must be models, and tables"),
        ("listing", "both grains need benchmark"),
        ("lisitng", "Did you mean 'listing'?"),
    ],
)
def test_what_a_table_is_kept_by_must_list_its_rows(tmp_path: Path, kept_by: str, told: str) -> None:
    write(tmp_path, "listing", "SELECT 'm' AS model_key\n")
    path = write(tmp_path, "odd", "SELECT 'm' AS model_key\n", HEADER + f"-- kept by: {kept_by}\n")

    error = complaint(tmp_path)

    assert (error.path, error.line, told in str(error)) == (path, 7, True), str(error)


def test_two_statements_in_one_file_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "odd", "SELECT 1 AS model_key;\nSELECT 2 AS model_key\n")
    assert "one SELECT per file, found 2" in str(complaint(tmp_path))


def test_a_statement_that_is_no_select_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "odd", "DELETE FROM metrics\n")
    error = complaint(tmp_path)
    assert (error.line, "SELECT" in str(error)) == (7, True)


def test_a_model_may_not_bear_the_name_of_a_landed_table(tmp_path: Path) -> None:
    write(tmp_path, "metrics", "SELECT 1 AS model_key\n")
    assert "'metrics' is taken" in str(complaint(tmp_path))


def test_a_cte_hides_a_table_only_from_what_follows_it(tmp_path: Path) -> None:
    write(tmp_path, "odd", "WITH metrics AS (SELECT * FROM metrics), x AS (SELECT * FROM metrics) SELECT * FROM x\n")
    write(tmp_path, "free", "WITH RECURSIVE r AS (SELECT 1 AS model_key UNION ALL SELECT * FROM r) SELECT * FROM r\n")

    assert {model.name: model.depends_on for model in load(tmp_path).models} == {"free": (), "odd": ("metrics",)}


def test_a_test_of_a_model_that_does_not_exist_is_reported_on_its_line(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    path = tmp_path / "tests" / "odd.sql"
    path.write_text("-- odd: a row that should not be.\n--\n-- test: nothing\nSELECT 1 AS one\n")

    error = complaint(tmp_path)

    assert (error.path, error.line) == (path, 3)


def test_a_grain_that_does_not_hold_is_found(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "sql", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    write(tmp_path / "sql", "odd", "SELECT model_key FROM scores\n")
    land(tmp_path / "data", evaluation())

    [failing] = publish(tmp_path / "data", models=load(tmp_path / "sql")).failing

    assert (failing.name, failing.rows) == ("odd_has_its_grain", [{"model_key": "tiny@step-100", "n_rows": 4}])


MACRO = """-- {name}: a question for the test.
--
-- macro: {name}(model, least := 0)
-- Takes    model: a key · least: a value
-- Columns  all of them
-- Reader   this test
"""


def write_macro(folder: Path, name: str, sql: str, header: str = MACRO) -> Path:
    path = folder / "macros" / f"{name}.sql"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(header.replace("{name}", name) + sql)
    return path


def test_a_macro_reads_what_it_names_and_what_its_macros_read(tmp_path: Path) -> None:
    write(tmp_path, "egg", "SELECT model_key FROM hatched('a', least := 1)\n")
    write_macro(tmp_path, "hatched", "SELECT * FROM scores WHERE model_key = model AND value >= least\n")
    write_macro(tmp_path, "egg", "SELECT * FROM egg WHERE model_key = model AND least = 0\n")
    write_macro(tmp_path, "boiled", "SELECT e.* FROM egg('a') AS e, range(3)\n")

    project = load(tmp_path)

    assert [item.name for item in project.items if item.name != "boiled"] == ["hatched", "egg", "egg"]
    assert project.model("egg").depends_on == ("scores",)
    assert {macro.name: set(macro.references) for macro in project.macros} == {
        "hatched": {"scores"}, "egg": {"egg"}, "boiled": {"egg"},
    }  # fmt: skip
    assert {macro.signature for macro in project.macros_of(project.model("egg"))} == {
        "boiled(model, least := 0)", "egg(model, least := 0)",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "header", "line", "said"),
    [
        ("SELECT * FROM score\n", MACRO, 7, "Did you mean 'scores'?"),
        ("SELECT * FROM odds('a')\n", MACRO, 7, "no macro is called 'odds'. Did you mean 'odd'?"),
        ("SELECT * FROM odd('a')\n", MACRO, 7, "a cycle: odd() reads odd()"),
        ("SELECT 1\n", MACRO.replace("{name}(", "even("), 3, "the header lacks `-- macro: odd("),
        ("SELECT 1\n", MACRO.replace("Takes", "Needs"), 1, "lacks 'Takes'"),
    ],
)
def test_what_is_wrong_with_a_macro_is_told_with_its_line(
    tmp_path: Path, sql: str, header: str, line: int, said: str
) -> None:
    path = write_macro(tmp_path, "odd", sql, header)

    error = complaint(tmp_path)

    assert (error.path, error.line) == (path, line)
    assert said in str(error)


def test_a_macro_that_cannot_be_bound_stops_the_publication_with_its_line(tmp_path: Path) -> None:
    for sql, line in (
        ("SELECT value\nFROM scores\nWHERE nothing > 1\n", 9),
        ("SELECT model,\n    least + nothing\nFROM scores\n", 7),
    ):
        path = write_macro(tmp_path, "odd", sql)

        with pytest.raises(SqlModelError, match="nothing") as caught:
            publish(tmp_path / "data", models=load(tmp_path))

        assert (caught.value.path, caught.value.line) == (path, line)


def test_every_column_of_a_mart_and_of_a_macro_is_explained_in_its_header_and_none_that_is_not_there(
    tmp_path: Path,
) -> None:
    project = load()
    publish(tmp_path)
    # with today's parts of the project: a column that another part has yet to land may be explained already
    to_come = {"ci_method", "n_clusters"}
    called = [(macro, f"{macro.name}({', '.join(['NULL'] * macro.n_parameters)})") for macro in project.macros]
    for item, source in [*((model, model.name) for model in project.models if model.layer == "marts"), *called]:
        there = {row["column_name"] for row in query(tmp_path, f"DESCRIBE FROM {source}")}
        if "those of the landed" not in item.columns:
            explained = column_notes(item.columns)
            assert set(explained) ^ there <= to_come, (source, set(explained) ^ there)
            assert all(explained.values()), source
