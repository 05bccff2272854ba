"""The base tables of the published database, and which landed files are in them. Knows DuckDB, no marts."""

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from eval_pipelines.keys import digest
from eval_pipelines.warehouse.shapes import SHAPES, check_shape, duckdb_columns, time_columns

TABLES: Final = tuple(kind for kind in SHAPES if kind != "responses")
BOOKKEEPING: Final = ("landed_files", "meta")
SHAPE_VERSION: Final = digest([1, {kind: dict(columns) for kind, columns in SHAPES.items()}], n_bytes=6)

_STALE_S: Final = 24 * 3600.0
_FILES_PER_INSERT: Final = 1_000


@dataclass(frozen=True, order=True)
class LandedFile:
    """One landed file as it was seen: if size or time change, it is not the file we read."""

    kind: str
    path: str
    size_bytes: int
    mtime_ns: int


def run(connection: duckdb.DuckDBPyConnection, sql: str, params: list[Any] | None = None) -> list[tuple[Any, ...]]:
    """Execute and fetch: DuckDB 2.0 leaves a connection busy until its result is read."""
    return connection.execute(sql, params or []).fetchall()


def landed_files(landing: Path) -> dict[str, LandedFile]:
    """Every landed file by its path below `landing`; removes what a killed writer left aside more than a day ago."""
    found: dict[str, LandedFile] = {}
    # Metrics are landed last. Listing them first, we never see a metric without what it rests on.
    for kind in SHAPES:
        for entry in _entries(str(landing / kind)):
            if entry.name.startswith("."):
                _sweep(entry)
            elif entry.name.endswith(".parquet"):
                stat = entry.stat()
                name = entry.path[len(str(landing)) + 1 :]
                found[name] = LandedFile(kind, name, stat.st_size, stat.st_mtime_ns)
    return found


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Every file below a folder: thousands of them, so without pathlib."""
    if not os.path.isdir(folder):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _entries(entry.path)
            else:
                yield entry


def _sweep(entry: os.DirEntry[str]) -> None:
    try:
        if ".tmp-" in entry.name and entry.stat().st_mtime < time.time() - _STALE_S:
            os.unlink(entry.path)
    except FileNotFoundError:
        pass


def create(connection: duckdb.DuckDBPyConnection) -> None:
    """Empty base tables."""
    for kind in TABLES:
        columns = ", ".join(f'"{name}" {typ}' for name, typ in duckdb_columns(kind).items())
        run(connection, f"CREATE TABLE {kind} ({columns})")
    run(
        connection,
        "CREATE TABLE landed_files (kind VARCHAR, path VARCHAR, size_bytes BIGINT, mtime_ns BIGINT, "
        "n_rows BIGINT, n_columns BIGINT)",
    )


def known_files(connection: duckdb.DuckDBPyConnection) -> set[LandedFile]:
    """The landed files a published database was made from."""
    return {LandedFile(*row) for row in run(connection, "SELECT kind, path, size_bytes, mtime_ns FROM landed_files")}


def insert(connection: duckdb.DuckDBPyConnection, landing: Path, files: Iterable[LandedFile]) -> None:
    """Add the rows of these files, after checking their shape. Raises WarehouseError naming file and column."""
    by_kind: dict[str, list[str]] = {}
    rows = []
    for file in sorted(files):
        n_rows, n_columns = check_shape(file.kind, landing / file.path)
        rows.append([file.kind, file.path, file.size_bytes, file.mtime_ns, n_rows, n_columns])
        by_kind.setdefault(file.kind, []).append(str(landing / file.path))
    for kind in TABLES:
        paths = by_kind.get(kind, [])
        for start in range(0, len(paths), _FILES_PER_INSERT):
            run(
                connection,
                f"INSERT INTO {kind} BY NAME SELECT *{_in_utc(kind)} FROM read_parquet(?, union_by_name = true, "
                "hive_partitioning = false)",
                [[_literal(path) for path in paths[start : start + _FILES_PER_INSERT]]],
            )
    if rows:
        columns = list(zip(*rows, strict=True))
        unnested = ", ".join(f"unnest(?::{typ}[])" for typ in ("VARCHAR", "VARCHAR", *["BIGINT"] * 4))
        run(connection, f"INSERT INTO landed_files SELECT {unnested}", [list(column) for column in columns])


def create_responses(connection: duckdb.DuckDBPyConnection, landing: Path) -> None:
    """`responses`: a view over the landed Parquet, restricted to files and models that are published.

    Answers are by far the most bytes, and only drill-downs read them: they stay where they are. The view holds the
    landing folder's absolute path; after moving the data root, publish again.
    """
    columns = duckdb_columns("responses")
    run(connection, "DROP VIEW IF EXISTS responses")
    [(n_files, n_columns)] = run(
        connection, "SELECT count(*), min(n_columns) FROM landed_files WHERE kind = 'responses'"
    )
    if not n_files:
        empty = ", ".join(f'NULL::{typ} AS "{name}"' for name, typ in columns.items())
        run(connection, f"CREATE VIEW responses AS SELECT {empty} WHERE false")
        return
    pattern = f"{_literal(str(landing))}/responses/model=*/benchmark=*/*.parquet"
    # By name reads every footer before the first row: only where an older file lacks a column.
    by_name = str(n_columns < len(columns)).lower()
    # model and benchmark come from the folder names, so that a filter on them skips whole files.
    source = {"model_key": "landed.model", **{name: f"{name} AT TIME ZONE 'UTC'" for name in time_columns("responses")}}
    select = ", ".join(f'{source.get(name, f"landed.{name}")} AS "{name}"' for name in columns)
    run(
        connection,
        f"CREATE VIEW responses AS SELECT {select} FROM read_parquet({_quoted(pattern)}, union_by_name = {by_name}, "
        "hive_partitioning = true, hive_types_autocast = false, filename = 'landed_at_path') AS landed "
        f"WHERE landed_at_path[{len(str(landing)) + 2}:] IN (SELECT path FROM landed_files WHERE kind = 'responses') "
        "AND fingerprint IN (SELECT fingerprint FROM evaluations)",
    )


def drop_models(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop everything that is derived from the base tables."""
    keep = {*TABLES, "landed_files"}
    macros = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE NOT internal AND database_name = 'pub'"
    for (name,) in run(connection, macros):
        run(connection, f'DROP MACRO TABLE "{name}"')
    for (name,) in run(connection, "SELECT view_name FROM duckdb_views() WHERE NOT internal AND database_name = 'pub'"):
        run(connection, f'DROP VIEW "{name}"')
    for (name,) in run(connection, "SELECT table_name FROM duckdb_tables() WHERE database_name = 'pub'"):
        if name not in keep:
            run(connection, f'DROP TABLE "{name}"')


def write_meta(connection: duckdb.DuckDBPyConnection, values: Mapping[str, Any]) -> None:
    """`meta`: one row about the publication itself."""
    columns = ", ".join(f'? AS "{name}"' for name in values)
    counts = ", ".join(f"(SELECT count(*) FROM {kind}) AS n_{kind}" for kind in TABLES)
    files = "(SELECT count(*) FROM landed_files) AS n_landed_files"
    run(connection, f"CREATE TABLE meta AS SELECT {columns}, {counts}, {files}", list(values.values()))


def count_rows(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Rows of every table (views are not counted: that would read the landing)."""
    names = run(connection, "SELECT table_name FROM duckdb_tables() WHERE database_name = 'pub' ORDER BY table_name")
    return {
        name: run(connection, f'SELECT count(*) FROM "{name}"')[0][0] for (name,) in names if name not in BOOKKEEPING
    }


def _in_utc(kind: str) -> str:
    times = ", ".join(f"{name} AT TIME ZONE 'UTC' AS {name}" for name in time_columns(kind))
    return f" REPLACE ({times})" if times else ""


def _literal(path: str) -> str:
    """A path in which nothing is a wildcard."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
