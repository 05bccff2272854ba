"""Two models on the questions both were graded on: by how much they differ, and on which."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from eval_pipelines.analysis import names
from eval_pipelines.analysis.answers import Row, answers_in_words
from eval_pipelines.scoring.aggregate import is_mean_of
from eval_pipelines.scoring.multiplicity import holm
from eval_pipelines.scoring.paired import Comparison, compare
from eval_pipelines.warehouse.read import fetch

if TYPE_CHECKING:
    import duckdb

CELL: Final = ("evaluation_id", "run_id", "score_version", "metric", "filter")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models on one benchmark's headline metric.

    Attributes:
        value_a: The published number of a, over all its graded questions, in the metric's unit; None: none graded.
        found: The paired comparison over the questions both were graded on; of none where they do not compare.
        is_mean: Both published numbers are the means of the verdicts that are compared; of a perplexity or an F1 they
            are not.
        why_not: Why they do not compare; empty if they do.
    """

    benchmark: str
    metric: str
    filter: str
    higher_is_better: bool
    value_a: float | None
    value_b: float | None
    coverage_a: float
    coverage_b: float
    found: Comparison
    is_mean: bool = True
    why_not: str = ""

    @property
    def verdict(self) -> str:
        """Of b: as the comparison says, or "not comparable"."""
        return "not comparable" if self.why_not else self.found.verdict

    def row(self) -> Row:
        """As plain columns."""
        found = self.found
        return {
            "benchmark": self.benchmark, "metric": self.metric, "filter": self.filter, "value_a": self.value_a,
            "value_b": self.value_b, "difference": found.difference if found.n else None, "ci_low": found.ci_low,
            "ci_high": found.ci_high, "n": found.n, "n_a_only": found.n_a_only, "n_b_only": found.n_b_only,
            "p_value": found.p_value, "test": found.test, "min_detectable": found.min_detectable,
            "margin": found.margin, "verdict": self.verdict, "coverage_a": self.coverage_a, "coverage_b": self.coverage_b,
            "why_not": self.why_not or None,
        }  # fmt: skip


def rows(found: Sequence[Pair]) -> list[Row]:
    """As plain columns, with p_holm: the p-value corrected for as many tests as there are pairs that compare."""
    tested = [pair for pair in found if not pair.why_not]
    corrected = holm([1.0 if pair.found.p_value is None else pair.found.p_value for pair in tested])
    p_holm = dict(zip([pair.benchmark for pair in tested], corrected, strict=True))
    return [pair.row() | {"p_holm": None if pair.found.p_value is None else p_holm[pair.benchmark]} for pair in found]


def pairs(
    connection: "duckdb.DuckDBPyConnection",
    a: str,
    b: str,
    benchmarks: Iterable[str] = (),
    *,
    margin: float | None = None,
) -> list[Pair]:
    """The two models on every benchmark on which both have a number of the same version.

    Args:
        margin: Largest difference of no consequence, in each metric's unit, > 0.

    Raises:
        UnknownNameError: a model or benchmark that the record does not know.
    """
    _check(connection, a, b, benchmarks)
    numbers: dict[str, dict[str, Row]] = {a: {}, b: {}}
    for row in fetch(
        connection,
        "FROM latest_metrics WHERE is_headline AND subtask = '' AND model_key IN (?, ?) ORDER BY benchmark",
        [a, b],
    ):
        numbers[row["model_key"]][row["benchmark"]] = row
    wanted = set(benchmarks)
    return [
        _pair(connection, of_a, numbers[b][benchmark], margin)
        for benchmark, of_a in numbers[a].items()
        if benchmark in numbers[b] and (not wanted or benchmark in wanted)
    ]


def _pair(connection: "duckdb.DuckDBPyConnection", a: Row, b: Row, margin: float | None) -> Pair:
    told: dict[str, Any] = {name: a[name] for name in ("benchmark", "metric", "filter", "higher_is_better")}
    for side, row in (("a", a), ("b", b)):
        told |= {f"{name}_{side}": row[name] for name in ("value", "coverage")}
    if reason := why_not(a, b):
        return Pair(**told, found=compare({}, {}, margin=margin), why_not=reason)
    of_a, of_b = (verdicts(connection, [row[name] for name in CELL]) for row in (a, b))
    found = compare(
        of_a,
        of_b,
        clusters=clusters(connection, a["benchmark"], a["ask_version"]),
        margin=margin,
        higher_is_better=a["higher_is_better"],
    )
    numbers = ((a["value"], of_a), (b["value"], of_b))
    is_mean = all(value is None or is_mean_of(value, one.values()) for value, one in numbers)
    return Pair(**told, found=found, is_mean=is_mean)


def why_not(a: Row, b: Row) -> str:
    """Why two numbers of one version of a benchmark do not compare, and what would help; empty if they do.

    Args:
        a, b: Rows of latest_metrics: model_key, family, benchmark, metric, filter, judged_by, graded_as.
    """
    differing = []
    if (a["metric"], a["filter"]) != (b["metric"], b["filter"]):
        differing.append(f"one is {a['metric']},{a['filter']} and the other {b['metric']},{b['filter']}")
    if a["judged_by"] != b["judged_by"]:
        differing.append(
            f"one was judged by {a['judged_by'] or 'no model'} and the other by {b['judged_by'] or 'no model'}"
        )
    # what stands around a model's requests belongs to its family: between two families it may differ
    if a["family"] == b["family"] and a["graded_as"] != b["graded_as"]:
        differing.append(
            f"one was read through {a['graded_as'] or 'nothing'} and the other through {b['graded_as'] or 'nothing'}"
        )
    if not differing:
        return ""
    return f"{'; '.join(differing)}. Materialize scores/{a['benchmark']} for the one that is outdated"


def verdicts(connection: "duckdb.DuckDBPyConnection", cell: list[str]) -> dict[str, float]:
    """Sample id → verdict, where there is a finite one. `cell`: evaluation_id, run_id, score_version, metric, filter."""
    rows = fetch(
        connection,
        "SELECT sample_id, value FROM stg_scores WHERE evaluation_id = ? AND run_id = ? AND score_version = ? "
        "AND metric = ? AND filter = ? AND isfinite(value)",
        cell,
    )
    return {row["sample_id"]: row["value"] for row in rows}


def clusters(connection: "duckdb.DuckDBPyConnection", benchmark: str, ask_version: str) -> dict[str, str]:
    """Sample id → what it shares with others, such as a passage; empty where questions share nothing."""
    rows = fetch(
        connection,
        "SELECT sample_id, cluster FROM stg_samples WHERE benchmark = ? AND ask_version = ? AND cluster IS NOT NULL",
        [benchmark, ask_version],
    )
    return {row["sample_id"]: row["cluster"] for row in rows}


def flips(
    connection: "duckdb.DuckDBPyConnection", a: str, b: str, benchmark: str, *, limit: int | None = None
) -> list[Row]:
    """The questions on which the verdicts differ, those that b lost first, each with both answers.

    Only where verdicts are right or wrong, or a share of right: two perplexities always differ.

    Columns: benchmark, sample_id, subtask, change (`lost` or `won` by b), value_a, value_b, question, target,
    answer_a, answer_b.
    """
    _check(connection, a, b, [benchmark])
    rows = fetch(
        connection,
        """
        WITH cells AS (SELECT * FROM leaderboard WHERE benchmark = $benchmark),
        marks AS (
            SELECT scores.model_key, scores.sample_id, scores.subtask, scores.value, cells.ask_version, cells.higher_is_better
            FROM stg_scores AS scores
            INNER JOIN cells USING (evaluation_id, run_id, score_version, metric, filter)
            WHERE scores.value IS NOT NULL
        )
        SELECT $benchmark AS benchmark, a.sample_id, a.subtask,
            CASE WHEN (b.value > a.value) = a.higher_is_better THEN 'won' ELSE 'lost' END AS change,
            a.value AS value_a, b.value AS value_b, samples.question, samples.target
        FROM marks AS a
        INNER JOIN marks AS b USING (sample_id, subtask)
        LEFT JOIN stg_samples AS samples
            ON samples.benchmark = $benchmark AND samples.ask_version = a.ask_version AND samples.sample_id = a.sample_id
        WHERE a.model_key = $a AND b.model_key = $b AND a.value <> b.value
            AND a.value BETWEEN 0 AND 1 AND b.value BETWEEN 0 AND 1
        ORDER BY change, abs(b.value - a.value) DESC, len(a.sample_id), a.sample_id
        LIMIT $limit
        """,
        {"a": a, "b": b, "benchmark": benchmark, "limit": 1_000_000 if limit is None else limit},
    )
    for column, model in (("answer_a", a), ("answer_b", b)):
        answers = answers_in_words(connection, model, benchmark, [row["sample_id"] for row in rows])
        for row in rows:
            row[column] = answers.get(row["sample_id"])
    return rows


def _check(connection: "duckdb.DuckDBPyConnection", a: str, b: str, benchmarks: Iterable[str]) -> None:
    known: list[Any] = names.models(connection)
    for model in (a, b):
        names.check("model in this record", model, known)
    for benchmark in benchmarks:
        names.check("benchmark in this record", benchmark, names.benchmarks(connection))
