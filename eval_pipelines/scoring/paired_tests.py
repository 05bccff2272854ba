"""Tests of "the two models are equally good" on the same questions. Two-sided.

Source  McNemar (1947), exact binomial form; Fisher (1935), the sign-flip permutation of paired differences
"""

import numpy as np

from eval_pipelines.scoring.estimates import Floats

N_PERMUTATIONS = 9_999
_BITS_AT_ONCE = 16_000_000
_FEW_VALUES = 64
_HAIR = 1e-9


def mcnemar_exact(n_a_only: int, n_b_only: int) -> float | None:
    """Of 0/1 verdicts: whether the questions that only one got right are split evenly. None: there are none."""
    from scipy.special import bdtr

    n = n_a_only + n_b_only
    return min(1.0, 2 * float(bdtr(min(n_a_only, n_b_only), n, 0.5))) if n else None


def sign_flip(differences: Floats, *, seed: int = 0, n_permutations: int = N_PERMUTATIONS) -> float | None:
    """Of graded differences, or sums of clusters of them: whether each could as well have the other sign.

    The p-value is (1 + as extreme) / (1 + permutations), which keeps its level for any number of permutations.
    None: no difference is other than 0.
    """
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        return None
    observed = abs(float(differences.sum()))
    sums = _flipped_sums(sizes, np.random.default_rng(seed), n_permutations)
    # a hair: sums of the same numbers in another order must count as equal
    n_extreme = int((np.abs(sums) >= observed - _HAIR * float(sizes.sum())).sum())
    return (1 + n_extreme) / (1 + n_permutations)


def _flipped_sums(sizes: Floats, random: np.random.Generator, n_permutations: int) -> Floats:
    distinct, counts = np.unique(sizes, return_counts=True)
    if len(distinct) <= _FEW_VALUES:
        positive = random.binomial(counts, 0.5, size=(n_permutations, len(counts)))
        flipped: Floats = (2 * positive - counts) @ distinct
        return flipped
    sums = np.empty(n_permutations)
    n_bytes = -(-len(sizes) // 8)
    step = max(1, _BITS_AT_ONCE // (8 * n_bytes))
    for start in range(0, n_permutations, step):
        rows = slice(start, min(start + step, n_permutations))
        raw = np.frombuffer(random.bytes((rows.stop - start) * n_bytes), dtype=np.uint8)
        is_positive = np.unpackbits(raw.reshape(-1, n_bytes), axis=1, count=len(sizes))
        sums[rows] = 2 * (is_positive @ sizes) - sizes.sum()
    return sums
