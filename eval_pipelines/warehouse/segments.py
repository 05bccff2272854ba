"""Segments: what is too large for the published file lies beside it, in few, sorted, immutable Parquet files.

    published/<kind>-<random>.parquet     rows of many landed files, sorted so that one model's are read alone

Each publication adds one segment of what is new; eight of about one size are merged into one, so that a reader opens
few files and each row is written some four times in all. The published file lists the segments that count in
`segments`, and its views name them by absolute path. A segment that no longer counts is kept for a day: whoever still
has an older published file open goes on reading it.
"""

import math
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from eval_pipelines.warehouse.files import make_folder, sync_file, sync_folder
from eval_pipelines.warehouse.shapes import duckdb_columns

ORDER: Final[Mapping[str, str]] = {
    "scores": "benchmark, model_key, evaluation_id, run_id, sample_id",
    "judgements": "benchmark, model_key, evaluation_id, run_id, sample_id",
    "responses": "benchmark, model_key, sample_id, part, repeat",
    "server_metrics": "benchmark, model_key, evaluation_id, run_id, scraped_at",
}
FOLDER: Final = "published"
KEPT_S: Final = 24 * 3600.0
FAN_IN: Final = 8
MOST_ROWS: Final = 600_000
_MOST_BYTES: Final = 512 * 2**20
_ROWS_PER_GROUP: Final = 20_000


@dataclass(frozen=True, order=True)
class Segment:
    """One file of the published folder."""

    kind: str
    name: str
    n_rows: int
    size_bytes: int


def create(connection: duckdb.DuckDBPyConnection) -> None:
    """The empty list of segments."""
    connection.execute(
        "CREATE TABLE segments (kind VARCHAR, name VARCHAR, n_rows BIGINT, size_bytes BIGINT)"
    ).fetchall()


def listed(connection: duckdb.DuckDBPyConnection) -> list[Segment]:
    """The segments that count."""
    return [
        Segment(*row) for row in connection.execute("SELECT kind, name, n_rows, size_bytes FROM segments").fetchall()
    ]


def write(
    connection: duckdb.DuckDBPyConnection, folder: Path, kind: str, rows: str, params: list[Any]
) -> Segment | None:
    """Write what the query `rows` finds as a new segment and list it; None if it finds nothing."""
    make_folder(folder)
    name = f"{kind}-{uuid.uuid4().hex}.parquet"
    aside = folder / f".{name}"
    copied = connection.execute(
        f"COPY (SELECT * FROM ({rows}) ORDER BY {ORDER[kind]}) TO {quoted(str(aside))} "
        f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROWS_PER_GROUP})",
        params,
    ).fetchall()
    n_rows = int(copied[0][0])
    if not n_rows:
        aside.unlink()
        return None
    sync_file(aside)
    os.rename(aside, folder / name)
    sync_folder(folder)
    segment = Segment(kind, name, n_rows, (folder / name).stat().st_size)
    connection.execute(
        "INSERT INTO segments VALUES (?, ?, ?, ?)", [kind, name, segment.n_rows, segment.size_bytes]
    ).fetchall()
    return segment


def due(segments: Iterable[Segment]) -> list[Segment]:
    """The segments to merge next: eight or more of about one size, the smallest first; none if all is well."""
    tiers: dict[tuple[int, str], list[Segment]] = {}
    for segment in sorted(segments):
        tiers.setdefault((int(math.log(max(1, segment.n_rows), FAN_IN)), segment.kind), []).append(segment)
    for _, tier in sorted(tiers.items()):
        chosen = _within_bounds(tier)
        if len(chosen) >= FAN_IN:
            return chosen
    return []


def _within_bounds(tier: list[Segment]) -> list[Segment]:
    chosen: list[Segment] = []
    n_rows = n_bytes = 0
    for segment in sorted(tier, key=lambda one: one.n_rows):
        n_rows, n_bytes = n_rows + segment.n_rows, n_bytes + segment.size_bytes
        if n_rows > MOST_ROWS or n_bytes > _MOST_BYTES:
            break
        chosen.append(segment)
    return chosen


def merge(connection: duckdb.DuckDBPyConnection, folder: Path, chosen: list[Segment]) -> None:
    """Write these segments as one and list it in their place; the old files stay."""
    paths = [literal(str(folder / segment.name)) for segment in chosen]
    write(connection, folder, chosen[0].kind, "SELECT * FROM read_parquet(?, hive_partitioning = false)", [paths])
    connection.execute(
        "DELETE FROM segments WHERE name IN (SELECT unnest(?))", [[segment.name for segment in chosen]]
    ).fetchall()


def create_views(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """A view for each segmented kind, over exactly the segments that are listed."""
    names: dict[str, list[str]] = {kind: [] for kind in ORDER}
    for segment in sorted(listed(connection)):
        names[segment.kind].append(segment.name)
    for kind, files in names.items():
        columns = duckdb_columns(kind)
        if files:
            paths = ", ".join(quoted(literal(str(folder / name))) for name in files)
            # qualified: a macro may have a parameter of a column's name
            select = ", ".join(f'segment."{name}"' for name in columns)
            rows = f"SELECT {select} FROM read_parquet([{paths}], hive_partitioning = false) AS segment"
            if kind == "responses":
                rows += " WHERE segment.fingerprint IN (SELECT fingerprint FROM evaluations)"
        else:
            empty = ", ".join(f'NULL::{typ} AS "{name}"' for name, typ in columns.items())
            rows = f"SELECT {empty} WHERE false"
        connection.execute(f"CREATE OR REPLACE VIEW {kind} AS {rows}").fetchall()


def are_there(folder: Path, counted: Iterable[Segment]) -> bool:
    """Whether all of them are: somebody may have deleted the folder, as one may with what is derived."""
    return {segment.name for segment in counted} <= _names(folder)


@contextmanager
def kept_if_done(folder: Path) -> Iterator[None]:
    """Delete the segments that were written in here if it ends in an error: nobody knows of them. Only under the lock."""
    before = _names(folder)
    try:
        yield
    except BaseException:
        for name in _names(folder) - before:
            (folder / name).unlink(missing_ok=True)
        raise


def _names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder)}
    except FileNotFoundError:
        return set()


def touch(folder: Path, superseded: Iterable[Segment]) -> None:
    """Begin the day for which a superseded segment is kept; before the state without it is in place."""
    for segment in superseded:
        try:
            os.utime(folder / segment.name)
        except FileNotFoundError:
            pass


def sweep(folder: Path, counted: Iterable[Segment]) -> None:
    """Delete what no longer counts since a day, and what a killed publication left aside. Only under the lock."""
    keep = {segment.name for segment in counted}
    if not folder.is_dir():
        return
    for entry in os.scandir(folder):
        is_aside = entry.name.startswith(".")
        if entry.name not in keep and (is_aside or entry.stat().st_mtime < time.time() - KEPT_S):
            Path(entry.path).unlink(missing_ok=True)


def quoted(text: str) -> str:
    """A SQL string."""
    return "'" + text.replace("'", "''") + "'"


def literal(path: str) -> str:
    """A path in which nothing is a wildcard."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in path)
