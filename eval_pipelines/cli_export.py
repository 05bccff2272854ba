"""`eval-pipelines export`: a table or a query as a file."""

import json
import shutil
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from eval_pipelines import formats
from eval_pipelines.cli_output import Output, columns_of, output_options
from eval_pipelines.config import load_config
from eval_pipelines.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    import duckdb

_COPIED: Final = {
    "csv": "FORMAT csv, HEADER true",
    "json": "FORMAT json, ARRAY true",
    "parquet": "FORMAT parquet, COMPRESSION zstd",
}


@click.command("export")
@click.argument("what")
@output_options
@click.pass_obj
def export(path: Path, what: str, output: Output) -> None:
    """Export WHAT, a published table or a SELECT over them: --to scores.parquet, or as --format csv to a pipe."""
    from eval_pipelines.warehouse.read import fetch, open_published

    with closing(open_published(load_config(path).data_root)) as connection:
        sql = _select(connection, what)
        if output.form in _COPIED:
            _copy(connection, sql, output)
            return
        rows = fetch(connection, sql)
    output.rows(rows, columns_of(rows))


def _select(connection: "duckdb.DuckDBPyConnection", what: str) -> str:
    """One SELECT: of a table by its name, or as it was written. Raises UnknownNameError, ConfigError."""
    import duckdb

    known = sorted(str(row[0]) for row in connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'scores' "
        "UNION SELECT view_name FROM duckdb_views() WHERE database_name = 'scores' AND NOT internal"
    ).fetchall())  # fmt: skip
    if what in known:
        return f'SELECT * FROM "{what}"'
    if len(what.split()) == 1 and "(" not in what:
        raise UnknownNameError("published table", what, known=known)
    try:
        [(parsed,)] = connection.execute("SELECT json_serialize_sql(?)", [what.rstrip().rstrip(";")]).fetchall()
        told: dict[str, Any] = json.loads(parsed)
        if told["error"] or len(told["statements"]) != 1:
            raise ConfigError(f"that is no single SELECT: {told.get('error_message', 'one statement, please')}")
        connection.execute(f"EXPLAIN {what}").fetchall()
    except duckdb.Error as error:
        raise ConfigError(f"that query cannot be run: {error}") from None
    return what.rstrip().rstrip(";")


def _copy(connection: "duckdb.DuckDBPyConnection", sql: str, output: Output) -> None:
    """Straight from DuckDB to the file or the pipe: as many rows as there are, in little memory."""
    with tempfile.TemporaryDirectory() as folder:
        target = output.target or Path(folder) / "rows"
        with formats.written_aside(target) as aside:
            quoted = str(aside.absolute()).replace("'", "''")
            told = connection.execute(f"COPY ({sql}) TO '{quoted}' ({_COPIED[output.form]})").fetchall()
        if output.target is not None:
            click.echo(f"{output.target}: {told[0][0]:,} rows", err=True)
            return
        with target.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
