"""What a gate goes by in the published record: a number and its baseline's for each benchmark, or why there is none."""

import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from eval_pipelines.analysis.comparison import clusters, verdicts
from eval_pipelines.config import BenchmarkPolicy, Gate
from eval_pipelines.keys import ModelKey, digest
from eval_pipelines.scoring.gate_records import Evidence, Lacking, Number
from eval_pipelines.warehouse.read import fetch

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]
_CELL: Final = ("evaluation_id", "run_id", "score_version", "metric", "filter")
_WHY_NOT: Final = {
    "over_budget": "too many of its requests failed. Materialize responses/{0} for it again",
    "asked": "it was asked and not graded. Materialize scores/{0} for it",
    "outdated": "it was graded on an older version only. Materialize responses/{0} and scores/{0} for it",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """The number of one model on one benchmark that a gate goes by."""

    row: Row

    def versions(self, *, of_one_family: bool) -> dict[str, str | None]:
        """What must be equal to compare; see `Evidence.versions`."""
        told: dict[str, str | None] = {
            "asked as": self.row["ask_version"],
            "graded as": self.row["score_version"],
            "judged by": self.row["judged_by"] or "no model",
        }
        # what stands around a model's requests belongs to its family: between two families it may differ
        return told | ({"read through": self.row["graded_as"] or "nothing"} if of_one_family else {})

    def identity(self) -> list[Any]:
        """Changes with every evaluation and every grading."""
        return [self.row[name] for name in ("model_key", "benchmark", *_CELL)] + [str(self.row["recorded_at"])]


class Board:
    """What the published record says of the benchmarks of one gate, read at once."""

    def __init__(self, connection: "duckdb.DuckDBPyConnection", gate: Gate) -> None:
        self._connection, self.gate = connection, gate
        names = list(gate.benchmarks)
        self.checkpoints = {row["model_key"]: row for row in fetch(connection, "FROM stg_checkpoints")}
        self._status = {
            (row["model_key"], row["benchmark"]): row["status"]
            for row in fetch(connection, "SELECT model_key, benchmark, status FROM grid WHERE benchmark IN ?", [names])
        }
        self._numbers: dict[tuple[str, str], list[Row]] = {}
        for row in fetch(connection, "FROM latest_metrics WHERE subtask = '' AND benchmark IN ?", [names]):
            self._numbers.setdefault((row["model_key"], row["benchmark"]), []).append(row)
        self._bytes = self._newest_bytes()
        self._best: dict[tuple[str, str], tuple[list[int], list[str]]] = {}

    def _newest_bytes(self) -> dict[str, str]:
        rows = fetch(
            self._connection,
            "SELECT model_key, arg_max(fingerprint, recorded_at) AS fingerprint FROM stg_evaluations GROUP BY model_key",
        )
        return {row["model_key"]: row["fingerprint"] for row in rows}

    def cell(self, model_key: str, benchmark: str) -> Cell | Lacking:
        """The number of a model on a benchmark, or why there is none."""
        rows = self._numbers.get((model_key, benchmark), [])
        if not rows:
            status = self._status.get((model_key, benchmark), "missing")
            why = _WHY_NOT.get(status, "it was never asked. Materialize responses/{0} and scores/{0} for it")
            return Lacking(f"{model_key} has no number on {benchmark}: {why.format(benchmark)}")
        policy = self.gate.policy(benchmark)
        chosen = _meant(rows, policy)
        if not chosen:
            return Lacking(f"{model_key} has no metric {policy.metric!r} on {benchmark}; there is {_listed(rows)}")
        if len(chosen) > 1:
            return Lacking(
                f"{model_key} has several {policy.metric!r} on {benchmark}, none with the filter of the headline: name one "
                f"of {_listed(chosen)} as `metric`"
            )
        if chosen[0]["fingerprint"] != self._bytes[model_key]:
            return Lacking(
                f"{model_key} was asked {benchmark} before its weights were replaced. "
                f"Materialize responses/{benchmark} and scores/{benchmark} for it"
            )
        return Cell(chosen[0])

    def baseline(self, model_key: str, benchmark: str, word: str) -> Cell | Lacking:
        """The baseline's number: `previous`, `best`, or of a model key."""
        if word == "best":
            key = self._best_before(model_key, benchmark)
        elif word == "previous":
            checkpoint = self.checkpoints.get(model_key)
            key = checkpoint["previous_key"] if checkpoint else None
        else:
            key = word
        if key is None:
            family = ModelKey.parse(model_key).family
            usable = " with a number on it" if word == "best" else ""
            return Lacking(f"{benchmark}: there is no checkpoint of {family} before {model_key}{usable}")
        return self.cell(key, benchmark)

    def _best_before(self, model_key: str, benchmark: str) -> str | None:
        checkpoint = self.checkpoints.get(model_key)
        if checkpoint is None:
            return None
        family = checkpoint["family"]
        if (family, benchmark) not in self._best:
            self._best[family, benchmark] = self._running_best(family, benchmark)
        places, keys = self._best[family, benchmark]
        index = bisect.bisect_left(places, checkpoint["place"])
        return keys[index - 1] if index else None

    def _running_best(self, family: str, benchmark: str) -> tuple[list[int], list[str]]:
        """Places at which another checkpoint became the best, and which. A trial on a few questions is none."""
        policy = self.gate.policy(benchmark)
        places: list[int] = []
        keys: list[str] = []
        best: float | None = None
        members = [one for one in self.checkpoints.values() if one["family"] == family]
        for one in sorted(members, key=lambda one: int(one["place"])):
            found = self.cell(one["model_key"], benchmark)
            if isinstance(found, Lacking) or found.row["value"] is None:
                continue
            row = found.row
            if row["n"] < self.gate.min_questions or row["coverage"] < policy.min_coverage:
                continue
            higher = row["higher_is_better"] if policy.direction is None else policy.direction == "higher_is_better"
            value = row["value"] if higher else -row["value"]
            if best is None or value > best:
                best = value
                places.append(one["place"])
                keys.append(one["model_key"])
        return places, keys

    def chosen(self, model_key: str) -> dict[str, tuple[Cell | Lacking, Cell | Lacking]]:
        """Benchmark → what the gate goes by: the model's number and its baseline's."""
        return {
            name: (self.cell(model_key, name), self.baseline(model_key, name, self.gate.baseline))
            for name in self.gate.benchmarks
        }

    def evidence(self, chosen: Mapping[str, tuple[Cell | Lacking, Cell | Lacking]]) -> str:
        """Changes with every evaluation, grading and policy that a verdict rests on."""
        told = [[one.identity() if isinstance(one, Cell) else one.reason for one in pair] for pair in chosen.values()]
        return digest([self.gate.model_dump(mode="json"), told], n_bytes=8)

    def load(self, found: Cell | Lacking, beside: Cell | Lacking) -> Evidence | Lacking:
        """The verdicts behind a number that stands beside another."""
        if isinstance(found, Lacking):
            return found
        row = found.row
        by_question = verdicts(self._connection, [row[name] for name in _CELL])
        if row["value"] is None and by_question:
            return Lacking(
                f"{row['metric']},{row['filter']} of {row['model_key']} on {row['benchmark']} is no number, though "
                f"{len(by_question):,} questions were graded. Name another one as `metric`"
            )
        return Evidence(
            model_key=row["model_key"],
            benchmark=row["benchmark"],
            metric=row["metric"],
            filter=row["filter"],
            higher_is_better=row["higher_is_better"],
            versions=found.versions(of_one_family=isinstance(beside, Cell) and beside.row["family"] == row["family"]),
            n_asked=row["n_asked"],
            verdicts=by_question,
            clusters=clusters(self._connection, row["benchmark"], row["ask_version"]),
            evaluation=f"{row['evaluation_id']}-{row['run_id']}",
            number=_number(row),
        )


def _number(row: Row) -> Number | None:
    if row["value"] is None:
        return None
    told = {name: row[name] for name in ("value", "n", "stderr", "ci_low", "ci_high")}
    return Number(**told, is_share=row["ci_method"] == "wilson")


def _meant(rows: list[Row], policy: BenchmarkPolicy) -> list[Row]:
    """Those that the policy goes by: one, unless nothing fits or the filter is left out and the headline has another."""
    if policy.metric is None:
        return [row for row in rows if row["is_headline"]]
    metric, _, filter_name = policy.metric.partition(",")
    found = [row for row in rows if row["metric"] == metric and filter_name in ("", row["filter"])]
    of_headline = {row["filter"] for row in rows if row["is_headline"]}
    return found if len(found) < 2 else [row for row in found if row["filter"] in of_headline] or found


def _listed(rows: list[Row]) -> str:
    return ", ".join(sorted({f"{row['metric']},{row['filter']}" for row in rows}))
