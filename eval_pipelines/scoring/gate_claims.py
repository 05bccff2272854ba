"""The limits of one benchmark as claims: each tested both ways, "it is broken" and "it is kept".

Source  one-sided tests of non-inferiority; a share of the baseline is tested by the linear contrast of Fieller (1954),
        so that the baseline's own error counts; a floor for a share by the exact binomial test
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eval_pipelines.config import BenchmarkPolicy
from eval_pipelines.scoring import estimates, power
from eval_pipelines.scoring.estimates import Estimate, Floats
from eval_pipelines.scoring.gate_records import Claim
from eval_pipelines.scoring.paired import estimate_mean, is_binary, paired_difference


@dataclass(frozen=True, slots=True)
class Pairs:
    """Verdicts on the questions both were graded on, in one order; `groups` where they come in such."""

    of_baseline: Floats
    of_model: Floats
    groups: list[str] | None
    higher_is_better: bool

    @property
    def is_binary(self) -> bool:
        """Whether every verdict is 0 or 1."""
        return is_binary(self.of_baseline) and is_binary(self.of_model)


def difference(pairs: Pairs) -> Estimate | None:
    """Model minus baseline."""
    return paired_difference(pairs.of_baseline, pairs.of_model, pairs.groups)


def claims_against(policy: BenchmarkPolicy, pairs: Pairs, alpha: float) -> Iterator[Claim]:
    """The limits against the baseline."""
    of_difference = difference(pairs)
    if of_difference is None:
        yield Claim("any", 1.0, 1.0, "all questions belong to one group, so nothing is known of the error")
        return
    if policy.max_drop is not None:
        yield _drop(policy.max_drop, of_difference, pairs, alpha)
    if policy.max_relative_drop is not None:
        base, guard = float(pairs.of_baseline.mean()), policy.relative_guard_below
        if guard is None or base < guard:
            yield _relative_drop(policy.max_relative_drop, base, pairs, alpha)
        else:
            words = (
                f"the baseline's {base:.4f} is not below relative_guard_below {guard:g}, so its share does not count"
            )
            yield Claim("max_relative_drop", 1.0, 0.0, words)


def claims_alone(policy: BenchmarkPolicy, verdicts: Floats, groups: list[str] | None) -> Iterator[Claim]:
    """The limits on the model's own value."""
    n, mean = len(verdicts), float(verdicts.mean())
    for limit, is_floor in ((policy.min_value, True), (policy.max_value, False)):
        if limit is None:
            continue
        above, below = _beyond(verdicts, groups, limit)
        word = "min_value" if is_floor else "max_value"
        p_breach, p_within = (below, above) if is_floor else (above, below)
        yield Claim(f"{word} {limit:g}", p_breach, p_within, f"{mean:.4f} on {n:,} questions, {word} {limit:g}")


def _drop(limit: float, found: Estimate, pairs: Pairs, alpha: float) -> Claim:
    sign = 1 if pairs.higher_is_better else -1
    p_breach, p_within = found.p_below(-limit), found.p_above(-limit)
    if sign < 0:
        p_breach, p_within = found.p_above(limit), found.p_below(limit)
    low, high = found.interval(1 - 2 * alpha)
    n = len(pairs.of_model)
    words = (
        f"{found.value:+.4f} ({low:+.4f} to {high:+.4f}) on {n:,} questions, "
        f"max_drop {limit:g} {'down' if sign > 0 else 'up'}"
    )
    return Claim(f"max_drop {limit:g}", p_breach, p_within, words, _needed(n, found.stderr, limit, alpha))


def _relative_drop(limit: float, base: float, pairs: Pairs, alpha: float) -> Claim:
    n = len(pairs.of_model)
    name = f"max_relative_drop {limit:g}"
    if base <= 0:
        return Claim(name, 1.0, 1.0, f"the baseline's value is {base:g}: there is no share of it to lose", "")
    # above 0 where more than the share is lost
    if pairs.higher_is_better:
        lost, ends = (1 - limit) * pairs.of_baseline - pairs.of_model, (-1.0, 1 - limit)
    else:
        lost, ends = pairs.of_model - (1 + limit) * pairs.of_baseline, (-1 - limit, 1.0)
    if pairs.groups:
        found = estimates.clustered(lost, pairs.groups)
    elif pairs.is_binary:
        found = estimates.adjusted_wald(lost, low=ends[0], high=ends[1])
    else:
        found = estimates.bootstrap(lost)
    share = (float(pairs.of_model.mean()) - base) / base
    words = f"{share:+.1%} of the baseline's {base:.4f} on {n:,} questions, {name}"
    return Claim(name, found.p_above(0), found.p_below(0), words, _needed(n, found.stderr, limit * base, alpha))


def _needed(n: int, stderr: float, distance: float, alpha: float) -> str:
    """What it takes to tell."""
    if distance <= 0:
        return "with a limit of 0 only an improvement can be shown to keep it"
    needed = power.n_needed(n, stderr, distance, alpha=alpha)
    if needed <= n:
        return f"it lies near the limit: if nothing was lost, these {n:,} questions would mostly have shown it"
    return f"if nothing was lost, about {needed:,} questions would show it (80 % power); there are {n:,}"


def _beyond(verdicts: Floats, groups: list[str] | None, limit: float) -> tuple[float, float]:
    """One-sided p-values: against "at most `limit`", and against "at least `limit`"."""
    if groups is None and is_binary(verdicts):
        return _binomial(int(verdicts.sum()), len(verdicts), min(1.0, max(0.0, limit)))
    found = estimate_mean(verdicts, groups)
    return (found.p_above(limit), found.p_below(limit)) if found else (1.0, 1.0)


def _binomial(n_right: int, n: int, share: float) -> tuple[float, float]:
    from scipy.special import bdtr, bdtrc

    above = 1.0 if n_right == 0 else float(bdtrc(n_right - 1, n, share))
    below = float(bdtr(n_right, n, share))
    return (above, below) if np.isfinite([above, below]).all() else (math.nan, math.nan)
