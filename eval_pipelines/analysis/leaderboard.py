"""The published numbers as a person reads them: with n, coverage, intervals, and which differences are real."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from eval_pipelines.analysis.comparison import CELL, clusters, verdicts, why_not
from eval_pipelines.scoring.paired import Comparison, compare
from eval_pipelines.warehouse.read import fetch, open_published, query

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two models on one benchmark's headline metric, over the questions both were graded on."""

    benchmark: str
    model_a: str
    model_b: str
    comparison: Comparison
    higher_is_better: bool = True
    why_not: str = ""

    def in_words(self) -> str:
        """One line: who is ahead, by how much, and whether that is more than chance."""
        found = self.comparison
        if self.why_not:
            return f"{self.benchmark}: {self.model_a} and {self.model_b} do not compare: {self.why_not}"
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
    with closing(open_published(data_root)) as connection:
        numbers = {
            (row["benchmark"], row["model_key"]): row
            for row in fetch(connection, "FROM latest_metrics WHERE is_headline AND subtask = ''")
        }
        for benchmark in sorted({row["benchmark"] for row in board}):
            entries = [numbers[benchmark, row["model_key"]] for row in board if row["benchmark"] == benchmark]
            graded = {row["model_key"]: verdicts(connection, [row[name] for name in CELL]) for row in entries}
            groups = clusters(connection, benchmark, entries[0]["ask_version"])
            for a, b in combinations(entries, 2):
                reason = why_not(a, b)
                of_a, of_b = ({}, {}) if reason else (graded[a["model_key"]], graded[b["model_key"]])
                pair = compare(of_a, of_b, clusters=groups)
                found.append(
                    Contrast(benchmark, a["model_key"], b["model_key"], pair, a["higher_is_better"], why_not=reason)
                )
    return found


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
