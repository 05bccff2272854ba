"""How often a limit counts as kept that is just lost, or as broken that is just kept: summed over all outcomes.

The tests are the ones that verdicts and gates use. What they show of one number of lost questions they show of every
lower one (or higher, of broken limits), so it is looked for where that ends.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats

from eval_pipelines.scoring.estimates import Estimate, adjusted_wald
from eval_pipelines.scoring.paired import paired_difference


def kept(n: int, limit: float, won: float, alpha: float = 0.05) -> float:
    """P(shown that less than `limit` was lost), of pairs of 0/1 verdicts of which `won` + `limit` are lost."""
    return _over_wins(n, won, won + limit, lambda found: found.p_above(-limit) <= alpha)


def broken(n: int, limit: float, won: float, alpha: float = 0.05) -> float:
    """P(shown that more than `limit` was lost), in the same worlds."""
    return 1 - _over_wins(n, won, won + limit, lambda found: found.p_below(-limit) > alpha)


def share_kept(n: int, share: float, right: float, alpha: float = 0.05) -> float:
    """P(shown that less than `share` of the baseline was lost); of the baseline, which is `right`, it is; nothing is won."""
    chance = 0.0
    for n_right in range(1, n + 1):
        if (p := float(stats.binom.pmf(n_right, n, right))) > 1e-6:
            most = _most_lost(n, n_right, 0, lambda found: found.p_above(0) <= alpha, weight=1 - share)
            chance += p * float(stats.binom.cdf(most, n_right, share))
    return chance


def grade_kept(n: int, limit: float) -> float:
    """As `kept`, with nothing won, of graded verdicts: where few differ, by the adjusted interval alone."""
    lost = np.arange(n + 1)
    is_kept = [adjusted_wald(-(np.arange(n) < one).astype(float)).p_above(-limit) <= 0.05 for one in lost]
    return float(stats.binom.pmf(lost, n, limit) @ is_kept)


def _over_wins(n: int, won: float, lost: float, is_shown: Callable[[Estimate], bool]) -> float:
    chance = 0.0
    for n_won in range(n + 1):
        if (p := float(stats.binom.pmf(n_won, n, won))) > 1e-6:
            most = _most_lost(n, n - n_won, n_won, is_shown)
            chance += p * float(stats.binom.cdf(most, n - n_won, lost / (1 - won)))
    return chance


def _most_lost(n: int, n_right: int, n_won: int, is_shown: Callable[[Estimate], bool], *, weight: float = 1.0) -> int:
    """The largest number lost, of those the baseline has right, of which it is shown; -1: of none."""
    low, high = -1, n_right
    of_a = (np.arange(n) < n_right).astype(float)
    while low < high:
        middle = (low + high + 1) // 2
        of_b = np.concatenate([np.arange(n_right) >= middle, np.arange(n - n_right) < n_won]).astype(float)
        found = paired_difference(of_a, of_b, None, weight=weight)
        assert found is not None
        low, high = (middle, high) if is_shown(found) else (low, middle - 1)
    return low
