"""The limits of one benchmark as claims: each tested both ways, "it is broken" and "it is kept".

Source  one-sided tests of non-inferiority; a share of the baseline is tested by the linear contrast of Fieller (1954),
        so that the baseline's own error counts; a floor for a share by the exact binomial test
"""

from collections.abc import Iterator

import numpy as np

from eval_pipelines.config import BenchmarkPolicy
from eval_pipelines.scoring import power
from eval_pipelines.scoring.estimates import Estimate
from eval_pipelines.scoring.gate_comparisons import Apart, OwnNumber, Pairs, Verdicts
from eval_pipelines.scoring.gate_records import Claim


def claims_against(policy: BenchmarkPolicy, compared: Pairs | Apart, alpha: float) -> Iterator[Claim]:
    """The limits against the baseline."""
    difference = compared.contrast(1.0)
    if difference is None:
        yield Claim("any", 1.0, 1.0, compared.unknown)
        return
    if policy.max_drop is not None:
        yield _drop(policy.max_drop, difference, compared, alpha)
    if policy.max_relative_drop is not None:
        base, guard = compared.base, policy.relative_guard_below
        if guard is None or base < guard:
            yield _relative_drop(policy.max_relative_drop, compared, alpha)
        else:
            words = (
                f"the baseline's {base:.4f} is not below relative_guard_below {guard:g}, so its share does not count"
            )
            yield Claim("max_relative_drop", 1.0, 0.0, words)


def claims_alone(policy: BenchmarkPolicy, single: Verdicts | OwnNumber) -> Iterator[Claim]:
    """The limits on the model's own value."""
    for limit, is_floor in ((policy.min_value, True), (policy.max_value, False)):
        if limit is None:
            continue
        word = "min_value" if is_floor else "max_value"
        words = f"{single.value:.4f} on {single.n:,} questions, {word} {limit:g}"
        beyond = single.beyond(limit)
        if beyond is None:
            yield Claim(f"{word} {limit:g}", 1.0, 1.0, words, single.unknown)
            continue
        above, below = beyond
        p_breach, p_within = (below, above) if is_floor else (above, below)
        yield Claim(f"{word} {limit:g}", p_breach, p_within, words)


def _drop(limit: float, found: Estimate, compared: Pairs | Apart, alpha: float) -> Claim:
    is_down = compared.higher_is_better
    p_breach, p_within = found.p_below(-limit), found.p_above(-limit)
    if not is_down:
        p_breach, p_within = found.p_above(limit), found.p_below(limit)
    low, high = found.interval(1 - 2 * alpha)
    n = compared.n
    words = (
        f"{found.value:+.4f} ({low:+.4f} to {high:+.4f}) on {n:,} questions{compared.remark}, "
        f"max_drop {limit:g} {'down' if is_down else 'up'}"
    )
    return Claim(f"max_drop {limit:g}", p_breach, p_within, words, _needed(n, found.stderr, limit, alpha))


def _relative_drop(limit: float, compared: Pairs | Apart, alpha: float) -> Claim:
    n, base, is_down = compared.n, compared.base, compared.higher_is_better
    name = f"max_relative_drop {limit:g}"
    if base == 0 and is_down and compared.value >= 0:
        return Claim(name, 1.0, 0.0, f"the baseline's value is 0 on {n:,} questions, of which no share can be lost")
    # the share is of the baseline's size, whatever its sign
    share = float(np.sign(base)) * limit
    found = compared.contrast(1 - share if is_down else 1 + share)
    if found is None:
        return Claim(name, 1.0, 1.0, compared.unknown)
    p_breach, p_within = (found.p_below(0), found.p_above(0)) if is_down else (found.p_above(0), found.p_below(0))
    if base == 0:
        words = (
            f"{compared.value:.4f} on {n:,} questions{compared.remark}, and a share of the baseline's 0 is 0, {name}"
        )
        return Claim(name, p_breach, p_within, words, "set max_drop or max_value")
    change = (compared.value - base) / abs(base)
    words = f"{change:+.1%} of the baseline's {base:.4f} on {n:,} questions{compared.remark}, {name}"
    return Claim(name, p_breach, p_within, words, _needed(n, found.stderr, limit * abs(base), alpha))


def _needed(n: int, stderr: float, distance: float, alpha: float) -> str:
    """What it takes to tell."""
    if distance <= 0:
        return "with a limit of 0 only an improvement can be shown to keep it"
    needed = power.n_needed(n, stderr, distance, alpha=alpha)
    if needed <= n:
        return f"it lies near the limit: if nothing was lost, these {n:,} questions would mostly have shown it"
    return f"if nothing was lost, about {needed:,} questions would show it (80 % power); there are {n:,}"
