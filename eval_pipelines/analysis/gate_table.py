"""What a gate says, as a table: the same columns on a terminal, in Markdown and in the UI."""

from collections.abc import Sequence
from typing import Any, Final

from eval_pipelines.formats import Column, to_markdown
from eval_pipelines.scoring.gate_records import BenchmarkVerdict, GateVerdict

Row = dict[str, Any]
_MARKS: Final = {"within": "kept", "breach": "BROKEN", "inconclusive": "open", "lacking": "lacking"}


def rows(verdict: GateVerdict) -> list[Row]:
    """One row for each benchmark, those that stand in the way first."""
    order = ("breach", "lacking", "inconclusive", "within")
    tiers = ("critical", "supporting", "advisory")
    ranked = sorted(verdict.benchmarks, key=lambda one: (tiers.index(one.policy.tier), order.index(one.status)))
    return [_row(one) for one in ranked]


def _row(one: BenchmarkVerdict) -> Row:
    return {
        "benchmark": one.benchmark,
        "tier": one.policy.tier,
        "status": one.status,
        "baseline": one.baseline,
        "baseline_value": one.baseline_value,
        "value": one.value,
        "difference": one.difference,
        "ci_low": one.ci_low,
        "ci_high": one.ci_high,
        "n": one.n,
        "reason": "; ".join(one.reasons),
    }


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _difference(row: Row) -> str:
    if row["difference"] is None:
        return ""
    return f"{row['difference']:+.3f} ({row['ci_low']:+.3f} to {row['ci_high']:+.3f})"


COLUMNS: Final[Sequence[Column]] = (
    Column("benchmark", lambda row: str(row["benchmark"])),
    Column("tier", lambda row: str(row["tier"]), rank=2),
    Column("limits", lambda row: _MARKS[row["status"]]),
    Column("baseline", lambda row: _value(row["baseline_value"]), rank=3, is_number=True),
    Column("model", lambda row: _value(row["value"]), rank=3, is_number=True),
    Column("difference", _difference, rank=1, is_number=True),
    Column("n", lambda row: "" if row["n"] is None else f"{row['n']:,}", rank=4, is_number=True),
    Column("why", lambda row: str(row["reason"]), max_width=100),
)


def head(verdict: GateVerdict) -> str:
    """`release: NO-GO for smol@step-200 against smol@step-100. a limit is broken: gsm8k (critical)`."""
    baselines = sorted({one.baseline for one in verdict.benchmarks if one.baseline})
    against = f" against {', '.join(baselines)}" if baselines else ""
    return f"{verdict.gate}: {verdict.decision} for {verdict.model_key}{against}. {'; '.join(verdict.reasons)}"


def markdown(verdict: GateVerdict) -> str:
    """The verdict, its numbers, and below them the reasons: beside them they would be too wide for the UI."""
    told = head(verdict).replace(f": {verdict.decision} for", f": **{verdict.decision}** for", 1)
    benchmark, *numbers, why = COLUMNS
    of_each = rows(verdict)
    return f"{told}\n\n{to_markdown([benchmark, *numbers], of_each)}\n{to_markdown([benchmark, why], of_each)}"
