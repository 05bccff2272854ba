"""Rows from files: what is missing is named with its place and with what is there."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval_pipelines.benchmarks.data import of_subset, read_splits
from eval_pipelines.config import DataSource
from eval_pipelines.errors import DataError

pytestmark = pytest.mark.unit

ROWS = [{"question": "2+2?", "answer": "4"}, {"question": "né?", "answer": "oui"}]


def read(folder: Path, file: str = "a.jsonl", **fields: Any) -> list[dict[str, Any]]:
    return read_splits(DataSource(folder=folder, splits={"test": file}, **fields), benchmark="mine")["test"]


def write_jsonl(folder: Path, rows: list[Any] = ROWS) -> None:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))


def test_every_format_gives_the_same_rows(tmp_path) -> None:
    write_jsonl(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "a.csv").write_text('question,answer\n2+2?,4\n"né?",oui\n')
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert {file: read(tmp_path, file) for file in ("a.jsonl", "a.json", "a.csv", "a.parquet")} == dict.fromkeys(
        ("a.jsonl", "a.json", "a.csv", "a.parquet"), ROWS
    )


@pytest.mark.parametrize("file", ["a.csv", "a.json", "a.jsonl"])
def test_a_byte_order_mark_is_no_part_of_a_column_name(tmp_path, file) -> None:
    text = {"a.csv": "q\n1\n", "a.json": '[{"q": "1"}]', "a.jsonl": '{"q": "1"}\n'}[file]
    (tmp_path / file).write_text(text, encoding="utf-8-sig")
    assert read(tmp_path, file) == [{"q": "1"}]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', r"a\.jsonl:2: no JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: a JSON object is wanted, not list"),
        ("a.jsonl", b"\xff\xfe\n", r"a\.jsonl could not be read"),
        ("a.jsonl", b"\n", r"a\.jsonl holds no rows"),
        ("a.json", b'{"a": 1}', "a list of JSON objects is wanted"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"a\.csv:3: the line has more cells than the header"),
        ("a.parquet", b"this is no parquet file", r"a\.parquet could not be read"),
    ],
)
def test_a_broken_file_is_named(tmp_path, file, content, said) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read(tmp_path, file)


def test_a_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"benchmarks\.mine\.data: there is no file .*a\.jsonl"):
        read(tmp_path)


@pytest.mark.parametrize("package", ["no_such_package", "no_such_package.data", "json.decoder"])
def test_a_package_that_is_not_installed_is_named(package) -> None:
    source = DataSource(package=package, splits={"test": "a.jsonl"})
    with pytest.raises(DataError, match=f"no package '{package}' is installed"):
        read_splits(source, benchmark="mine")


def test_a_package_is_read_without_being_imported(tmp_path, monkeypatch) -> None:
    (tmp_path / "heavy_package").mkdir()
    (tmp_path / "heavy_package/__init__.py").write_text("raise RuntimeError('imported')")
    write_jsonl(tmp_path / "heavy_package")
    monkeypatch.syspath_prepend(tmp_path)
    source = DataSource(package="heavy_package", splits={"test": "a.jsonl"})
    assert read_splits(source, benchmark="mine") == {"test": ROWS}
    assert "heavy_package" not in sys.modules


def test_a_template_makes_a_column_of_text(tmp_path) -> None:
    write_jsonl(tmp_path)
    assert read(tmp_path, columns={"both": "{{question}}\n#### {{answer}}"})[0]["both"] == "2+2?\n#### 4"


def test_an_expression_makes_a_column_of_any_value(tmp_path) -> None:
    write_jsonl(tmp_path, [{"choices": ["a", "b"], "right": 1}])
    assert read(tmp_path, columns={"gold": "= {'choices': [choices[right]]}"})[0]["gold"] == {"choices": ["b"]}


@pytest.mark.parametrize("text", ["{{nothing}}", "= nothing", "= nothing.more", "= question.no_such_thing"])
def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path, text) -> None:
    write_jsonl(tmp_path)
    with pytest.raises(DataError, match=r"a\.jsonl: row 1: .*data\.columns.* the columns answer, question"):
        read(tmp_path, columns={"new": text})


@pytest.mark.parametrize("text", ["= 1 / 0", "= question + 1", "= answer | int + none"])
def test_an_expression_that_fails_names_its_row(tmp_path, text) -> None:
    write_jsonl(tmp_path)
    with pytest.raises(DataError, match="row 1"):
        read(tmp_path, columns={"new": text})


@pytest.mark.parametrize("text", ["{{ open", "= (1"])
def test_a_template_that_cannot_be_read_names_its_column(tmp_path, text) -> None:
    write_jsonl(tmp_path)
    with pytest.raises(DataError, match=r"benchmarks\.mine\.data\.columns\.new"):
        read(tmp_path, columns={"new": text})


def test_a_template_cannot_reach_into_python(tmp_path) -> None:
    write_jsonl(tmp_path)
    with pytest.raises(DataError, match="unsafe"):
        read(tmp_path, columns={"new": "{{ question.__class__.__mro__ }}"})


def test_a_column_may_be_called_self(tmp_path) -> None:
    write_jsonl(tmp_path, [{"self": "x", "question": "y"}])
    assert read(tmp_path, columns={"new": "{{question}}!"})[0]["new"] == "y!"


def test_a_subset_is_the_rows_that_bear_its_name() -> None:
    splits = {"test": [{"subject": "law", "i": 1}, {"subject": "art", "i": 2}, {"i": 3}]}
    assert of_subset(splits, "subject", "law", benchmark="mine") == {"test": [{"subject": "law", "i": 1}]}


def test_a_subset_column_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(DataError, match="'subjet', but the rows have the columns i, subject"):
        of_subset({"test": [{"subject": "law", "i": 1}]}, "subjet", "law", benchmark="mine")
