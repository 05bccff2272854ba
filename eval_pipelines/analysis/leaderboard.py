"""The published numbers as a person reads them: with n, coverage, intervals, and which differences are real."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from eval_pipelines.scoring.paired import Comparison, compare
from eval_pipelines.warehouse.read import query

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two models on one benchmark's headline metric, over the questions both were graded on."""

    benchmark: str
    model_a: str
    model_b: str
    comparison: Comparison
    higher_is_better: bool = True

    def in_words(self) -> str:
        """One line: who is ahead, by how much, and whether that is more than chance."""
        found = self.comparison
        if found.p_value is None:
            return f"{self.benchmark}: {self.model_a} and {self.model_b} agree on all {found.n} questions"
        if not found.difference:
            return (
                f"{self.benchmark}: {self.model_a} and {self.model_b} are level on {found.n} questions: not significant"
            )
        b_leads = (found.difference > 0) == self.higher_is_better
        better, worse = (self.model_b, self.model_a) if b_leads else (self.model_a, self.model_b)
        b_is_higher = found.difference > 0
        n_ahead, n_behind = (found.n_b_only, found.n_a_only) if b_is_higher else (found.n_a_only, found.n_b_only)
        verdict = "significant" if found.is_significant else "not significant"
        return (
            f"{self.benchmark}: {better} is {abs(found.difference):.3f} ahead of {worse} "
            f"({n_ahead} to {n_behind} of {found.n} questions, p = {found.p_value:.2g}): {verdict}"
        )


def rows(data_root: Path, *, benchmarks: Iterable[str] | None = None, models: Iterable[str] | None = None) -> list[Row]:
    """The leaderboard mart, best first. Raises WarehouseError when nothing was published yet."""
    found = query(data_root, "SELECT * FROM leaderboard ORDER BY benchmark, rank NULLS LAST, model_key")
    wanted = (set(benchmarks) if benchmarks else None, set(models) if models else None)
    return [
        row
        for row in found
        if (wanted[0] is None or row["benchmark"] in wanted[0]) and (wanted[1] is None or row["model_key"] in wanted[1])
    ]


def contrasts(data_root: Path, board: list[Row]) -> list[Contrast]:
    """Every pair of models on every benchmark of a leaderboard, tested on their shared questions."""
    found: list[Contrast] = []
    for benchmark in sorted({row["benchmark"] for row in board}):
        entries = [row for row in board if row["benchmark"] == benchmark]
        verdicts = {row["model_key"]: _verdicts(data_root, row) for row in entries}
        groups = _clusters(data_root, entries[0])
        for a, b in combinations(entries, 2):
            pair = compare(verdicts[a["model_key"]], verdicts[b["model_key"]], clusters=groups)
            found.append(Contrast(benchmark, a["model_key"], b["model_key"], pair, a["higher_is_better"]))
    return found


def _verdicts(data_root: Path, row: Row) -> dict[str, float]:
    scores = query(
        data_root,
        "SELECT sample_id, value FROM stg_scores WHERE evaluation_id = ? AND run_id = ? AND score_version = ? "
        "AND metric = ? AND filter = ? AND value IS NOT NULL",
        [row[name] for name in ("evaluation_id", "run_id", "score_version", "metric", "filter")],
    )
    return {score["sample_id"]: score["value"] for score in scores}


def _clusters(data_root: Path, row: Row) -> dict[str, str]:
    samples = query(
        data_root,
        "SELECT sample_id, cluster FROM stg_samples WHERE benchmark = ? AND ask_version = ? AND cluster IS NOT NULL",
        [row["benchmark"], row["ask_version"]],
    )
    return {sample["sample_id"]: sample["cluster"] for sample in samples}


def score_in_words(row: Row) -> str:
    """`0.310 (0.228 to 0.406)`, with the bounds where not everything was answered."""
    if row["value"] is None:
        return "nothing graded"
    text = f"{row['value']:.3f}"
    if row["ci_low"] is not None:
        text += f" ({row['ci_low']:.3f} to {row['ci_high']:.3f})"
    if row["coverage"] < 1 and row["bound_low"] is not None:
        text += f"; {row['bound_low']:.3f} to {row['bound_high']:.3f} of all"
    return text
