"""One number over many verdicts, with what it is worth."""

import math
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from eval_pipelines.errors import ScoringError
from eval_pipelines.records import Metric
from eval_pipelines.scoring import intervals
from eval_pipelines.scoring.intervals import Interval


@dataclass(slots=True)
class Verdicts:
    """The verdicts of one metric.

    Attributes:
        combine: Aggregation over raw verdicts; None for the mean.
        raw: One per graded sample: a number, or whatever `combine` takes.
        clusters: Of each verdict, what its sample shares with others; None: nothing. Empty: no sample shares anything.
        n_asked: Samples asked, graded or not.
        are_shares: They lie within 0..1 even where there is none yet; an author's own function may give any number.
    """

    higher_is_better: bool = True
    combine: Callable[[list[Any]], float] | None = None
    raw: list[Any] = field(default_factory=list)
    n_asked: int = 0
    clusters: list[str | None] = field(default_factory=list)
    are_shares: bool = True

    def add(self, verdict: Any, cluster: str | None = None) -> None:
        """One more sample's verdict."""
        if cluster is not None and not self.clusters:
            self.clusters = [None] * len(self.raw)
        self.raw.append(verdict)
        if self.clusters or cluster is not None:
            self.clusters.append(cluster)

    def extend(self, other: "Verdicts") -> None:
        """Add another subtask's verdicts."""
        for verdict, cluster in zip(other.raw, other.clusters or [None] * len(other.raw), strict=True):
            self.add(verdict, cluster)
        self.n_asked += other.n_asked
        self.are_shares = self.are_shares and other.are_shares


def is_mean_of(value: float, verdicts: Collection[float]) -> bool:
    """Whether a metric's value is the mean of its verdicts, as the share of right answers is and an F1 is not."""
    if not verdicts:
        return False
    return math.isclose(math.fsum(verdicts) / len(verdicts), value, rel_tol=1e-9, abs_tol=1e-12)


def metric_of(verdicts: Verdicts, subtask: str, metric: str, filter_name: str, *, is_headline: bool) -> Metric:
    """The metric with standard error, 95 % interval, coverage and, for means of shares, bounds.

    Raises:
        ScoringError: the aggregation raised.
    """
    raw, n, n_asked = verdicts.raw, len(verdicts.raw), verdicts.n_asked
    value: float | None = None
    known = Interval(None, None, None, None)
    bounds: tuple[float | None, float | None] = (None, None)
    if n and verdicts.combine is not None:
        from eval_pipelines.scoring import bootstrap

        try:
            combined = float(verdicts.combine(raw))
        except OverflowError:  # a perplexity beyond all numbers
            combined = math.inf
        except Exception as error:
            raise ScoringError(_why_not_combined(verdicts.combine, metric, n, error)) from error
        value = None if math.isnan(combined) else combined
        known = bootstrap.of_aggregate(verdicts.combine, raw, verdicts.clusters)
    elif n:
        numbers = [float(one) for one in raw]
        value = math.fsum(numbers) / n
        known = intervals.of_mean(numbers, verdicts.clusters)
    if verdicts.combine is None and n_asked and (n or verdicts.are_shares) and all(0 <= one <= 1 for one in raw):
        total = math.fsum(float(one) for one in raw)
        bounds = (total / n_asked, (total + n_asked - n) / n_asked)
    return Metric(
        subtask=subtask,
        metric=metric,
        filter=filter_name,
        value=value,
        stderr=known.stderr,
        ci_low=known.low,
        ci_high=known.high,
        ci_method=known.method,
        n_clusters=known.n_clusters,
        bound_low=bounds[0],
        bound_high=bounds[1],
        n=n,
        n_asked=n_asked,
        higher_is_better=verdicts.higher_is_better,
        is_headline=is_headline,
    )


def _why_not_combined(combine: Callable[[list[Any]], float], metric: str, n: int, error: Exception) -> str:
    name = getattr(combine, "__name__", type(combine).__name__)
    at = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"the aggregation {name} of {metric} raised {type(error).__name__}: {error} ({at.filename}:{at.lineno}) over the "
        f"verdicts on {n:,} samples"
    )
