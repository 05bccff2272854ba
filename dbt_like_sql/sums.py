"""A table of sums over another table's rows: what came is added, what left is subtracted, the rest is not read."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dbt_like_sql.model import SqlModel, SqlProject
from dbt_like_sql.restricted import Narrow, in_parts

if TYPE_CHECKING:
    import duckdb

Run = Callable[[str], list[tuple[Any, ...]]]
_GRADING: Final = ("evaluation_id", "run_id", "score_version", "score_run_id", "recorded_at")


class Sums:
    """Made before anything is built, because it must know how the table it sums over was."""

    def __init__(
        self, project: SqlProject, connection: "duckdb.DuckDBPyConnection", model: SqlModel, changed: str | None
    ) -> None:
        self.model, self._project, self._connection, self._changed = model, project, connection, changed
        if changed:
            self._do(
                f"CREATE OR REPLACE TEMP TABLE rows_before AS SELECT * FROM {model.sums_over} "
                f"SEMI JOIN {changed} USING (benchmark)"
            )

    def build(self, run: Run) -> None:
        """Create the table, or bring it up to date, with `run` for what may fail because of the model's own SQL."""
        [(catalog,)] = self._do("SELECT current_database()")
        over, name = self.model.sums_over, self.model.name
        if not self._changed:
            with self._with_rows(f"SELECT * FROM whole.{over} WHERE false", None):
                run(f"CREATE OR REPLACE TABLE {catalog}.main.{name} AS {self.model.sql}\n")
            for part in in_parts(self._connection, over, "rows_part"):
                with self._with_rows(f"FROM {part}", part):
                    run(f"INSERT INTO {catalog}.main.{name} BY NAME {self.model.sql}\n")
            return
        self._split()
        for sign, rows in (("-", "rows_gone"), ("+", "rows_new")):
            for part in in_parts(self._connection, rows, "rows_part"):
                with self._with_rows(f"FROM {part}", part):
                    run(f"CREATE OR REPLACE TEMP TABLE summands AS {self.model.sql}\n")
                self._add(sign)

    def close(self) -> None:
        """Leave nothing behind on the connection."""
        for table in ("rows_before", "rows_gone", "rows_new", "rows_part", "summands"):
            self._do(f"DROP TABLE IF EXISTS temp.main.{table}")

    def _split(self) -> None:
        """What left and what came. Where most has left (a new version of a benchmark), its sums begin anew."""
        over, name = self.model.sums_over, self.model.name
        self._do(
            f"CREATE OR REPLACE TEMP TABLE rows_now AS SELECT * FROM {over} SEMI JOIN {self._changed} USING (benchmark)"
        )
        self._do("CREATE OR REPLACE TEMP TABLE rows_gone AS (FROM rows_before EXCEPT FROM rows_now)")
        self._do("CREATE OR REPLACE TEMP TABLE rows_new AS (FROM rows_now EXCEPT FROM rows_before)")
        anew = (
            "SELECT benchmark FROM rows_gone GROUP BY benchmark "
            "HAVING count(*) * 2 > (SELECT count(*) FROM rows_before AS b WHERE b.benchmark = rows_gone.benchmark)"
        )
        for (benchmark,) in self._do(anew):
            for table in (name, "rows_gone", "rows_new"):
                self._do(f"DELETE FROM {table} WHERE benchmark = ?", [benchmark])
            self._do("INSERT INTO rows_new FROM rows_now WHERE benchmark = ?", [benchmark])
        self._do("DROP TABLE rows_now")

    def _with_rows(self, over: str, keys: str | None) -> Any:
        """The model's world: only these rows of the table it sums over, and of the rest what belongs to their gradings."""
        narrow = Narrow(self._project, self._connection)
        rows = {self.model.sums_over: over}
        if keys:
            likes = narrow.like(keys, _GRADING)
            rows |= {name: likes[name] for name in ("metrics", "scores", "stg_metrics")}
        return narrow.world(rows, of=self._project.upstream(self.model.name))

    def _add(self, sign: str) -> None:
        """Add or subtract `summands`, by grain; a row that nothing is left of goes."""
        name, grain = self.model.name, ", ".join(self.model.grain_columns)
        listed = f"SELECT column_name FROM (DESCRIBE {name})"
        sums = [column for (column,) in self._do(listed) if column not in self.model.grain_columns]
        signed = ", ".join(f"{sign}{column} AS {column}" for column in sums)
        summed = ", ".join(f"sum({column}) AS {column}" for column in sums)
        self._do(
            f"CREATE OR REPLACE TEMP TABLE summed AS SELECT {grain}, {summed} FROM "
            f"(SELECT {grain}, {', '.join(sums)} FROM {name} SEMI JOIN summands USING ({grain}) "
            f"UNION ALL BY NAME SELECT {grain}, {signed} FROM summands) GROUP BY {grain} HAVING sum({sums[0]}) > 0"
        )
        self._do(f"DELETE FROM {name} WHERE ({grain}) IN (SELECT ({grain}) FROM summands)")
        self._do(f"INSERT INTO {name} BY NAME SELECT * FROM summed")
        self._do("DROP TABLE summed")

    def _do(self, sql: str, params: list[Any] | None = None) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, params or []).fetchall()
