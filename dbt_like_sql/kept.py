"""A table whose rows stand as long as what they are made from: only those that are missing are made, from their own scores."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from dbt_like_sql.model import SqlModel, SqlProject
from dbt_like_sql.restricted import Narrow, in_parts
from eval_pipelines.errors import SqlModelError

if TYPE_CHECKING:
    import duckdb

Run = Callable[[str], list[tuple[Any, ...]]]
_GRADING: Final = ("evaluation_id", "run_id", "score_version", "score_run_id", "recorded_at")
# Of these, the rows of the same benchmark; of scores, those of the listed gradings.
_OF_ITS_BENCHMARK: Final = ("latest_metrics", "samples")


def check_kept(model: SqlModel, models: Mapping[str, SqlModel]) -> None:
    """Whether what `model` is kept by lists its rows. Raises SqlModelError on the line that names it."""
    listed = models.get(model.kept_by)
    there = set(listed.grain_columns) if listed else set()
    wrong = ""
    if listed is None or "view" in (listed.materialized, model.materialized):
        wrong = "both must be models, and tables"
    elif not model.grain_columns:
        wrong = f"the grain of {model.name} must read `one row per (<column>, …)`"
    elif "benchmark" not in model.grain_columns or not there.issuperset(model.grain_columns):
        wrong = f"both grains need benchmark, and that of {model.kept_by} all columns of {model.name}'s"
    if wrong:
        raise SqlModelError(model.path, model.references[model.kept_by], f"`-- kept by: {model.kept_by}`: {wrong}")


class Kept:
    """Made before anything is built, because it must know what was listed."""

    def __init__(
        self, project: SqlProject, connection: "duckdb.DuckDBPyConnection", model: SqlModel, changed: str | None
    ) -> None:
        self.model, self._project, self._connection, self._changed = model, project, connection, changed
        self._grain = ", ".join(model.grain_columns)
        if changed:
            self._do(f"CREATE OR REPLACE TEMP TABLE listed_before AS FROM {model.kept_by}")

    def build(self, run: Run) -> None:
        """Create the table, or bring it up to date, with `run` for what may fail because of the model's own SQL."""
        [(catalog,)] = self._do("SELECT current_database()")
        target = f"{catalog}.main.{self.model.name}"
        if self._changed:
            self._refresh(run, target)
            return
        with self._world({"scores": "SELECT * FROM whole.scores WHERE false"}):
            run(f"CREATE OR REPLACE TABLE {target} AS {self.model.sql}\n")
        self._do(f"CREATE OR REPLACE TEMP TABLE listed_wanted AS FROM {self.model.kept_by}")
        self._insert_all(run, target)

    def close(self) -> None:
        """Leave nothing behind on the connection."""
        for table in ("listed_before", "listed_wanted", "listed_new"):
            self._do(f"DROP TABLE IF EXISTS temp.main.{table}")

    def _refresh(self, run: Run, target: str) -> None:
        """Rows that are listed as before stand, unless there is something new of a try or of the questions beneath them."""
        listed, grain = self.model.kept_by, self._grain
        self._do(
            f"CREATE OR REPLACE TEMP TABLE listed_wanted AS FROM {listed} WHERE ({grain}) IN ("
            f"SELECT ({grain}) FROM (FROM {listed} EXCEPT FROM listed_before) "
            f"UNION SELECT ({grain}) FROM {listed} SEMI JOIN {self._changed} USING (evaluation_id, run_id) "
            f"UNION SELECT ({grain}) FROM {listed} WHERE benchmark IN "
            f"(SELECT benchmark FROM {self._changed} WHERE evaluation_id IS NULL))"
        )
        self._do(
            f"DELETE FROM {target} WHERE ({grain}) IN (SELECT ({grain}) FROM listed_wanted) "
            f"OR ({grain}) NOT IN (SELECT ({grain}) FROM {listed})"
        )
        self._insert_all(run, target)

    def _insert_all(self, run: Run, target: str) -> None:
        for part in in_parts(self._connection, "listed_wanted", "listed_new"):
            self._insert(run, target, part)

    def _insert(self, run: Run, target: str, part: str) -> None:
        narrow = Narrow(self._project, self._connection)
        of_benchmark = narrow.like(part, ("benchmark",))
        rows = {name: of_benchmark[name] for name in _OF_ITS_BENCHMARK}
        with self._world(rows | {"scores": narrow.like(part, _GRADING)["scores"]}):
            # other rows are seen in part only: one of their sides may be there because a listed row needs it
            listed = f"SEMI JOIN {part} USING ({self._grain})"
            run(f"INSERT INTO {target} BY NAME SELECT * FROM ({self.model.sql}\n) {listed}")

    def _world(self, rows: Mapping[str, str]) -> Any:
        return Narrow(self._project, self._connection).world(rows, of=self._project.upstream(self.model.name))

    def _do(self, sql: str, params: list[Any] | None = None) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, params or []).fetchall()
