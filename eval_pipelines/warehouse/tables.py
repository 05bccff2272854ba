"""The base tables of the published database, and which landed files are in them. Knows DuckDB, no marts."""

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from eval_pipelines.keys import digest
from eval_pipelines.warehouse import migrations, segments
from eval_pipelines.warehouse.footers import check_shape
from eval_pipelines.warehouse.shapes import SHAPES, duckdb_columns

TABLES: Final = tuple(kind for kind in SHAPES if kind not in segments.ORDER)
BOOKKEEPING: Final = ("landed_files", "meta", "segments", "suspects")
LAYOUT: Final = 2
SHAPE_VERSION: Final = digest(
    [LAYOUT, {kind: dict(columns) for kind, columns in SHAPES.items()}, migrations.texts()], n_bytes=6
)
# What is new, for whoever builds on it: the tries and benchmarks that new rows belong to.
TOUCHED: Final = "touched"

_STALE_S: Final = 24 * 3600.0
_FILES_PER_INSERT: Final = 500


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
    # Metrics are landed last. Listing them first, we never see a metric without what it rests on.
    return _seen(landing, (entry for kind in SHAPES for entry in _entries(str(landing / kind))))


def files_in(landing: Path, folders: Collection[str]) -> dict[str, LandedFile]:
    """The landed files of these folders only, relative to `landing`; in the same order of kinds."""
    kinds = list(SHAPES)
    known = sorted(
        (one for one in folders if one.split("/")[0] in SHAPES), key=lambda one: kinds.index(one.split("/")[0])
    )
    return _seen(landing, (entry for folder in known for entry in _entries(str(landing / folder))))


def _seen(landing: Path, entries: Iterable[os.DirEntry[str]]) -> dict[str, LandedFile]:
    found: dict[str, LandedFile] = {}
    start = len(str(landing)) + 1
    for entry in entries:
        if entry.name.startswith("."):
            _sweep(entry)
        elif entry.name.endswith(".parquet"):
            stat = entry.stat()
            name = entry.path[start:]
            found[name] = LandedFile(name.split("/", 1)[0], name, stat.st_size, stat.st_mtime_ns)
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
        run(connection, f"CREATE TABLE {kind} ({_declared(kind)})")
    run(
        connection,
        "CREATE TABLE landed_files (kind VARCHAR, path VARCHAR, size_bytes BIGINT, mtime_ns BIGINT, "
        "n_rows BIGINT, n_columns BIGINT)",
    )
    run(connection, "CREATE TABLE suspects (evaluation_id VARCHAR, run_id VARCHAR)")
    segments.create(connection)


def drop_derived(connection: duckdb.DuckDBPyConnection) -> None:
    """Leave the base tables only: a model that was a view may be a table now, or be gone."""
    kept = {*TABLES, *segments.ORDER, *BOOKKEEPING}
    for what in ("view", "table"):
        found = f"SELECT {what}_name FROM duckdb_{what}s() WHERE NOT internal AND database_name = current_database()"
        for (name,) in run(connection, found):
            if name not in kept:
                run(connection, f'DROP {what} "{name}"')


def known_files(connection: duckdb.DuckDBPyConnection, folders: Collection[str] | None = None) -> set[LandedFile]:
    """The landed files a published database was made from; of these folders only, if they are given."""
    sql = "SELECT kind, path, size_bytes, mtime_ns FROM landed_files"
    if folders is None:
        return {LandedFile(*row) for row in run(connection, sql)}
    sql += " WHERE regexp_replace(path, '/[^/]*$', '') IN (SELECT unnest(?::VARCHAR[]))"
    return {LandedFile(*row) for row in run(connection, sql, [list(folders)])}


def insert(connection: duckdb.DuckDBPyConnection, root: Path, files: Iterable[LandedFile]) -> None:
    """Add the rows of these files, after checking their shape; `touched` holds the tries they belong to, afterwards.

    Raises:
        WarehouseError: naming file and column.
    """
    landing = root / "landing"
    by_kind: dict[tuple[str, int], list[str]] = {}
    rows = []
    for file in sorted(files):
        shape = check_shape(file.kind, landing / file.path)
        rows.append([file.kind, file.path, file.size_bytes, file.mtime_ns, shape.n_rows, shape.n_columns])
        by_kind.setdefault((file.kind, shape.version), []).append(str(landing / file.path))
    columns = "evaluation_id VARCHAR, run_id VARCHAR, model_key VARCHAR, benchmark VARCHAR"
    run(connection, f"CREATE OR REPLACE TEMP TABLE {TOUCHED} ({columns})")
    for (kind, version), paths in by_kind.items():
        # its times say that they are in UTC, as those in Parquet do
        template = _declared(kind).replace("TIMESTAMP", "TIMESTAMPTZ")
        run(connection, f"CREATE OR REPLACE TEMP TABLE shape_of_{kind} ({template})")
        # of one benchmark, then of one model: what is read together is written together
        paths.sort(key=lambda path: tuple(reversed(path.split("/")[-3:-1])))
        for start in range(0, len(paths), _FILES_PER_INSERT):
            _insert(connection, root, kind, version, paths[start : start + _FILES_PER_INSERT])
    if rows:
        unnested = ", ".join(f"unnest(?::{typ}[])" for typ in ("VARCHAR", "VARCHAR", *["BIGINT"] * 4))
        lists = [list(column) for column in zip(*rows, strict=True)]
        run(connection, f"INSERT INTO landed_files SELECT {unnested}", lists)


def _insert(connection: duckdb.DuckDBPyConnection, root: Path, kind: str, version: int, paths: list[str]) -> None:
    landed = migrations.newest_rows(
        kind, version, "SELECT * FROM read_parquet(?, union_by_name = true, hive_partitioning = false)"
    )
    columns = ", ".join(
        f"{name} AT TIME ZONE 'UTC' AS {name}" if typ == "TIMESTAMP" else f'"{name}"'
        for name, typ in duckdb_columns(kind).items()
    )
    # the empty table gives columns that these files lack
    rows = f"SELECT {columns} FROM (SELECT * FROM shape_of_{kind} UNION ALL BY NAME {landed})"
    given = [[segments.literal(path) for path in paths]]
    keys = [name if name in SHAPES[kind] else "NULL" for name in ("evaluation_id", "run_id", "model_key", "benchmark")]
    if kind in segments.ORDER:
        new = segments.write(connection, root / segments.FOLDER, kind, rows, given)
        source = (
            f"read_parquet({segments.quoted(segments.literal(str(root / segments.FOLDER / new.name)))})" if new else ""
        )
        is_telling = kind == "server_metrics" and new is not None
    else:
        run(connection, f"CREATE OR REPLACE TEMP TABLE new_rows AS {rows}", given)
        run(connection, f"INSERT INTO {kind} FROM new_rows")
        # what gates said belongs to no try: nothing but their own tables is made from it
        source, is_telling = "new_rows", kind == "samples" or "evaluation_id" in SHAPES[kind]
    if is_telling:
        run(connection, f"INSERT INTO {TOUCHED} SELECT DISTINCT {', '.join(keys)} FROM {source}")


def _declared(kind: str) -> str:
    return ", ".join(f'"{name}" {typ}' for name, typ in duckdb_columns(kind).items())


def write_meta(connection: duckdb.DuckDBPyConnection, values: Mapping[str, Any]) -> None:
    """`meta`: one row about the publication itself."""
    columns = ", ".join(f'? AS "{name}"' for name in values)
    counts = ", ".join(f"(SELECT count(*) FROM {kind}) AS n_{kind}" for kind in TABLES)
    counts += "".join(
        f", (SELECT coalesce(sum(n_rows), 0)::BIGINT FROM segments WHERE kind = '{kind}') AS n_{kind}"
        for kind in segments.ORDER
    )
    files = "(SELECT count(*) FROM landed_files) AS n_landed_files"
    run(connection, f"CREATE OR REPLACE TABLE meta AS SELECT {columns}, {counts}, {files}", list(values.values()))


def count_rows(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Rows of every table and of the segmented kinds (other views are not counted: that would read the segments)."""
    names = run(connection, "SELECT table_name FROM duckdb_tables() WHERE database_name = 'pub' ORDER BY table_name")
    tables = {
        name: run(connection, f'SELECT count(*) FROM "{name}"')[0][0] for (name,) in names if name not in BOOKKEEPING
    }
    counted = dict.fromkeys(segments.ORDER, 0)
    for segment in segments.listed(connection):
        counted[segment.kind] += segment.n_rows
    return tables | counted
