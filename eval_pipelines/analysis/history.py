"""A family over its training: the headline number of one benchmark, checkpoint by checkpoint."""

from typing import TYPE_CHECKING

from eval_pipelines.analysis import names
from eval_pipelines.analysis.answers import Row
from eval_pipelines.analysis.comparison import CELL, clusters, verdicts, why_not
from eval_pipelines.scoring.paired import compare
from eval_pipelines.warehouse.read import fetch

if TYPE_CHECKING:
    import duckdb


def course(
    connection: "duckdb.DuckDBPyConnection", family: str, benchmark: str, *, n_compared: int | None = None
) -> list[Row]:
    """The comparable numbers of a family, in the order of stg_checkpoints.

    Columns: model_key, revision, step, metric, filter, value, ci_low, ci_high, bound_low, bound_high, n, n_asked,
    coverage, higher_is_better, evaluated_at, recorded_at; and against the checkpoint before, on the same questions:
    change, change_low, change_high (in the metric's unit, 95 %), p_value, verdict (`better`, `worse`, `inconclusive`);
    null where there is none before, or where why_not says that the two do not compare, and why.

    Args:
        n_compared: Compare only so many of the last checkpoints, because each takes the verdicts on all questions.

    Raises:
        UnknownNameError: a family or benchmark that the record does not know.
    """
    names.check("family in this record", family, names.families(connection))
    names.check("benchmark in this record", benchmark, names.benchmarks(connection))
    rows = fetch(
        connection,
        "SELECT model_key, revision, step, metric, filter, value, ci_low, ci_high, bound_low, bound_high, n, n_asked, "
        "coverage, higher_is_better, evaluated_at, recorded_at, evaluation_id, run_id, score_version, ask_version, "
        "family, benchmark, judged_by, graded_as "
        "FROM latest_metrics INNER JOIN (SELECT model_key, place FROM stg_checkpoints) USING (model_key) "
        "WHERE is_headline AND subtask = '' AND family = ? AND benchmark = ? ORDER BY place",
        [family, benchmark],
    )
    before: dict[str, float] = {}
    last: Row = {}
    # latest_metrics holds one version of the benchmark
    groups = clusters(connection, benchmark, rows[0]["ask_version"]) if rows else {}
    first = 0 if n_compared is None else max(0, len(rows) - n_compared - 1)
    for i, row in enumerate(rows):
        row |= dict.fromkeys(("change", "change_low", "change_high", "p_value", "verdict", "why_not"))
        if i < first:
            continue
        now = verdicts(connection, [row[name] for name in CELL])
        row["why_not"] = (why_not(last, row) or None) if before else None
        shared = {} if row["why_not"] else before
        found = compare(shared, now, clusters=groups, higher_is_better=row["higher_is_better"])
        row["change"] = found.difference if found.n else None
        row["change_low"], row["change_high"], row["p_value"] = found.ci_low, found.ci_high, found.p_value
        row["verdict"] = found.verdict if found.n else None
        # what nothing was graded of is no checkpoint to compare with
        if now:
            before, last = now, row
    return rows


def every(connection: "duckdb.DuckDBPyConnection", family: str, benchmark: str) -> list[Row]:
    """Every headline number ever graded, also what no longer compares, oldest first; `is_latest` marks the others."""
    names.check("family in this record", family, names.families(connection))
    names.check("benchmark in this record", benchmark, names.benchmarks(connection))
    return fetch(
        connection,
        "SELECT model_key, revision, step, metric, filter, value, ci_low, ci_high, bound_low, bound_high, n, n_asked, "
        "coverage, higher_is_better, is_latest, is_within_budget, ask_version, score_version, fingerprint, run_id, "
        "evaluated_at, recorded_at FROM metric_history "
        "WHERE family = ? AND benchmark = ? AND is_headline AND subtask = '' ORDER BY recorded_at, model_key",
        [family, benchmark],
    )
