"""docs/analysts.md says what is there: its queries run and return what it shows, its dictionary is the headers'."""

import importlib.util
import re
from pathlib import Path

import duckdb
import pytest

from tests.docs.analysts import DOCUMENT, questions, rewritten

NOTEBOOKS = sorted((DOCUMENT.parent / "notebooks").glob("*.py"))


@pytest.fixture(scope="module")
def text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def test_the_document_is_what_the_headers_and_the_record_say(text, record) -> None:
    assert rewritten(text, record) == text, "docs/analysts.md is stale: `make docs` writes it anew"


def test_a_stale_dictionary_and_a_wrong_result_are_found(text, record) -> None:
    for right, stale in (("| `rank_worst` |", "| `rank_wurst` |"), ("| gsm8k | 1 | 1 |", "| gsm8k | 2 | 1 |")):
        assert text.count(right) == 1
        assert rewritten(text.replace(right, stale), record) == text
    with pytest.raises(duckdb.BinderException):
        rewritten(text.replace("rank, rank_best", "rank, rank_bets"), record)


def test_there_are_ten_questions_and_each_has_an_answer(text, record) -> None:
    found = questions(text)
    assert len(found) == len(re.findall(r"^### \d+\. .*\?$", text, re.MULTILINE)) == 10
    with duckdb.connect(str(record / "scores.duckdb"), read_only=True) as database:
        assert all(database.execute(sql).fetchall() for sql in found)


def test_every_column_of_every_table_has_a_meaning(text) -> None:
    dictionary = text.split("<!-- dictionary -->")[1]
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (.*) \|$", dictionary, re.MULTILINE)
    assert len(rows) > 150
    assert [row for row in rows if not row[2].strip()] == []


def test_the_ways_to_open_it_work(text, record, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(record)
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        names: dict[str, object] = {}
        exec(block, names)
        if "frame" in names:
            assert len(names["frame"]) == 19
        if "engine" in names:
            with names["engine"].connect() as connection:
                assert connection.exec_driver_sql("SELECT count(*) FROM leaderboard").scalar() == 19
        if "rows" in names:
            assert names["rows"][0]["generation"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_runs(path: Path, record, monkeypatch, text) -> None:
    pytest.importorskip("marimo", reason="marimo is not installed: `pip install marimo`")
    assert f"notebooks/{path.name}" in text
    monkeypatch.setattr("sys.argv", [path.name, "--record", str(record / "scores.duckdb")])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, found = module.app.run()
    if path.stem == "first_look":
        assert [*found["leaders"]["model_key"]] == ["atlas-1b@step-03000", "borealis-8b@hosted", "atlas-1b@step-03000"]
        assert (len(found["missing"]), len(found["failures"])) == (2, 1)
    else:
        assert [pair.benchmark for pair in found["pairs"]] == ["gsm8k"]
        assert found["flips"]
