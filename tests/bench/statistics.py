"""How often statistics and gates err, against what they state: `make bench-statistics` prints docs/statistics.md's table.

Seeded; where a probability can be summed over all outcomes it is (exact), elsewhere it is simulated.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from eval_pipelines.config import Gate
from eval_pipelines.scoring import estimates, power
from eval_pipelines.scoring.gate_records import Lacking
from eval_pipelines.scoring.multiplicity import benjamini_hochberg, holm
from eval_pipelines.scoring.paired_tests import mcnemar_exact, sign_flip
from eval_pipelines.scoring.sequential import ConfidenceSequence
from tests.bench import one_sided
from tests.scoring.gate_worlds import evidence, gate, judged

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rate:
    """One probability: what is stated of it, and what was found. `n` worlds; 0: exact."""

    what: str
    stated: str
    found: float
    low: float
    high: float
    n: int = 0

    @property
    def error(self) -> float:
        """Four standard errors of the simulation."""
        return 4 * float(np.sqrt(max(self.found * (1 - self.found), 0.25 / self.n) / self.n)) if self.n else 1e-9

    @property
    def is_kept(self) -> bool:
        """Whether what was found is what is stated, up to the simulation's error."""
        return self.low - self.error <= self.found <= self.high + self.error


def mcnemar_level() -> Iterator[Rate]:
    """P(p < 0.05) where both are equally good, at worst over discordance."""
    for n in (30, 300):
        worst = 0.0
        for discordance in (0.05, 0.1, 0.2, 0.4):
            k = np.arange(1, n + 1)
            rejected = np.array([_rejected(int(one), 0.5) for one in k])
            worst = max(worst, float(stats.binom.pmf(k, n, discordance) @ rejected))
        yield Rate(f"McNemar's exact test, {n} questions: wrongly significant", "at most 5 %", worst, 0, 0.05)


def mcnemar_power() -> Iterator[Rate]:
    """P(p < 0.05) where the true difference is the one said to be detectable."""
    for n, discordance in ((100, 0.3), (300, 0.1), (1_319, 0.05)):
        share = (1 + power.min_detectable_shares(n, discordance) / discordance) / 2
        k = np.arange(1, n + 1)
        found = stats.binom.pmf(k, n, discordance) @ np.array([_rejected(int(one), share) for one in k])
        name = f"McNemar's exact test, {n:,} questions, {discordance:.0%} differ: the detectable difference is found"
        yield Rate(name, "about 80 %", float(found), 0.79, 0.9)


def _rejected(n_discordant: int, share: float) -> float:
    n_b = np.arange(n_discordant + 1)
    p_values = np.array([mcnemar_exact(int(n_discordant - one), int(one)) for one in n_b])
    return float(stats.binom.pmf(n_b, n_discordant, share)[p_values < 0.05].sum())


def paired_shares() -> Iterator[Rate]:
    """Coverage of the adjusted Wald interval, summed over all outcomes: the mean and the worst of 36 pairs of models."""
    for n in (30, 100):
        b, c = (one.ravel() for one in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
        b, c = b[b + c <= n], c[b + c <= n]
        centre, square = (c - b) / (n + 2), (b + c + 2) / (n + 2)
        half = 1.959964 * np.sqrt((square - centre**2) / (n + 2))
        found = []
        for lost in (0, 0.01, 0.05, 0.1, 0.2, 0.3):
            for won in (0, 0.01, 0.05, 0.1, 0.2, 0.3):
                chance = stats.multinomial.pmf(np.stack([b, c, n - b - c], 1), n, [lost, won, 1 - lost - won])
                found.append(float(chance[np.abs(centre - (won - lost)) <= half].sum()))
        name = f"paired interval of shares, {n} questions: covers"
        yield Rate(f"{name}, on average", "95 %", float(np.mean(found)), 0.95, 0.98)
        yield Rate(f"{name}, at worst", "95 %", min(found), 0.92, 1)


def one_sided_shares() -> Iterator[Rate]:
    """P(a limit that is just lost is shown to be kept, or the reverse), at worst over questions, limits and what is won."""
    limits = [*(float(one) for one in np.arange(0.01, 0.1001, 0.005)), 0.15, 0.2, 0.3]
    worlds, besides = [(n, limit) for n in (20, 30, 100, 300, 1_000) for limit in limits], (0.001, 0.01, 0.1)
    rows = {
        "a limit just lost, nothing won: shown to be kept": (one_sided.kept(*one, 0.0) for one in worlds),
        "a limit just lost, as many won besides: shown to be kept": (
            one_sided.kept(*one, won) for one in worlds for won in besides if one[0] <= 300
        ),
        "a share of the baseline just lost: shown to be kept": (
            one_sided.share_kept(n, share, right)
            for n in (30, 100, 300)
            for share in limits[::3]
            for right in (0.8, 1.0)
        ),
        "a limit just kept: shown to be broken": (one_sided.broken(*one, won) for one in worlds for won in (0.0, 0.01)),
    }
    for what, found in rows.items():
        yield Rate(f"paired shares, {what}, at worst", "about 5 %", max(found), 0, 0.056)
    for alpha, stated, most in ((0.01, "at most 1 %", 0.01), (0.1, "at most 13 %", 0.13)):
        worst = max(one_sided.kept(*one, 0.0, alpha) for one in worlds)
        yield Rate(
            f"paired shares, the same with significance {alpha}: shown to be kept, at worst", stated, worst, 0, most
        )
    worst = max(one_sided.grade_kept(*one) for one in worlds if one[0] < 1_000)
    name = "paired grades of which few differ, a limit just lost, nothing won: shown to be kept, at worst"
    yield Rate(name, "at most 11 %", worst, 0, 0.11)


def sign_flips(n_worlds: int, random: np.random.Generator) -> Iterator[Rate]:
    """Graded verdicts of two equally good models: means of four answers."""
    n = 60
    skill = random.beta(0.6, 0.6, (n_worlds, n))
    difference = (random.binomial(4, skill) - random.binomial(4, skill)) / 4
    p_values = [sign_flip(one, n_permutations=999) or 1.0 for one in difference]
    found = float((np.array(p_values) < 0.05).mean())
    yield Rate(
        "permutation of means of 4 answers, 60 questions: wrongly significant", "at most 5 %", found, 0, 0.05, n_worlds
    )


def means(n_worlds: int, random: np.random.Generator) -> Iterator[Rate]:
    """Coverage for skewed values, and for questions in groups."""
    skewed = random.exponential(1, (n_worlds, 60))
    hits = [_covers(estimates.bootstrap(one, n_resamples=799), 1.0) for one in skewed]
    yield Rate(
        "studentised bootstrap of skewed values, 60 questions: covers",
        "95 %",
        float(np.mean(hits)),
        0.94,
        0.97,
        n_worlds,
    )
    n_groups, per = 20, 8
    groups = [f"g{i // per}" for i in range(n_groups * per)]
    shift = np.repeat(random.normal(0, 0.4, (n_worlds, n_groups)), per, axis=1)
    values = shift + random.normal(0, 1, (n_worlds, n_groups * per))
    clustered = [_covers(estimates.clustered(one, groups), 0.0) for one in values]
    naive = [_covers(estimates.students_t(one), 0.0) for one in values]
    yield Rate(
        "20 groups of 8 questions, cluster-robust: covers", "95 %", float(np.mean(clustered)), 0.94, 0.96, n_worlds
    )
    yield Rate("the same without regard to groups: covers", "less: 80 %", float(np.mean(naive)), 0.7, 0.9, n_worlds)


def _covers(found: estimates.Estimate, truth: float) -> bool:
    low, high = found.interval()
    return low <= truth <= high


def corrections(n_worlds: int, random: np.random.Generator) -> Iterator[Rate]:
    """Twenty benchmarks, of which five really fell."""
    z = random.normal(0, 1, (n_worlds, 20)) + np.where(np.arange(20) < 5, 3.0, 0.0)
    p_values = 2 * stats.norm.sf(np.abs(z))
    wrong: dict[str, list[float]] = {"holm": [], "bh": [], "none": []}
    for one in p_values:
        for name, adjusted in (("holm", holm(list(one))), ("bh", benjamini_hochberg(list(one))), ("none", list(one))):
            is_found = np.array(adjusted) < 0.05
            n_wrong = int(is_found[5:].sum())
            wrong[name].append(n_wrong / max(1, int(is_found.sum())) if name == "bh" else float(n_wrong > 0))
    yield Rate(
        "20 benchmarks, Holm: any false finding", "at most 5 %", float(np.mean(wrong["holm"])), 0, 0.05, n_worlds
    )
    name = "20 benchmarks, Benjamini-Hochberg: share of findings that are false"
    yield Rate(name, "at most 5 %", float(np.mean(wrong["bh"])), 0, 0.05, n_worlds)
    yield Rate(
        "20 benchmarks, uncorrected: any false finding",
        "1 - 0.95^15 = 54 %",
        float(np.mean(wrong["none"])),
        0.5,
        0.58,
        n_worlds,
    )


def gates(n_worlds: int, random: np.random.Generator) -> Iterator[Rate]:
    """Three critical benchmarks of 400 questions, 10 % of the verdicts change; the limit is a drop of 0.03."""
    policy = gate({name: {"max_drop": 0.03} for name in ("a", "b", "c")})
    at_limit = _decisions(policy, {"a": 0.03, "b": 0.0, "c": 0.0}, n_worlds, random, improve=0.05)
    yield Rate("gate: GO though one benchmark lost the limit", "at most 5 %", at_limit["GO"], 0, 0.055, n_worlds)
    everywhere = _decisions(policy, dict.fromkeys(("a", "b", "c"), 0.03), n_worlds, random)
    yield Rate(
        "gate: NO-GO though none lost more than the limit", "at most 5 %", everywhere["NO-GO"], 0, 0.055, n_worlds
    )
    worse = _decisions(policy, {"a": 0.09, "b": 0.0, "c": 0.0}, n_worlds, random)
    yield Rate("gate: NO-GO where one lost three times the limit", "most: 90 %", worse["NO-GO"], 0.85, 1, n_worlds)
    level = _decisions(
        gate({"a": {"max_drop": 0.03}}), {"a": 0.0}, n_worlds, random, n=power.n_needed(400, 0.0158, 0.03)
    )
    yield Rate(
        "gate: GO with the questions it asked for, if nothing was lost", "about 80 %", level["GO"], 0.77, 0.84, n_worlds
    )


def few_differ(n_worlds: int, random: np.random.Generator) -> Iterator[Rate]:
    """The limit is just lost, and most samples do not show it: nothing in them differs, or next to nothing."""
    for n, size, drop, is_alike in (
        (20, 2, 0.03, False),
        (30, 15, 0.03, False),
        (100, 2, 0.02, False),
        (1_000, 5, 0.01, True),
    ):
        policy, n_wrong = gate({"a": {"max_drop": drop}}), 0
        clusters = {f"q/{i:05}": f"g{i // size}" for i in range(n)}
        for _ in range(n_worlds):
            is_lost = np.repeat(random.random(n // size) < drop, size) if is_alike else random.random(n) < drop
            new, old = evidence(~is_lost, benchmark="a", clusters=clusters), evidence(np.ones(n), "smol@step-100", "a")
            n_wrong += judged(policy, a=(new, old)).decision == "GO"
        name = (
            f"gate: GO though the limit of {drop} was lost, {n:,} questions in groups of {size}{', alike' * is_alike}"
        )
        yield Rate(name, "at most 5 %", n_wrong / n_worlds, 0, 0.05, n_worlds)
    clusters = {f"q/{i:05}": f"g{i // 2}" for i in range(20)}
    worlds = {
        "0.97 right, 20 questions in pairs": (0.97, clusters, lambda: (random.random(20) < 0.97).astype(float)),
        "0.9 or 0, 20 questions": (0.855, {}, lambda: np.where(random.random(20) < 0.95, 0.9, 0.0)),
        "0.9 or 0, 100 questions": (0.855, {}, lambda: np.where(random.random(100) < 0.95, 0.9, 0.0)),
    }
    for what, (floor, groups, draw) in worlds.items():
        policy, lacking = gate({"a": {"min_value": floor}}), Lacking("there is no earlier checkpoint")
        n_wrong = sum(
            judged(policy, a=(evidence(draw(), benchmark="a", clusters=groups), lacking)).decision == "GO"
            for _ in range(n_worlds)
        )
        yield Rate(f"gate: GO at min_value, {what}", "at most 5 %", n_wrong / n_worlds, 0, 0.05, n_worlds)


def groups_of_shares(n_worlds: int, random: np.random.Generator) -> Iterator[Rate]:
    """Coverage for differences of 0/1 verdicts in groups, a third of which are alike throughout."""
    for n_groups, size in ((20, 8), (200, 5)):
        groups = np.repeat(np.arange(n_groups), size)
        of_group, alone = random.random((n_worlds, n_groups)), random.random((n_worlds, n_groups * size))
        drawn = np.where(random.random(alone.shape) < 0.58, np.repeat(of_group, size, axis=1), alone)
        values = np.where(drawn < 0.06, -1.0, np.where(drawn > 0.97, 1.0, 0.0))
        hits = [_covers(estimates.adjusted_clustered(one, groups), -0.03) for one in values]
        name = f"{n_groups} groups of {size} questions, of shares: covers"
        yield Rate(name, "95 % or more", float(np.mean(hits)), 0.95, 1, n_worlds)


def _decisions(
    policy: Gate,
    drops: dict[str, float],
    n_worlds: int,
    random: np.random.Generator,
    *,
    n: int = 400,
    improve: float = 0.0,
) -> dict[str, float]:
    """Share of each decision, where `drops` are the true drops; those of 0 are improved by `improve`."""
    counts = {"GO": 0, "NO-GO": 0, "INCONCLUSIVE": 0}
    for _ in range(n_worlds):
        pairs = {}
        for name, drop in drops.items():
            true = drop if drop else -improve
            old = (random.random(n) < 0.6).astype(float)
            # of those right so many are lost, and of those wrong so many won, that the mean falls by `true`
            lost, won = (0.1 + true) / 2 / 0.6, (0.1 - true) / 2 / 0.4
            new = np.where(old == 1, random.random(n) >= lost, random.random(n) < won).astype(float)
            pairs[name] = (evidence(new, benchmark=name), evidence(old, "smol@step-100", name))
        counts[judged(policy, **pairs).decision] += 1
    return {name: count / n_worlds for name, count in counts.items()}


def sequences(n_worlds: int, random: np.random.Generator) -> Iterator[Rate]:
    """A thousand questions, looked at after every 25: whether an interval ever misses what all of them give."""
    n, n_worlds = 1_000, n_worlds // 4
    n_missed, n_missed_fixed, n_asked = 0, 0, []
    for _ in range(n_worlds):
        values = (random.random(n) < 0.7).astype(float)
        truth, found, asked = float(values.mean()), ConfidenceSequence(n, aim=0.04), n
        is_missed = is_missed_fixed = False
        for start in range(0, n, 25):
            found.see(values[start : start + 25])
            seen = values[: found.n]
            error = 1.96 * float(seen.std()) / np.sqrt(found.n) * np.sqrt(1 - found.n / n)
            is_missed |= not found.low <= truth <= found.high
            is_missed_fixed |= abs(float(seen.mean()) - truth) > error + 1e-12
            asked = min(asked, found.n) if found.half_width <= 0.04 else asked
        n_missed, n_missed_fixed = n_missed + is_missed, n_missed_fixed + is_missed_fixed
        n_asked.append(asked / n)
    yield Rate("sequential interval, 40 looks: ever misses", "at most 5 %", n_missed / n_worlds, 0, 0.05, n_worlds)
    name = "an ordinary interval, 40 looks: ever misses"
    yield Rate(name, "far more: half", n_missed_fixed / n_worlds, 0.35, 0.6, n_worlds)
    name = "questions asked of 1,000 until the half width is 0.04"
    yield Rate(name, "about half", float(np.mean(n_asked)), 0.45, 0.6, n_worlds)


SIMULATED: tuple[Callable[[int, np.random.Generator], Iterator[Rate]], ...] = (
    sign_flips,
    means,
    corrections,
    gates,
    few_differ,
    groups_of_shares,
    sequences,
)
EXACT: tuple[Callable[[], Iterator[Rate]], ...] = (mcnemar_level, mcnemar_power, paired_shares, one_sided_shares)


def main(n_worlds: int = 10_000) -> int:
    """Print the table; the exit code is the number of rates that are not what is stated."""
    random = np.random.default_rng(20_261_127)
    print("| what | stated | found | worlds |\n|---|---|---|---|")
    n_broken = 0
    for rate in [one for each in EXACT for one in each()] + [
        one for each in SIMULATED for one in each(n_worlds, random)
    ]:
        n_broken += not rate.is_kept
        mark = "" if rate.is_kept else " (!)"
        print(
            f"| {rate.what} | {rate.stated} | {rate.found:.1%}{mark} | {f'{rate.n:,}' if rate.n else 'all outcomes'} |",
            flush=True,
        )
    return n_broken


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
