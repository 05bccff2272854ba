"""Are two models different on the same questions? A paired answer, because the questions are the same.

Source  McNemar (1947), exact binomial form
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the questions both were graded on.

    Attributes:
        difference: Mean of b minus mean of a, in the metric's unit.
        n_a_only: Questions only a got right; n_b_only: only b.
        p_value: Two-sided; None when no question tells them apart.
    """

    n: int
    difference: float
    n_a_only: int
    n_b_only: int
    p_value: float | None

    @property
    def is_significant(self) -> bool:
        """At the 5 % level."""
        return self.p_value is not None and self.p_value < 0.05


def compare(a: Mapping[str, float], b: Mapping[str, float]) -> Comparison:
    """McNemar's exact test on 0/1 verdicts by sample id. Questions only one was graded on are left out."""
    shared = sorted(a.keys() & b.keys())
    n_a_only = sum(a[key] > b[key] for key in shared)
    n_b_only = sum(b[key] > a[key] for key in shared)
    difference = sum(b[key] - a[key] for key in shared) / len(shared) if shared else 0.0
    p_value = None
    if n_a_only + n_b_only:
        from scipy.stats import binomtest

        p_value = float(binomtest(min(n_a_only, n_b_only), n_a_only + n_b_only, 0.5).pvalue)
    return Comparison(len(shared), difference, n_a_only, n_b_only, p_value)
