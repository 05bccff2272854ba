"""Build a project's models and run its tests on an open DuckDB connection."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dbt_like_sql.model import Severity, SqlMacro, SqlModel, SqlProject, SqlTest
from dbt_like_sql.parsed import first_line
from eval_pipelines.errors import SqlModelError

if TYPE_CHECKING:
    import duckdb

N_EXAMPLES: Final = 20


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


def build(project: SqlProject, connection: "duckdb.DuckDBPyConnection") -> None:
    """Create every model and macro in the connection's schema. Raises SqlModelError with the file's own line."""
    for item in project.items:
        what = (
            f"MACRO {item.signature} AS TABLE"
            if isinstance(item, SqlMacro)
            else f"{item.materialized.upper()} {item.name} AS"
        )
        # On one line with the header's first line, so that DuckDB counts lines as the file does.
        _run(connection, item, f"CREATE {what} {item.sql}\n")
        if isinstance(item, SqlMacro):
            _bind(connection, item)


def _bind(connection: "duckdb.DuckDBPyConnection", macro: SqlMacro) -> None:
    """Plan a call of it: creating it leaves out whatever a parameter stands in."""
    nulls = ", ".join(["NULL"] * macro.n_parameters)
    _run(connection, macro, f"EXPLAIN FROM {macro.name}({nulls})", starts_at=first_line(macro.sql))


def run_tests(project: SqlProject, connection: "duckdb.DuckDBPyConnection") -> tuple[SqlTestResult, ...]:
    """Run every test; a violation is a result, not an error. Raises SqlModelError if a test cannot run."""
    return tuple(_result(connection, test) for test in project.tests)


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
