"""How sure a mean is: standard errors and 95 % intervals.

Source  Wilson (1927) for shares. Miller (2024), "Adding Error Bars to Evals", for questions that come in groups: the
        error of a mean whose residuals are summed within each group first; with the factor G / (G - 1), so that groups
        of one give the ordinary error. A share of such questions has Wilson's interval at its effective sample size,
        as Korn and Graubard (1998) use it
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

_Z95 = 1.959963984540054
# residuals of equal shares add up to no exact 0
_ROUNDING = 1e-12


class Interval(NamedTuple):
    """A 95 % interval with the standard error it belongs to; None where there are too few values."""

    stderr: float | None
    low: float | None
    high: float | None
    method: str | None
    n_clusters: int | None = None


def of_mean(values: Sequence[float], clusters: Sequence[str | None] = ()) -> Interval:
    """Of the mean of verdicts: Wilson's for 0/1, the normal one otherwise, clustered where `clusters` repeat.

    Args:
        values: at least one.
        clusters: of each value, the group it belongs to; None: it stands alone. Empty: all stand alone.
    """
    grouped = _by_cluster(values, clusters)
    is_share = all(value in (0.0, 1.0) for value in values)
    mean = math.fsum(values) / len(values)
    if len(grouped) < len(values):
        return _clustered(mean, values, grouped, is_share=is_share)
    error = standard_error(values)
    if is_share:
        return Interval(error, *wilson(int(math.fsum(values)), len(values)), "wilson")
    return normal(mean, error, is_bounded=all(0 <= value <= 1 for value in values))


def normal(mean: float, error: float | None, *, is_bounded: bool) -> Interval:
    """The interval of a normal distribution; cut to 0..1 where the mean cannot leave it."""
    if error is None:
        return Interval(None, None, None, None)
    return Interval(error, *_around(mean, _Z95 * error, is_bounded=is_bounded), "normal")


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of the mean of values that stand alone."""
    found = of_mean(values)
    return found.low, found.high


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def wilson(n_right: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % score interval for a share; honest near 0 and 1, where the normal one is not."""
    share, z2 = n_right / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _by_cluster(values: Sequence[float], clusters: Sequence[str | None]) -> list[list[float]]:
    alone: list[list[float]] = []
    together: dict[str, list[float]] = {}
    for value, cluster in zip(values, clusters or [None] * len(values), strict=True):
        if cluster is None:
            alone.append([value])
        else:
            together.setdefault(cluster, []).append(value)
    return [*together.values(), *alone]


def _clustered(mean: float, values: Sequence[float], grouped: list[list[float]], *, is_share: bool) -> Interval:
    n, n_clusters = len(values), len(grouped)
    if n_clusters < 2:
        return Interval(None, None, None, None, n_clusters)
    squares = math.fsum(math.fsum(value - mean for value in one) ** 2 for one in grouped)
    error = math.sqrt(squares * n_clusters / (n_clusters - 1)) / n
    if is_share:
        # groups of equal shares say nothing of how alike a group is: it counts as one question
        error = error if error > _ROUNDING else 0.0
        n_effective = min(n, mean * (1 - mean) / error**2) if error else n_clusters
        return Interval(error, *wilson(mean * n_effective, n_effective), "clustered", n_clusters)
    from scipy.stats import t

    half = float(t.ppf(0.975, n_clusters - 1)) * error
    is_bounded = all(0 <= value <= 1 for value in values)
    return Interval(error, *_around(mean, half, is_bounded=is_bounded), "clustered", n_clusters)


def _around(mean: float, half: float, *, is_bounded: bool) -> tuple[float, float]:
    low, high = mean - half, mean + half
    return (max(0.0, low), min(1.0, high)) if is_bounded else (low, high)
