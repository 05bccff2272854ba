"""What a comparison of this size can see: the smallest difference it would find, and the questions one would need.

Source  Connor (1987) for McNemar's test, with the usual correction for continuity; normal theory for means
"""

import math

POWER = 0.8
# with an error beyond all numbers, or with none that is known
_BEYOND_COUNTING = 10**15


def min_detectable_shares(n: int, discordance: float, *, alpha: float = 0.05, power: float = POWER) -> float:
    """The smallest true difference of two shares that McNemar's exact test finds with probability `power`.

    Args:
        n: Questions both models were graded on.
        discordance: Share of them that only one of the models gets right, 0..1.
    """
    z_alpha, z_beta = _z(1 - alpha / 2), _z(power)
    # so few questions in discord that they must all speak for one model, and even then be more than chance
    least = (z_alpha + z_beta) ** 2 / n
    under_root = discordance * (n * z_beta**2 - z_beta**2 * (z_alpha**2 - z_beta**2))
    if under_root <= 0:
        return min(1.0, least)
    found = (z_alpha * math.sqrt(n * discordance) + math.sqrt(under_root)) / (n + z_beta**2) + 1 / n
    return min(1.0, found if least <= found <= discordance else max(found, least))


def min_detectable(stderr: float, *, alpha: float = 0.05, power: float = POWER) -> float:
    """The smallest true difference of two means that a two-sided test finds with probability `power`."""
    return (_z(1 - alpha / 2) + _z(power)) * stderr


def n_needed(n: int, stderr: float, distance: float, *, alpha: float = 0.05, power: float = POWER) -> int:
    """Questions with which a one-sided bound, if nothing changed, stays within `distance` with probability `power`.

    Args:
        n: Questions on which `stderr` was found; the error falls with the root of their number.
    """
    wanted = n * ((_z(1 - alpha) + _z(power)) * (stderr / distance)) ** 2 if stderr < 1e100 else math.inf
    return math.ceil(min(wanted, _BEYOND_COUNTING))


def _z(share: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(share))
