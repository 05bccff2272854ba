"""What the limits of one benchmark are tested on: verdicts on questions, or numbers of their own.

Verdicts, Pairs      a metric that is the mean of its verdicts: one model's, or two models' on the same questions
OwnNumber, Apart     a metric that is no such mean, as a perplexity, an F1 or an average of groups is not, or that has no
                     verdicts at all. What the questions both models share are worth is not known of it, so two models are
                     compared as if they had been asked different ones, which errs on the safe side
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval_pipelines.scoring.estimates import Estimate, Floats
from eval_pipelines.scoring.gate_records import Evidence, Number
from eval_pipelines.scoring.paired import estimate_mean, groups_of, is_binary, paired_difference


@dataclass(frozen=True, slots=True)
class Verdicts:
    """One model's verdicts; `groups` where questions come in such."""

    values: Floats
    groups: list[str] | None

    @property
    def n(self) -> int:
        """Questions."""
        return len(self.values)

    @property
    def value(self) -> float:
        """In the metric's unit."""
        return float(self.values.mean())

    def beyond(self, limit: float) -> tuple[float, float] | None:
        """One-sided p-values: against "at most `limit`", and against "at least `limit`"."""
        if self.groups is None and is_binary(self.values):
            return _binomial(int(self.values.sum()), self.n, limit)
        found = estimate_mean(self.values, self.groups)
        return (found.p_above(limit), found.p_below(limit)) if found else None

    @property
    def unknown(self) -> str:
        """Why nothing is known of the error, where nothing is."""
        return _ONE_GROUP


@dataclass(frozen=True, slots=True)
class OwnNumber:
    """One model's number with its error."""

    number: Number
    metric: str

    @property
    def n(self) -> int:
        """Questions."""
        return self.number.n

    @property
    def value(self) -> float:
        """In the metric's unit."""
        return self.number.value

    def beyond(self, limit: float) -> tuple[float, float] | None:
        """As of `Verdicts`; None where the error is not known."""
        number = self.number
        if number.is_share:
            return _binomial(round(number.value * number.n), number.n, limit)
        if number.error is None:
            return None
        found = _estimate(number.value, number.error)
        return found.p_above(limit), found.p_below(limit)

    @property
    def unknown(self) -> str:
        """Why nothing is known of the error, where nothing is, and what to do."""
        return _no_error(self.metric)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Verdicts on the questions both were graded on, in one order; `groups` where they come in such."""

    of_baseline: Floats
    of_model: Floats
    groups: list[str] | None
    higher_is_better: bool

    @property
    def n(self) -> int:
        """Questions both were graded on."""
        return len(self.of_model)

    @property
    def base(self) -> float:
        """The baseline's value."""
        return float(self.of_baseline.mean())

    @property
    def value(self) -> float:
        """The model's."""
        return float(self.of_model.mean())

    def contrast(self, weight: float) -> Estimate | None:
        """Model minus `weight` times baseline; None where nothing is known of the error."""
        return paired_difference(self.of_baseline, self.of_model, self.groups, weight=weight)

    @property
    def remark(self) -> str:
        """What is to be known of the comparison: nothing."""
        return ""

    @property
    def unknown(self) -> str:
        """Why nothing is known of the error, where nothing is."""
        return _ONE_GROUP


@dataclass(frozen=True, slots=True)
class Apart:
    """The two models' own numbers, as if of different questions."""

    of_baseline: Number
    of_model: Number
    metric: str
    higher_is_better: bool

    @property
    def n(self) -> int:
        """Questions of the one that has fewer."""
        return min(self.of_baseline.n, self.of_model.n)

    @property
    def base(self) -> float:
        """The baseline's value."""
        return self.of_baseline.value

    @property
    def value(self) -> float:
        """The model's."""
        return self.of_model.value

    def contrast(self, weight: float) -> Estimate | None:
        """As of `Pairs`."""
        if self.of_model.error is None or self.of_baseline.error is None:
            return None
        error = math.hypot(self.of_model.error, weight * self.of_baseline.error)
        return _estimate(self.value - weight * self.base, error)

    @property
    def remark(self) -> str:
        """That it is not paired."""
        return f" (not paired: {self.metric} is not the mean of its verdicts)"

    @property
    def unknown(self) -> str:
        """Why nothing is known of the error, and what to do."""
        return f"{self.base:.4f} to {self.value:.4f}: {_no_error(self.metric)}"


_ONE_GROUP = "all questions belong to one group, so nothing is known of the error"


def single(evidence: Evidence) -> Verdicts | OwnNumber:
    """What limits on the model's own value are tested on."""
    if evidence.number is not None and not evidence.is_mean:
        return OwnNumber(evidence.number, evidence.metric)
    keys = sorted(evidence.verdicts)
    return Verdicts(np.array([evidence.verdicts[key] for key in keys]), groups_of(keys, evidence.clusters))


def compared(of_model: Evidence, of_baseline: Evidence, *, higher_is_better: bool) -> Pairs | Apart:
    """What limits against the baseline are tested on."""
    new, old = of_model, of_baseline
    if new.number is not None and old.number is not None and not (new.is_mean and old.is_mean):
        return Apart(old.number, new.number, new.metric, higher_is_better)
    shared = sorted(new.verdicts.keys() & old.verdicts.keys())
    return Pairs(
        np.array([old.verdicts[key] for key in shared]),
        np.array([new.verdicts[key] for key in shared]),
        groups_of(shared, new.clusters),
        higher_is_better,
    )


def n_shared(evidence: Sequence[Evidence]) -> int:
    """Questions that all of them were graded on; of numbers that are no mean over questions, the fewest of one."""
    if all(one.is_mean for one in evidence):
        return len(set.intersection(*(set(one.verdicts) for one in evidence)))
    return min(one.n_graded for one in evidence)


def _estimate(value: float, error: float) -> Estimate:
    return Estimate(value, value, error, math.inf, "normal")


def _no_error(metric: str) -> str:
    return (
        f"{metric} is not the mean of its verdicts on questions, which could be paired, and no standard error is recorded "
        "with it. Name another one as `metric`"
    )


def _binomial(n_right: int, n: int, share: float) -> tuple[float, float]:
    from scipy.special import bdtr, bdtrc

    share = min(1.0, max(0.0, share))
    above = 1.0 if n_right == 0 else float(bdtrc(n_right - 1, n, share))
    below = float(bdtr(n_right, n, share))
    return (above, below) if np.isfinite([above, below]).all() else (math.nan, math.nan)
