"""`eval-pipelines export`: a table or a query as a file, or the latest numbers to a tracker."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from eval_pipelines import formats, plugins
from eval_pipelines.cli.output import Output, columns_of
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
@click.option("--format", "form", type=click.Choice(formats.FORMATS), help="Of a table: by default as --to ends.")
@click.option("--to", metavar="FILE|PLACE", help="A file; of an exporter: the tracker.")
@click.option("--family", "families", multiple=True, metavar="NAME", help="Of an exporter: only this one; repeatable.")
@click.option("--benchmark", "benchmarks", multiple=True, metavar="NAME", help="Likewise.")
@click.option("--token-env", metavar="VARIABLE", help="Of an exporter: the variable that holds a token.")
@click.pass_obj
def export(
    path: Path, what: str, form: str | None, to: str | None, families: tuple[str, ...], benchmarks: tuple[str, ...],
    token_env: str | None,
) -> None:  # fmt: skip
    """Export WHAT: a published table, a SELECT over them, or the latest numbers to a tracker.

    \b
    eval-pipelines export leaderboard --to leaderboard.parquet
    eval-pipelines export "FROM grid WHERE status = 'missing'" --format csv
    eval-pipelines export mlflow --to http://127.0.0.1:5000
    eval-pipelines export wandb --to my-team/my-project
    """
    from eval_pipelines.warehouse.read import fetch, open_published

    data_root = load_config(path).data_root
    if what in plugins.names("exporters"):
        _send(data_root, what, to, families, benchmarks, token_env)
        return
    if families or benchmarks or token_env:
        raise ConfigError("--family, --benchmark and --token-env are for trackers: of a table, say it in a SELECT.")
    output = Output(form, to)
    with closing(open_published(data_root)) as connection:
        sql = _select(connection, what)
        with _told_if_it_cannot_be_run():
            if output.form in _COPIED:
                _copy(connection, sql, output)
                return
            rows = fetch(connection, sql)
    output.rows(rows, columns_of(rows))


def _send(
    data_root: Path,
    what: str,
    to: str | None,
    families: Sequence[str],
    benchmarks: Sequence[str],
    token_env: str | None,
) -> None:
    from eval_pipelines.exporters import Sent, Target, courses
    from eval_pipelines.warehouse.read import open_published

    exporter = plugins.load("exporters", what, kind="exporter")
    if not to:
        raise ConfigError(f"--to is missing: {exporter.TO}.")
    token = os.environ.get(token_env) if token_env else None
    if token_env and not token:
        raise ConfigError(f"--token-env: the variable {token_env} is not set.")
    with closing(open_published(data_root)) as connection:
        found = courses(connection, families, benchmarks)
    folder = data_root / "exports"
    folder.mkdir(parents=True, exist_ok=True)
    sent: Sent = exporter.export(found, Target(to, token, folder))
    replaced = f", {sent.n_replaced} runs replaced" if sent.n_replaced else ""
    click.echo(
        f"{sent.where}: {sent.n_new:,} new numbers, {sent.n_known:,} known, {sent.n_new_runs} new runs{replaced}"
    )


def _select(connection: "duckdb.DuckDBPyConnection", what: str) -> str:
    """One SELECT: of a table by its name, or as it was written. Raises UnknownNameError, ConfigError."""
    known = sorted(str(row[0]) for row in connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'scores' "
        "UNION SELECT view_name FROM duckdb_views() WHERE database_name = 'scores' AND NOT internal"
    ).fetchall())  # fmt: skip
    if what in known:
        return f'SELECT * FROM "{what}"'
    if len(what.split()) == 1 and "(" not in what:
        raise UnknownNameError("published table", what, known=known)
    with _told_if_it_cannot_be_run():
        [(parsed,)] = connection.execute("SELECT json_serialize_sql(?)", [what.rstrip().rstrip(";")]).fetchall()
        told: dict[str, Any] = json.loads(parsed)
        if told["error"] or len(told["statements"]) != 1:
            raise ConfigError(f"that is no single SELECT: {told.get('error_message', 'one statement, please')}")
        connection.execute(f"EXPLAIN {what}").fetchall()
    return what.rstrip().rstrip(";")


@contextmanager
def _told_if_it_cannot_be_run() -> Iterator[None]:
    import duckdb

    from eval_pipelines.warehouse.read import told_if_a_segment_is_gone

    try:
        with told_if_a_segment_is_gone():
            yield
    except duckdb.Error as error:
        raise ConfigError(f"that query cannot be run: {error}") from None


def _copy(connection: "duckdb.DuckDBPyConnection", sql: str, output: Output) -> None:
    """Straight from DuckDB to the file or the pipe: as many rows as there are, in little memory."""
    with tempfile.TemporaryDirectory() as folder:
        target = output.target or Path(folder) / "rows"
        with formats.written_aside(target) as aside:
            quoted = str(aside.absolute()).replace("'", "''")
            told = connection.execute(f"COPY ({sql}) TO '{quoted}' ({_COPIED[output.form]})").fetchall()
            if output.form == "json":
                formats.null_what_json_lacks(aside)
        if output.target is not None:
            click.echo(f"{output.target}: {told[0][0]:,} rows", err=True)
            return
        with target.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
