"""What a gate is given, and what it says. Plain values.

Evidence │ Lacking   what one model's newest evaluation of one benchmark is worth, or why there is none to use
Claim               one limit, tested both ways
BenchmarkVerdict    "within", "breach", "inconclusive" or "lacking", with reasons
GateVerdict         GO, NO-GO or INCONCLUSIVE
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from eval_pipelines.config import BenchmarkPolicy
from eval_pipelines.scoring.aggregate import is_mean_of

Status = Literal["within", "breach", "inconclusive", "lacking"]
Decision = Literal["GO", "NO-GO", "INCONCLUSIVE"]
# raised when gates come to say something else of the same evaluations and policy: what was said before is judged again
JUDGING_VERSION: Final = 2

_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Number:
    """A metric's own value, as it is landed and quoted.

    Attributes:
        n: Questions it is of.
        ci_low, ci_high: Its 95 % interval.
        is_share: Of `n` questions that count as 0 or 1, and that share nothing.
    """

    value: float
    n: int
    stderr: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    is_share: bool = False

    @property
    def error(self) -> float | None:
        """The standard error; where the interval is wider than that on a side, the one that belongs to it.

        None where there is neither, or where both are 0: resamples that are all the same say nothing of an error.
        """
        sides = [abs(end - self.value) / _Z95 for end in (self.ci_low, self.ci_high) if end is not None]
        return max([self.stderr or 0.0, *sides]) or None


@dataclass(frozen=True, slots=True)
class Evidence:
    """One model on one benchmark, by one metric.

    Attributes:
        versions: What must be equal for two evaluations to compare: what it is called → which it was
            (`asked as` → `2.0-ab12`). None: was not told, which is a difference from anything that was.
        n_asked: Questions asked; those in `verdicts` were graded.
        verdicts: Sample id → verdict; empty where the metric has none.
        number: The metric's own value; None: the mean of the verdicts.
        clusters: Sample id → the group a question shares with others; empty where there are none.
        evaluation: The evaluation and the grading it is of, for the record.
    """

    model_key: str
    benchmark: str
    metric: str
    filter: str
    higher_is_better: bool
    versions: Mapping[str, str | None]
    n_asked: int
    verdicts: Mapping[str, float] = field(repr=False)
    clusters: Mapping[str, str] = field(default_factory=dict, repr=False)
    evaluation: str = ""
    number: Number | None = None

    @property
    def is_mean(self) -> bool:
        """Whether the metric is the mean of the verdicts."""
        return self.number is None or is_mean_of(self.number.value, self.verdicts.values())

    @property
    def n_graded(self) -> int:
        """Questions the metric is of."""
        return len(self.verdicts) if self.number is None or self.is_mean else self.number.n

    @property
    def coverage(self) -> float:
        """Graded / asked; 0.0 if nothing was asked."""
        return self.n_graded / self.n_asked if self.n_asked else 0.0


@dataclass(frozen=True, slots=True)
class Lacking:
    """Why there is no evaluation to use, and what to do about it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """One limit of one benchmark.

    Attributes:
        p_breach: One-sided p-value against "the limit is kept": small where it is shown to be broken.
        p_within: One-sided p-value against "the limit is broken": small where it is shown to be kept.
        found: What was found, in words. open: what it would take to know, in words.
    """

    limit: str
    p_breach: float
    p_within: float
    found: str
    open: str = ""


@dataclass(frozen=True, slots=True)
class BenchmarkVerdict:
    """What a gate says of one benchmark.

    Attributes:
        status: "within": every limit is shown to be kept. "breach": one is shown to be broken. "inconclusive": neither.
            "lacking": there are no two evaluations that compare.
        difference: The model minus its baseline on their shared questions; ci_low, ci_high: its interval at
            `1 - 2 * significance`, whose ends are the one-sided bounds that the limits are compared with.
        p_breach, p_within: Of the limit that decided: the former corrected for several limits, the latter not.
        n: Shared questions; without a baseline, those of the model. Where the metric is not the mean of its verdicts,
            those of the one with fewer, and value and baseline_value are the numbers that are quoted.
    """

    benchmark: str
    policy: BenchmarkPolicy
    status: Status
    reasons: tuple[str, ...]
    baseline: str | None = None
    metric: str | None = None
    filter: str | None = None
    n: int | None = None
    value: float | None = None
    baseline_value: float | None = None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    min_detectable: float | None = None
    p_breach: float | None = None
    p_within: float | None = None


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What a gate says of a model."""

    gate: str
    model_key: str
    decision: Decision
    reasons: tuple[str, ...]
    benchmarks: tuple[BenchmarkVerdict, ...]
