"""Are two models different on the same questions? A paired answer, because the questions are the same.

The data choose the method: McNemar's exact test where every verdict is 0 or 1, the sign-flip permutation of paired
differences where verdicts are graded (the mean of several answers to a question is), and the same on sums of clusters
where questions come in groups. Each has its interval; see `estimates`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from eval_pipelines.errors import ScoringError
from eval_pipelines.scoring import estimates, power
from eval_pipelines.scoring.estimates import Ends, Estimate, Floats
from eval_pipelines.scoring.paired_tests import mcnemar_exact, sign_flip

Test = Literal["mcnemar", "permutation", "clustered_permutation"]
Verdict = Literal["better", "worse", "equivalent", "inconclusive"]

LEVEL = 0.95
# below this many values that are not the most frequent one, resampling them says little
_FEW_DIFFERENT = 20


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models, a and b, on the questions both were graded on. Differences are b minus a, in the metric's unit.

    Attributes:
        n: Questions both were graded on.
        difference: Mean of b minus mean of a over these questions.
        n_a_only: Questions on which a has the higher verdict: of 0/1 verdicts, those only a got right.
        n_b_only: Questions on which b has the higher verdict.
        p_value: Two-sided, of "a and b are equally good"; None when no question tells them apart.
        mean_a: Of a on the shared questions; None without any. mean_b: of b.
        ci_low: Lower end of the difference's 95 % interval; None for fewer than two questions. ci_high: upper end.
        test: What gave the p-value: "mcnemar" (exact, 0/1 verdicts), "permutation" (graded verdicts) or
            "clustered_permutation" (questions in groups).
        ci_method: What gave the interval: "adjusted_wald" (0/1 verdicts, or few that differ), "bootstrap"
            (studentised), "t" or "clustered" (cluster-robust). None without one.
        n_clusters: Groups the questions come in; None where they do not.
        min_detectable: The smallest true difference that this comparison would find significant (5 %) with 80 %
            probability; None without an interval.
        margin: Differences up to this are held to be of no consequence; None: none was named.
        verdict: Of b, in the metric's own direction: "equivalent" if the difference is shown to lie within the margin
            (two one-sided tests at 5 %), else "better" or "worse" if it is significant at 5 %, else "inconclusive".
        n_only_in_a: Questions that only a was graded on, which are left out. n_only_in_b: only b.
    """

    n: int
    difference: float
    n_a_only: int
    n_b_only: int
    p_value: float | None
    mean_a: float | None = None
    mean_b: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    test: Test = "mcnemar"
    ci_method: str | None = None
    n_clusters: int | None = None
    min_detectable: float | None = None
    margin: float | None = None
    verdict: Verdict = "inconclusive"
    n_only_in_a: int = 0
    n_only_in_b: int = 0

    @property
    def is_significant(self) -> bool:
        """At the 5 % level."""
        return self.p_value is not None and self.p_value < 1 - LEVEL


def compare(
    a: Mapping[str, float],
    b: Mapping[str, float],
    *,
    clusters: Mapping[str, str] | None = None,
    margin: float | None = None,
    higher_is_better: bool = True,
    seed: int = 0,
) -> Comparison:
    """Compare verdicts by sample id. Questions only one was graded on are left out, and counted.

    Args:
        clusters: Sample id → the group a question shares with others (a passage, a document). A question that is not
            named is a group of its own.
        margin: Largest difference of no consequence (δ), in the metric's unit, > 0.
        seed: Of permutations and resamples: the same data give the same numbers.

    Raises:
        ScoringError: a verdict is infinite or no number.
    """
    shared = sorted(a.keys() & b.keys())
    if not shared:
        return Comparison(0, 0.0, 0, 0, None, margin=margin, n_only_in_a=len(a), n_only_in_b=len(b))
    of_a, of_b = _array(a, shared), _array(b, shared)
    groups = groups_of(shared, clusters)
    estimate = paired_difference(of_a, of_b, groups, seed=seed)
    difference = of_b - of_a
    n_a_only, n_b_only = int((difference < 0).sum()), int((difference > 0).sum())
    is_right_or_wrong = is_binary(of_a) and is_binary(of_b)
    test: Test = "clustered_permutation" if groups else "mcnemar" if is_right_or_wrong else "permutation"
    if groups:
        p_value = sign_flip(estimates.cluster_sums(difference, groups), seed=seed)
    else:
        p_value = mcnemar_exact(n_a_only, n_b_only) if is_right_or_wrong else sign_flip(difference, seed=seed)
    low, high = estimate.interval(LEVEL) if estimate else (None, None)
    return Comparison(
        n=len(shared),
        difference=float(difference.mean()),
        n_a_only=n_a_only,
        n_b_only=n_b_only,
        p_value=p_value,
        mean_a=float(of_a.mean()),
        mean_b=float(of_b.mean()),
        ci_low=low,
        ci_high=high,
        test=test,
        ci_method=estimate.method if estimate else None,
        n_clusters=len({*groups}) if groups else None,
        min_detectable=_min_detectable(estimate, len(shared), (n_a_only + n_b_only) / len(shared), test),
        margin=margin,
        verdict=_verdict(estimate, p_value, margin, higher_is_better),
        n_only_in_a=len(a) - len(shared),
        n_only_in_b=len(b) - len(shared),
    )


def paired_difference(
    of_a: Floats, of_b: Floats, groups: list[str] | None, *, weight: float = 1.0, seed: int = 0
) -> Estimate | None:
    """Mean of b minus `weight` times a with its error; None for fewer than two questions or groups."""
    are_shares = _are_shares(of_a) and _are_shares(of_b)
    are_binary = is_binary(of_a) and is_binary(of_b)
    ends = (min(0.0, -weight), 1 - min(0.0, weight)) if are_shares else None
    values = of_b - weight * of_a
    found = _estimated(values, groups, ends, is_binary=are_binary, seed=seed)
    return replace(found, pairs=values) if found is not None and are_binary and groups is None else found


def estimate_mean(values: Floats, groups: list[str] | None, *, seed: int = 0) -> Estimate | None:
    """The mean of one model's verdicts with its error; None for fewer than two questions or groups."""
    ends = (0.0, 1.0) if _are_shares(values) else None
    # two at each end for one share, one for the difference of two
    return _estimated(values, groups, ends, is_binary=is_binary(values), n_added=2, seed=seed)


def _estimated(
    values: Floats, groups: list[str] | None, ends: Ends | None, *, is_binary: bool, n_added: int = 1, seed: int
) -> Estimate | None:
    """By the method that fits the data; adjusted where `ends` tell what no value can leave."""
    if len(values) < 2 or (groups and len({*groups}) < 2):
        return None
    if groups:
        if ends is None:
            return estimates.clustered(values, groups)
        return estimates.adjusted_clustered(values, groups, low=ends[0], high=ends[1], n_added=n_added)
    # nearly all are the same: resamples of them say little of what was not seen
    is_nearly_constant = len(values) - np.unique(values, return_counts=True)[1].max() < _FEW_DIFFERENT
    if ends is not None and (is_binary or is_nearly_constant):
        return estimates.adjusted_wald(values, low=ends[0], high=ends[1], n_added=n_added)
    found = estimates.students_t(values) if is_nearly_constant else estimates.bootstrap(values, seed=seed)
    return replace(found, ends=ends) if ends is not None else found


def _verdict(estimate: Estimate | None, p_value: float | None, margin: float | None, higher_is_better: bool) -> Verdict:
    if estimate is None:
        return "inconclusive"
    alpha = 1 - LEVEL
    if margin is not None and max(estimate.p_below(margin), estimate.p_above(-margin)) < alpha:
        return "equivalent"
    if p_value is None or p_value >= alpha:
        return "inconclusive"
    return "better" if (estimate.value > 0) == higher_is_better else "worse"


def _min_detectable(estimate: Estimate | None, n: int, discordance: float, test: Test) -> float | None:
    if estimate is None:
        return None
    if test == "mcnemar":
        return power.min_detectable_shares(n, discordance)
    return power.min_detectable(estimate.stderr)


def groups_of(keys: list[str], clusters: Mapping[str, str] | None) -> list[str] | None:
    """The group of each of these questions; None where every one is a group of its own."""
    if not clusters:
        return None
    groups = [f"in {clusters[key]}" if clusters.get(key) is not None else f"alone {key}" for key in keys]
    return groups if len({*groups}) < len(groups) else None


def _array(verdicts: Mapping[str, float], keys: list[str]) -> Floats:
    values = np.fromiter((verdicts[key] for key in keys), dtype=np.float64, count=len(keys))
    for key, value in zip(keys, values, strict=True):
        if not math.isfinite(value):
            raise ScoringError(f"{key} has the verdict {value}, which cannot be compared")
    return values


def is_binary(values: Floats) -> bool:
    """Whether every verdict is 0 or 1."""
    return bool(((values == 0) | (values == 1)).all())


def _are_shares(values: Floats) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())
