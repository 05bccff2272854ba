"""Reading the published database: always the newest state, whatever else this process has open.

Anyone may also open `<data root>/scores.duckdb` directly (`duckdb.connect(path, read_only=True)`, the command line):
it is replaced, never written in place, so no reader blocks a publication or sees half of one. One trap remains:
within one process DuckDB shares the database behind equal paths, so `duckdb.connect` keeps answering from the old
file for as long as any connection to it is open. A long-lived process reads through here.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
        raise WarehouseError(f"nothing is published at {path} yet. Run `eval-pipelines publish`.")
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


def query(data_root: Path, sql: str, params: list[Any] | None = None) -> list[dict[str, Any]]:
    """Rows of one query against the newest published state; moments are aware, in UTC.

    Raises:
        WarehouseError: nothing is published.
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
    """Rows of one query on an open connection; moments are aware, in UTC. Raises duckdb.Error."""
    rows = connection.execute(sql, params or []).fetchall()
    names = [str(column[0]) for column in connection.description or []]
    return [{name: _aware(value) for name, value in zip(names, row, strict=True)} for row in rows]


def _aware(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value
