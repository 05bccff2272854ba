"""Build a project's models and run its tests on an open DuckDB connection."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dbt_like_sql.kept import Kept
from dbt_like_sql.model import Severity, SqlMacro, SqlModel, SqlProject, SqlTest
from dbt_like_sql.parsed import first_line
from dbt_like_sql.restricted import Narrow, in_parts
from dbt_like_sql.sums import Sums
from eval_pipelines.errors import SqlModelError

if TYPE_CHECKING:
    import duckdb

N_EXAMPLES: Final = 20
_TRY: Final = ("evaluation_id", "run_id")


@dataclass(frozen=True)
class SqlTestResult:
    """How one test went; `rows` are up to 20 of the violations."""

    name: str
    model: str
    is_passed: bool
    n_failing: int
    severity: Severity
    meaning: str
    rows: list[dict[str, Any]]
    path: Path


def build(project: SqlProject, connection: "duckdb.DuckDBPyConnection", *, changed: str | None = None) -> None:
    """Create or refresh every model and macro in the connection's current schema.

    Args:
        changed: a table of the tries and benchmarks that rows are new of, where all models stand as of the state before
            it; None: build everything.

    Raises:
        SqlModelError: with the file's own line.
    """
    if not changed:
        _drop(connection)
    by_parts: dict[str, Sums | Kept] = {}
    for model in project.models:
        if model.sums_over:
            by_parts[model.name] = Sums(project, connection, model, changed)
        elif model.kept_by:
            by_parts[model.name] = Kept(project, connection, model, changed)
    narrow = Narrow(project, connection)
    for item in project.items:
        # On one line with the header's first line, so that DuckDB counts lines as the file does.
        if isinstance(item, SqlMacro):
            _run(connection, item, f"CREATE OR REPLACE MACRO {item.signature} AS TABLE {item.sql}\n")
            if not changed:
                _bind(connection, item)
        elif item.materialized == "view":
            _run(connection, item, f"CREATE OR REPLACE VIEW {item.name} AS {item.sql}\n")
        elif item.name in by_parts:
            by_parts[item.name].build(partial(_run, connection, item))
        elif changed and item.grouped_by:
            _refresh(narrow, connection, item, changed, project.upstream(item.name))
        else:
            _run(connection, item, f"CREATE OR REPLACE TABLE {item.name} AS {item.sql}\n")
    for one in by_parts.values():
        one.close()


def _refresh(
    narrow: Narrow, connection: "duckdb.DuckDBPyConnection", model: SqlModel, changed: str, reads: frozenset[str]
) -> None:
    """Replace the rows of a table that share their groups with what is new."""
    [(catalog,)] = _run(connection, model, "SELECT current_database()")
    columns = ", ".join(model.grouped_by)
    is_known = " AND ".join(f"{column} IS NOT NULL" for column in model.grouped_by)
    keys = f"SELECT DISTINCT {columns} FROM {changed} WHERE {is_known}"
    _run(connection, model, f"DELETE FROM {model.name} WHERE ({columns}) IN ({keys})")
    with narrow.world(narrow.like(changed, model.grouped_by), of=reads):
        _run(connection, model, f"INSERT INTO {catalog}.main.{model.name} BY NAME {model.sql}\n")


def _drop(connection: "duckdb.DuckDBPyConnection") -> None:
    """Drop every macro there is, so that none outlives its file; tables and views are replaced as they are built."""
    here = "NOT internal AND database_name = current_database()"
    for (name,) in connection.execute(f"SELECT DISTINCT function_name FROM duckdb_functions() WHERE {here}").fetchall():
        connection.execute(f'DROP MACRO TABLE "{name}"').fetchall()


def _bind(connection: "duckdb.DuckDBPyConnection", macro: SqlMacro) -> None:
    """Plan a call of it: creating it leaves out whatever a parameter stands in."""
    nulls = ", ".join(["NULL"] * macro.n_parameters)
    _run(connection, macro, f"EXPLAIN FROM {macro.name}({nulls})", starts_at=first_line(macro.sql))


def run_tests(
    project: SqlProject,
    connection: "duckdb.DuckDBPyConnection",
    *,
    changed: str | None = None,
    large: frozenset[str] = frozenset(),
) -> tuple[SqlTestResult, ...]:
    """Run every test; a violation is a result, not an error. Raises SqlModelError if a test cannot run.

    Args:
        changed: as for `build`. A test that reads one of `large` through views then looks at these tries, and at those
            in which it found something before, which the table `suspects` keeps.
        large: sources that are not read as a whole.
    """
    narrow = [test for test in project.tests if any(large & project.live_sources(name) for name in test.reads)]
    results = {test.name: _result(connection, test) for test in project.tests if test not in narrow}
    names = {name for test in narrow for read in test.reads for name in (read, *project.upstream(read))}
    world = Narrow(project, connection)
    for keys in _scopes(connection, changed) if narrow else ():
        with world.world(world.like(keys, _TRY), of=names):
            for test in narrow:
                found = _result(connection, test)
                results[test.name] = _added(results[test.name], found) if test.name in results else found
                if not found.is_passed:
                    _suspect(connection, test)
    if narrow:
        connection.execute("CREATE OR REPLACE TABLE suspects AS SELECT DISTINCT * FROM suspects_found").fetchall()
    return tuple(results[test.name] for test in project.tests)


def _scopes(connection: "duckdb.DuckDBPyConnection", changed: str | None) -> Iterator[str]:
    """Tables of tries to look at, one after the other: of the new and the suspected, or of all."""
    connection.execute("CREATE OR REPLACE TEMP TABLE suspects_found (evaluation_id VARCHAR, run_id VARCHAR)").fetchall()
    columns = "evaluation_id, run_id, model_key, benchmark"
    wanted = f"SELECT DISTINCT {columns} FROM evaluations"
    if changed:
        wanted = f"SELECT {columns} FROM {changed} WHERE evaluation_id IS NOT NULL UNION {wanted} "
        wanted += "SEMI JOIN suspects USING (evaluation_id, run_id)"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE scope AS {wanted}").fetchall()
    n_parts = 0
    for part in in_parts(connection, "scope", "scope_part"):
        n_parts += 1
        yield part
    if not n_parts:
        yield "scope"


def _suspect(connection: "duckdb.DuckDBPyConnection", test: SqlTest) -> None:
    """Keep where it found something, so that it is looked at again until it is mended."""
    columns = connection.execute(f"SELECT column_name FROM (DESCRIBE {test.sql}\n)").fetchall()
    if set(_TRY) <= {column for (column,) in columns}:
        connection.execute(
            f"INSERT INTO suspects_found SELECT DISTINCT evaluation_id, run_id FROM ({test.sql}\n)"
        ).fetchall()


def _added(one: SqlTestResult, other: SqlTestResult) -> SqlTestResult:
    return SqlTestResult(
        one.name, one.model, one.is_passed and other.is_passed, one.n_failing + other.n_failing, one.severity, one.meaning,
        (one.rows + other.rows)[:N_EXAMPLES], one.path,
    )  # fmt: skip


def _result(connection: "duckdb.DuckDBPyConnection", test: SqlTest) -> SqlTestResult:
    [(n_failing,)] = _run(connection, test, f"SELECT count(*) FROM ({test.sql}\n)")
    rows: list[dict[str, Any]] = []
    if n_failing:
        found = _run(connection, test, f"SELECT * FROM ({test.sql}\n) LIMIT {N_EXAMPLES}")
        names = [str(column[0]) for column in connection.description or []]
        rows = [dict(zip(names, row, strict=True)) for row in found]
    return SqlTestResult(test.name, test.model, not n_failing, n_failing, test.severity, test.meaning, rows, test.path)


def _run(
    connection: "duckdb.DuckDBPyConnection", item: SqlModel | SqlMacro | SqlTest, sql: str, *, starts_at: int = 0
) -> list[tuple[Any, ...]]:
    """Execute and fetch. The line of an error is DuckDB's, or `starts_at` if `sql` is not the file's own text."""
    import duckdb

    try:
        return connection.execute(sql).fetchall()
    except (duckdb.IOException, duckdb.OutOfMemoryException):
        # The disk or the memory, not the file: whoever holds the connection knows what to say.
        raise
    except duckdb.Error as error:
        found = re.search(r"^LINE (\d+):", str(error), flags=re.MULTILINE)
        line = starts_at or (int(found.group(1)) if found else 1)
        message = str(error).split("\nLINE ", 1)[0].strip()
        raise SqlModelError(item.path, line, " ".join(message.split())) from error
