"""One number over many verdicts, with what it is worth.

Source  Wilson (1927) for shares; the analytic standard error is the sample standard deviation over √n,
        as in lm-evaluation-harness
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval_pipelines.records import Metric

_Z95 = 1.959963984540054


@dataclass(slots=True)
class Verdicts:
    """The verdicts of one metric.

    Attributes:
        combine: Aggregation over raw verdicts; None for the mean.
        n_asked: Samples asked, graded or not.
    """

    higher_is_better: bool = True
    combine: Callable[[list[Any]], float] | None = None
    raw: list[Any] = field(default_factory=list)
    n_asked: int = 0

    def extend(self, other: "Verdicts") -> None:
        """Add another subtask's verdicts."""
        self.raw.extend(other.raw)
        self.n_asked += other.n_asked


def metric_of(verdicts: Verdicts, subtask: str, metric: str, filter_name: str, *, is_headline: bool) -> Metric:
    """The metric with standard error, 95 % interval, coverage and, for means of shares, bounds."""
    values, n, n_asked = verdicts.raw, len(verdicts.raw), verdicts.n_asked
    told: dict[str, Any] = {"value": None}
    if n and verdicts.combine is not None:
        told = {"value": float(verdicts.combine(values))}
    elif n:
        numbers = [float(value) for value in values]
        told = {"value": math.fsum(numbers) / n, "stderr": standard_error(numbers)}
        told |= dict(zip(("ci_low", "ci_high"), interval(numbers), strict=True))
    if verdicts.combine is None and n_asked and all(0 <= value <= 1 for value in values):
        total = math.fsum(float(value) for value in values)
        told |= {"bound_low": total / n_asked, "bound_high": (total + n_asked - n) / n_asked}
    return Metric(
        subtask=subtask,
        metric=metric,
        filter=filter_name,
        n=n,
        n_asked=n_asked,
        higher_is_better=verdicts.higher_is_better,
        is_headline=is_headline,
        **told,
    )


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of the mean: Wilson's for 0/1 verdicts, the normal one otherwise."""
    n = len(values)
    if all(value in (0.0, 1.0) for value in values):
        return wilson(int(math.fsum(values)), n)
    error = standard_error(values)
    if error is None:
        return None, None
    mean = math.fsum(values) / n
    return mean - _Z95 * error, mean + _Z95 * error


def wilson(n_right: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval for a share; honest near 0 and 1, where the normal one is not."""
    share, z2 = n_right / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
