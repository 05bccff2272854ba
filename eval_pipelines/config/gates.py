"""`gates` of `evals.yaml`: policies over several benchmarks, each with the verdict GO, NO-GO or INCONCLUSIVE.

gates:
  release:
    baseline: previous
    defaults: {tier: critical, max_drop: 0.03}
    benchmarks:
      gsm8k: {max_drop: 0.02, min_value: 0.3}
      hellaswag: {tier: supporting}
"""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from eval_pipelines.config.source import Loc, Source
from eval_pipelines.config.specs import MetricName, SpecRecord
from eval_pipelines.errors import ModelKeyError, UnknownNameError
from eval_pipelines.keys import ModelKey
from eval_pipelines.scoring.multiplicity import Correction

Tier = Literal["critical", "supporting", "advisory"]
Direction = Literal["higher_is_better", "lower_is_better"]

RELATIVE_BASELINES: Final = ("previous", "best")
_LIMITS: Final = ("max_drop", "max_relative_drop", "min_value", "max_value")


class GateLimits(SpecRecord):
    """What one benchmark may lose. What is left out is as the gate's `defaults` have it."""

    tier: Tier | None = Field(
        default=None,
        description="critical: GO needs it shown that every limit is kept. supporting: only a limit that is shown to be "
        "broken counts. advisory: told, never counted. Default: critical.",
    )
    required: bool | None = Field(
        default=None, description="Without a comparable evaluation there is no GO. Default: of critical ones."
    )
    metric: MetricName | None = Field(default=None, description="`metric` or `metric,filter`; default: the headline.")
    direction: Direction | None = Field(default=None, description="Default: as the metric says of itself.")
    max_drop: float | None = Field(
        default=None, ge=0, description="Largest loss against the baseline, in the metric's unit."
    )
    max_relative_drop: float | None = Field(
        default=None,
        ge=0,
        description="Largest loss as a share of the baseline's value: 0.1 is a tenth. 1 or more only with "
        "`direction: lower_is_better`, where 1.5 is a rise by 150 %.",
    )
    relative_guard_below: float | None = Field(
        default=None, description="`max_relative_drop` counts only where the baseline's value is below this."
    )
    min_value: float | None = Field(
        default=None, description="The metric must not be below this, whatever the baseline."
    )
    max_value: float | None = Field(
        default=None, description="The metric must not be above this, whatever the baseline."
    )
    min_coverage: float | None = Field(
        default=None, ge=0, le=1, description="Share of what was asked that must be graded, of both. Default: 0.95."
    )


class BenchmarkPolicy(SpecRecord):
    """What one benchmark may lose, with every default filled in."""

    tier: Tier
    required: bool
    metric: str | None
    direction: Direction | None
    max_drop: float | None
    max_relative_drop: float | None
    relative_guard_below: float | None
    min_value: float | None
    max_value: float | None
    min_coverage: float

    @property
    def needs_baseline(self) -> bool:
        """Whether any limit is against the baseline."""
        return self.max_drop is not None or self.max_relative_drop is not None


def _nothing_is_empty(value: Any) -> Any:
    # `gsm8k:` with nothing behind it takes every default
    return {name: {} if entry is None else entry for name, entry in value.items()} if isinstance(value, dict) else value


class Gate(SpecRecord):
    """A policy over several benchmarks."""

    families: tuple[str, ...] = Field(default=(), description="Families of models it judges; default: all.")
    baseline: str = Field(
        default="previous",
        description="`previous`: the checkpoint before, of the same family; `best`: on each benchmark the best one "
        "before; or a model key, family@revision.",
    )
    significance: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        description="Chance of a wrong GO on any one critical benchmark, and of a wrong NO-GO.",
    )
    correction: Correction = Field(
        default="holm", description="How NO-GO takes into account that several limits are tested."
    )
    min_questions: int = Field(default=20, ge=2, description="Fewer questions in common show nothing.")
    defaults: GateLimits = Field(default=GateLimits(), description="For every benchmark that does not say otherwise.")
    benchmarks: Annotated[dict[str, GateLimits], BeforeValidator(_nothing_is_empty)] = Field(
        min_length=1, description="Benchmark → what it may lose."
    )

    @field_validator("baseline")
    @classmethod
    def _baseline_is_a_key_or_a_word(cls, baseline: str) -> str:
        if baseline not in RELATIVE_BASELINES:
            try:
                ModelKey.parse(baseline)
            except ModelKeyError:
                words = ", ".join(f"`{word}`" for word in RELATIVE_BASELINES)
                raise ValueError(f"must be {words} or a model key such as smol@main, not {baseline!r}") from None
        return baseline

    @model_validator(mode="after")
    def _every_benchmark_has_a_limit(self) -> Self:
        for name in self.benchmarks:
            policy = self.policy(name)
            if policy.tier != "advisory" and all(getattr(policy, limit) is None for limit in _LIMITS):
                raise ValueError(f"{name} has no limit: set one of {', '.join(_LIMITS)}, there or in `defaults`")
            if policy.relative_guard_below is not None and policy.max_relative_drop is None:
                raise ValueError(f"{name} has relative_guard_below without the max_relative_drop that it guards")
            share = policy.max_relative_drop
            if share is not None and share >= 1 and policy.direction != "lower_is_better":
                raise ValueError(
                    f"{name}: max_relative_drop {share:g} is {share:.0%} of the baseline's value: write {share / 100:g} for "
                    f"{share:g} %, or say `direction: lower_is_better` if it may rise so far"
                )
            low, high = policy.min_value, policy.max_value
            if low is not None and high is not None and low > high:
                raise ValueError(f"{name}: min_value {low:g} is above max_value {high:g}")
        return self

    def policy(self, benchmark: str) -> BenchmarkPolicy:
        """What `benchmark` may lose, with every default filled in."""
        own, common = self.benchmarks[benchmark], self.defaults
        chosen = {
            name: getattr(own, name) if getattr(own, name) is not None else getattr(common, name)
            for name in GateLimits.model_fields
        }
        tier: Tier = chosen["tier"] or "critical"
        required = chosen["required"] if chosen["required"] is not None else tier == "critical"
        coverage = chosen["min_coverage"] if chosen["min_coverage"] is not None else 0.95
        return BenchmarkPolicy(**{**chosen, "tier": tier, "required": required, "min_coverage": coverage})

    def applies_to(self, family: str) -> bool:
        """Whether models of this family are judged."""
        return not self.families or family in self.families


def read_gate(
    source: Source, loc: Loc, value: Any, *, benchmarks: list[str], models: list[str], families: list[str] | None
) -> Gate | None:
    """One gate of the file, with the names it refers to checked; None if it does not fit (then it is reported).

    Args:
        families: All there can be; None: watched folders may bring others.
    """
    given = value if isinstance(value, dict) else {}
    for name in given.get("benchmarks") or {} if isinstance(given.get("benchmarks"), dict) else {}:
        if name not in benchmarks:
            source.report((*loc, "benchmarks", name), str(UnknownNameError("benchmark", name, known=benchmarks)))
    gate = source.read(Gate, loc, value)
    if gate is None or families is None:
        return gate
    for i, family in enumerate(gate.families):
        if family not in families:
            source.report((*loc, "families", i), str(UnknownNameError("family", family, known=families)))
    if gate.baseline not in (*RELATIVE_BASELINES, *models):
        source.report((*loc, "baseline"), str(UnknownNameError("model", gate.baseline, known=models)))
    return gate
