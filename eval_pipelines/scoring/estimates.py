"""A mean with what is known of its error, as one value that intervals, one-sided tests and gates are read from.

Source  Bonett & Price (2012), "Adjusted Wald confidence interval for a difference of binomial proportions based on
        paired data"; Agresti & Coull (1998) for one share; Efron (1979), the studentised bootstrap as in Efron &
        Tibshirani (1993), chapter 12; Liang & Zeger (1986) for clusters, as in Miller (2024), "Adding error bars to
        evals"; the adjustment in units of the design effect, as in Dean & Pagano (2015), "Evaluating confidence interval
        methods for binomial proportions in clustered surveys", with Kish's (1965) for groups that are alike throughout
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval_pipelines.scoring import score_test

Floats = NDArray[np.float64]
Ends = tuple[float, float]

N_RESAMPLES = 1_999
_CELLS_AT_ONCE = 4_000_000
_FEW_VALUES = 256


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and the distribution of its error.

    Attributes:
        value: The mean as it was measured; this is what is quoted.
        centre: Where intervals are centred: `value`, but drawn a little to the middle of `ends` by the adjusted ones.
        stderr: Of `centre`.
        df: Degrees of freedom of Student's t; infinite for the normal distribution.
        method: "adjusted_wald", "clustered", "bootstrap" or "t".
        reference: Sorted studentised means of resamples, in place of Student's t.
        ends: What the mean cannot leave, lowest and highest; intervals are cut there.
        pairs: Of paired 0/1 verdicts, the difference on each question. One-sided p-values are then the larger of this
            estimate's own and the score test's, so what they show the interval shows too.
    """

    value: float
    centre: float
    stderr: float
    df: float
    method: str
    reference: Floats | None = field(default=None, repr=False, compare=False)
    ends: Ends = (-math.inf, math.inf)
    pairs: Floats | None = field(default=None, repr=False, compare=False)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided, equal-tailed interval of the mean; its ends are one-sided bounds at `(1 + level) / 2`."""
        tail = (1 - level) / 2
        low, high = self._quantile(1 - tail), self._quantile(tail)
        return max(self.ends[0], self.centre - low * self.stderr), min(self.ends[1], self.centre - high * self.stderr)

    def p_above(self, limit: float) -> float:
        """One-sided p-value against "the mean is at most `limit`": small where it is shown to be above."""
        p = self._tail(self._t(limit))
        return p if self.pairs is None else max(p, score_test.p_above(self.pairs, limit, low=self.ends[0]))

    def p_below(self, limit: float) -> float:
        """One-sided p-value against "the mean is at least `limit`": small where it is shown to be below."""
        t = self._t(limit)
        if self.reference is not None and not math.isnan(t):
            return _share(np.searchsorted(self.reference, t, side="right"), len(self.reference))
        p = self._tail(-t)
        return p if self.pairs is None else max(p, score_test.p_above(-self.pairs, -limit, low=-self.ends[1]))

    def _t(self, limit: float) -> float:
        distance = self.centre - limit
        if not self.stderr:
            return math.copysign(math.inf, distance) if distance else 0.0
        return distance / self.stderr

    def _tail(self, t: float) -> float:
        from scipy.special import ndtr, stdtr

        if math.isnan(t):
            return math.nan
        if self.reference is not None:
            n = len(self.reference)
            return _share(n - np.searchsorted(self.reference, t, side="left"), n)
        return float(ndtr(-t) if math.isinf(self.df) or math.isinf(t) else stdtr(self.df, -t))

    def _quantile(self, share: float) -> float:
        from scipy.special import ndtri, stdtrit

        if self.reference is not None:
            return float(np.quantile(self.reference, share))
        return float(ndtri(share) if math.isinf(self.df) else stdtrit(self.df, share))


def adjusted_wald(values: Floats, *, low: float = -1.0, high: float = 1.0, n_added: int = 1) -> Estimate:
    """The mean of values in [low, high], with `n_added` more at each end. Honest where none or few differ.

    With differences of paired 0/1 verdicts (-1, 0, 1) it is the interval of Bonett & Price: two pairs are added that
    speak against each other. With 0/1 verdicts and two at each end it is Agresti & Coull's.
    """
    n = len(values) + 2 * n_added
    centre = (float(values.sum()) + n_added * (low + high)) / n
    square = (float(values @ values) + n_added * (low * low + high * high)) / n
    error = math.sqrt(max(0.0, square - centre * centre) / n)
    return Estimate(float(values.mean()), centre, error, math.inf, "adjusted_wald", ends=(low, high))


def students_t(values: Floats) -> Estimate:
    """The mean of at least two values, by Student's t."""
    n = len(values)
    mean = float(values.mean())
    return Estimate(mean, mean, float(values.std(ddof=1)) / math.sqrt(n), n - 1, "t")


def clustered(values: Floats, clusters: Sequence[Any]) -> Estimate:
    """The mean of values that come in at least two groups, such as several questions on one passage.

    The variance is cluster-robust, with the correction G/(G-1) for G clusters, and Student's t has G-1 degrees.
    """
    sums = cluster_sums(values - values.mean(), clusters)
    n_clusters = len(sums)
    error = math.sqrt(n_clusters / (n_clusters - 1) * float(sums @ sums)) / len(values)
    mean = float(values.mean())
    return Estimate(mean, mean, error, n_clusters - 1, "clustered")


def adjusted_clustered(
    values: Floats, clusters: Sequence[Any], *, low: float = -1.0, high: float = 1.0, n_added: int = 1
) -> Estimate:
    """As `clustered`, of values in [low, high], with `n_added` more groups at each end. Honest where few groups differ.

    An added group is as large as the questions that one group is worth: the design effect, to which one more group
    counts that is alike throughout. Where nothing differs that is all there is to it, and the size of such a group;
    where much differs it is what the groups show, and the added ones hardly matter.
    """
    n, mean = len(values), float(values.mean())
    sizes = cluster_sums(np.ones(n), clusters)
    rest, sums = values - mean, cluster_sums(values - mean, clusters)
    alike, spread = float(sizes @ sizes) / n, ((high - low) / 2) ** 2
    size = max(1.0, (float(sums @ sums) + spread * alike * alike) / (float(rest @ rest) + spread * alike))
    n_all, n_groups = n + 2 * n_added * size, len(sums) + 2 * n_added
    centre = (float(values.sum()) + n_added * size * (low + high)) / n_all
    sums = sums + (mean - centre) * sizes
    square = float(sums @ sums) + n_added * size * size * ((low - centre) ** 2 + (high - centre) ** 2)
    error = math.sqrt(n_groups / (n_groups - 1) * square) / n_all
    return Estimate(mean, centre, error, len(sums) - 1, "clustered", ends=(low, high))


def bootstrap(values: Floats, *, seed: int = 0, n_resamples: int = N_RESAMPLES) -> Estimate:
    """The mean of graded values by the studentised bootstrap: right to second order also where they are skewed.

    Resamples in which all values are the same say nothing of an error and are left out; of data in which that is
    common, Student's t is used instead.
    """
    n = len(values)
    means, squares = _resampled(values, np.random.default_rng(seed), n_resamples)
    errors = np.sqrt(np.maximum(0.0, squares - means * means) / (n - 1))
    plain = students_t(values)
    is_varied = errors > 1e-12 * max(1.0, float(np.abs(values).max()))
    if is_varied.sum() < 0.99 * n_resamples:
        return plain
    reference = np.sort((means[is_varied] - plain.value) / errors[is_varied])
    return Estimate(plain.value, plain.centre, plain.stderr, plain.df, "bootstrap", reference)


def cluster_sums(values: Floats, clusters: Sequence[Any]) -> Floats:
    """The sum of each cluster's values, in the order in which the clusters' names sort."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums: Floats = np.bincount(index, weights=values).astype(np.float64)
    return sums


def _resampled(values: Floats, random: np.random.Generator, n_resamples: int) -> tuple[Floats, Floats]:
    """Mean and mean square of each resample."""
    n = len(values)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= _FEW_VALUES:
        # means of 0/1 verdicts take few values: how often each is drawn says the same with far fewer numbers
        drawn = random.multinomial(n, counts / n, size=n_resamples)
        return drawn @ distinct / n, drawn @ (distinct * distinct) / n
    means, squares = np.empty(n_resamples), np.empty(n_resamples)
    step = max(1, _CELLS_AT_ONCE // n)
    for start in range(0, n_resamples, step):
        rows = slice(start, min(start + step, n_resamples))
        chosen = values[random.integers(0, n, size=(rows.stop - start, n), dtype=np.int32)]
        means[rows], squares[rows] = chosen.mean(axis=1), (chosen * chosen).mean(axis=1)
    return means, squares


def _share(n_beyond: Any, n: int) -> float:
    """A p-value from resamples is never 0 (Phipson & Smyth, 2010)."""
    return (int(n_beyond) + 1) / (n + 1)
