"""How likely is it that one of k programs passes, when c of n did.

Source  Chen et al. (2021), "Evaluating Large Language Models Trained on Code", the unbiased estimator
"""

from math import comb


def pass_at_k(n: int, c: int, k: int) -> float:
    """Share of the choices of k among n programs, c of which pass, that hold one that passes; 1 ≤ k ≤ n."""
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} cannot be told from {n} programs")
    return (comb(n, k) - comb(n - c, k)) / comb(n, k)
