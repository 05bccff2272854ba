"""Reading the published database: always the newest state, whatever else this process has open.

Anyone may also open `<data root>/scores.duckdb` directly (`duckdb.connect(path, read_only=True)`, the command line):
it is replaced, never written in place, so no reader blocks a publication or sees half of one. One trap remains:
within one process DuckDB shares the database behind equal paths, so `duckdb.connect` keeps answering from the old
file for as long as any connection to it is open. A long-lived process reads through here:

    with Reader(data_root) as reader:
        reader.query("FROM leaderboard")
        reader.refresh()                     # the newest state from here on; True if there was a newer one
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import duckdb

from eval_pipelines.errors import WarehouseError

PUBLISHED = "scores.duckdb"


def published_path(data_root: Path) -> Path:
    """Where the published database of a data root lies, absolute."""
    return data_root.resolve() / PUBLISHED


def open_published(data_root: Path) -> duckdb.DuckDBPyConnection:
    """Open the newest published state read-only; close it yourself. It stays at that state while it is open.

    The tables are in the catalog `scores`, which is the connection's default; a `.cursor()` of it needs
    `USE scores` of its own.

    Raises:
        WarehouseError: nothing was published yet, or what lies there cannot be read.
    """
    path = published_path(data_root)
    if not path.exists():
        raise WarehouseError(
            f"nothing is published at {path} yet. Run `eval-pipelines publish`, or first "
            "`eval-pipelines evaluate` if nothing was asked."
        )
    # A private in-memory instance with the file attached: duckdb.connect(path) would hand out an instance that an
    # older connection of this process keeps alive, and with it the former state.
    connection = duckdb.connect()
    try:
        connection.execute("SET enable_progress_bar = false").fetchall()
        connection.execute("SET TimeZone = 'UTC'").fetchall()
        connection.execute(f"ATTACH '{str(path).replace(chr(39), chr(39) * 2)}' AS scores (READ_ONLY)").fetchall()
        connection.execute("USE scores").fetchall()
    except duckdb.Error as error:
        connection.close()
        raise WarehouseError(
            f"{path} cannot be read: {error}. It is derived: delete it and run `eval-pipelines publish`."
        ) from error
    return connection


class Reader:
    """One state of the published database, held open until it is told to take the newest one.

    `connection` is replaced by a refresh that finds something newer: relations and cursors made from it end with it.
    """

    def __init__(self, data_root: Path) -> None:
        self._root = data_root
        self._opened = _identity(data_root)
        self.connection = open_published(data_root)

    def refresh(self) -> bool:
        """Go on with the newest state; False if this is it. Raises WarehouseError, and then keeps what it has."""
        newest = _identity(self._root)
        if newest == self._opened:
            return False
        connection = open_published(self._root)
        self.connection.close()
        self.connection, self._opened = connection, newest
        return True

    def query(self, sql: str, params: list[Any] | dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows of one query against the state it has. Raises duckdb.Error."""
        return fetch(self.connection, sql, params)

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _identity(data_root: Path) -> tuple[int, int]:
    # read before opening: a state that comes in between is then found by the next refresh
    try:
        found = published_path(data_root).stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def query(data_root: Path, sql: str, params: list[Any] | None = None) -> list[dict[str, Any]]:
    """Rows of one query against the newest published state; moments are aware, in UTC.

    Raises:
        WarehouseError: nothing is published, or not all of it is there.
        duckdb.Error: the query is wrong.
    """
    connection = open_published(data_root)
    try:
        return fetch(connection, sql, params)
    finally:
        connection.close()


def fetch(
    connection: duckdb.DuckDBPyConnection, sql: str, params: list[Any] | dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Rows of one query on an open connection; moments are aware, in UTC.

    Raises:
        WarehouseError: a file that the published one points to is gone.
        duckdb.Error: the query is wrong.
    """
    with told_if_a_segment_is_gone():
        rows = connection.execute(sql, params or []).fetchall()
    names = [str(column[0]) for column in connection.description or []]
    return [{name: _aware(value) for name, value in zip(names, row, strict=True)} for row in rows]


@contextmanager
def told_if_a_segment_is_gone() -> Iterator[None]:
    """The views of the published file read Parquet files beside it. Raises WarehouseError."""
    try:
        yield
    except duckdb.IOException as error:
        raise WarehouseError(
            f"the published record is not whole: {error}. All of it is derived: run `eval-pipelines publish`."
        ) from None


def _aware(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value
