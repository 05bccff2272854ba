"""The same names over fewer rows: temporary views that stand before the tables, for what is new only."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from dbt_like_sql.model import SOURCES, SqlProject

if TYPE_CHECKING:
    import duckdb

# Literals let DuckDB skip parts of files; of more than so many, the join alone decides.
_MOST_LITERALS: Final = 60
# Of so many tries the verdicts are read together: each part costs some time, each verdict some memory.
_MOST_TRIES: Final = 400


def run(connection: "duckdb.DuckDBPyConnection", sql: str) -> list[tuple[Any, ...]]:
    """Execute and fetch."""
    return connection.execute(sql).fetchall()


def in_parts(connection: "duckdb.DuckDBPyConnection", rows: str, part: str) -> Iterator[str]:
    """A temporary table `part` of some benchmarks' rows after the other, so that memory need not hold what belongs to all.

    Args:
        rows: a table with benchmark, evaluation_id and run_id.
    """
    counted = (
        f"SELECT benchmark, count(DISTINCT (evaluation_id, run_id)) FROM {rows} GROUP BY benchmark ORDER BY benchmark"
    )
    together: list[str] = []
    n = 0
    for benchmark, n_tries in [*run(connection, counted), (None, 0)]:
        if together and (benchmark is None or n + n_tries > _MOST_TRIES):
            there = f"SELECT * FROM {rows} WHERE benchmark IN (SELECT unnest(?))"
            connection.execute(f"CREATE OR REPLACE TEMP TABLE {part} AS {there}", [together]).fetchall()
            yield part
            together, n = [], 0
        together, n = [*together, benchmark], n + n_tries


class Narrow:
    """Worlds in which the tables of one database have fewer rows. Its tables must exist already, and keep their columns."""

    def __init__(self, project: SqlProject, connection: "duckdb.DuckDBPyConnection") -> None:
        self._project, self._connection = project, connection
        [(self._catalog,)] = run(connection, "SELECT current_database()")
        listed = "SELECT table_name, list(column_name) FROM duckdb_columns() WHERE database_name = current_database()"
        self._columns = {name: set(columns) for name, columns in run(connection, f"{listed} GROUP BY table_name")}

    @contextmanager
    def world(self, rows: Mapping[str, str], *, of: Collection[str]) -> Iterator[None]:
        """While this is open, each name of `rows` means that query, and every view over one of them follows.

        DuckDB looks among the temporary first, and a macro's body is bound where it is called: so models, macros and
        tests run as they are written. A query of `rows` names the whole table as `whole.<name>`.

        Args:
            of: the names that are read here; others are left as they are.
        """
        made: list[str] = []
        for name in sorted(set(rows) & set(of)):
            query = rows[name].replace("whole.", f"{self._catalog}.main.")
            run(self._connection, f"CREATE TEMP VIEW {name} AS {query}")
            made.append(name)
        for model in self._project.models:
            is_over = model.materialized == "view" and set(made) & set(model.references)
            if model.name in of and model.name not in rows and is_over:
                run(self._connection, f"CREATE TEMP VIEW {model.name} AS {model.sql}\n")
                made.append(model.name)
        yield
        # not after an error: the transaction is lost, and they with it
        for name in reversed(made):
            run(self._connection, f"DROP VIEW temp.main.{name}")

    def like(self, keys: str, columns: tuple[str, ...]) -> dict[str, str]:
        """For `world`: each source and table with these columns, with the rows whose values are in the table `keys`."""
        tables = [*sorted(SOURCES), *(model.name for model in self._project.models if model.materialized == "table")]
        # a try is of one model and one benchmark
        literals = self._literals(keys, ("benchmark", "model_key") if "evaluation_id" in columns else columns)
        using = f"SEMI JOIN (SELECT DISTINCT {', '.join(columns)} FROM {keys}) USING ({', '.join(columns)})"
        found = {}
        for name in tables:
            there = self._columns.get(name, set())
            if set(columns) <= there:
                where = [literal for column, literal in literals.items() if column in there]
                keep = f" WHERE {' AND '.join(where)}" if where else ""
                found[name] = f"SELECT * FROM (SELECT * FROM whole.{name}{keep}) {using}"
        return found

    def _literals(self, keys: str, columns: tuple[str, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        there = run(self._connection, f"SELECT column_name FROM (DESCRIBE {keys})")
        for column in ("benchmark", "model_key"):
            if column in columns and (column,) in there:
                listed = f"SELECT list(DISTINCT {column}) FROM {keys} WHERE {column} IS NOT NULL"
                [(values,)] = run(self._connection, listed)
                if values and len(values) <= _MOST_LITERALS:
                    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
                    found[column] = f"{column} IN ({quoted})"
        return found
