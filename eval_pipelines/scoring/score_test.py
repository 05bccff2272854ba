"""Is a mean of paired 0/1 verdicts above a limit? A test that keeps its level also where next to nothing differs.

Wald's tests take the error from what was seen, which is next to nothing where nothing was won and the limit just lost. The
score test takes it from the likeliest world in which the limit is lost.

Source  Tango (1998), "Equivalence test and confidence interval for the difference in proportions for the paired-sample
        design"; for a share of the baseline Tang, Tang & Chan (2003); both are the multinomial likelihood at its highest
        under one mean, as in Owen (1988); the correction between none and Yates's as in Laud (2017), its size by the level
        that was measured (docs/statistics.md)
"""

import math

import numpy as np
from numpy.typing import NDArray

# of a question: without it 5 % are up to 7 %, with half of one questions are wasted
CORRECTION = 0.25


def p_above(values: NDArray[np.float64], limit: float, *, low: float) -> float:
    """One-sided p-value against "the mean is at most `limit`"; 0.5 where the data do not speak against it.

    Args:
        values: One per question, of few kinds: b minus `weight` times a.
        low: The lowest that a value can be, whether or not one was.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr

    off, counts = np.unique(values - limit, return_counts=True)
    least, above = low - limit, float(counts @ off) - CORRECTION
    if least >= 0 or above <= 0:
        return 0.0 if least >= 0 else 0.5

    # of the multiplier t: values are as likely as they were seen, divided by 1 + t * off; at its end all the rest is `least`
    def excess(t: float) -> float:
        return float(counts @ (off * (1 + t * least) / (1 + t * off)))

    end = (1 - 1e-9) / -least
    t = end if excess(end) >= 0 else brentq(excess, 0.0, end, xtol=1e-12)
    variance = float(counts @ (off * (off - least) / (1 + t * off)))
    return float(ndtr(-above / math.sqrt(variance)))
