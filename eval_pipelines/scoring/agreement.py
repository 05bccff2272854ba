"""Do judges agree, and more than by chance?

Source  Cohen (1960) for two judges; Fleiss (1971) for several; Krippendorff (2011), "Computing Krippendorff's
        Alpha-Reliability", whose alpha takes units on which some judges say nothing, and numbers as numbers
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# one row per unit, one column per judge; None where a judge says nothing
Units = Sequence[Sequence[str | float | None]]
_N_DRAWS, _SEED = 1000, 1234


def shares_of_agreeing_pairs(units: Units) -> list[float]:
    """Of each unit that two judges or more say something of: the share of pairs of judges that say the same."""
    found = []
    for unit in units:
        said = [one for one in unit if one is not None]
        if len(said) > 1:
            n_agreeing = sum(said.count(one) - 1 for one in said)
            found.append(n_agreeing / (len(said) * (len(said) - 1)))
    return found


def cohens_kappa(units: Units) -> float | None:
    """Of two judges, over the units both say something of; None where chance alone makes them agree."""
    pairs = [(unit[0], unit[1]) for unit in units if unit[0] is not None and unit[1] is not None]
    if not pairs:
        return None
    n = len(pairs)
    observed = sum(a == b for a, b in pairs) / n
    firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs]
    by_chance = sum(firsts.count(value) * seconds.count(value) for value in {*firsts}) / n**2
    return None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


def fleiss_kappa(units: Units) -> float | None:
    """Of any number of judges, over the units all of them say something of; None where all always say one thing."""
    whole = [unit for unit in units if None not in unit]
    if not whole or len(whole[0]) < 2:
        return None
    observed = float(np.mean(shares_of_agreeing_pairs(whole)))
    counts = _counts(whole)[0].sum(axis=0)
    by_chance = float(np.sum((counts / counts.sum()) ** 2))
    return None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


def krippendorffs_alpha(units: Units, *, are_numbers: bool = False) -> float | None:
    """Over the units that two judges or more say something of; None where all always say one thing.

    Args:
        are_numbers: how far apart two verdicts are counts (interval), not only whether they differ (nominal).
    """
    counts, values = _paired(units)
    if not len(counts):
        return None
    return _alphas(np.ones((1, len(counts))), counts, _distances(values, are_numbers))[0]


def alpha_interval(units: Units, *, are_numbers: bool = False) -> tuple[float, float] | None:
    """95 % interval of alpha: its percentiles over units drawn again (bootstrap, always the same draws)."""
    counts, values = _paired(units)
    if len(counts) < 2:
        return None
    n = len(counts)
    drawn = np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), size=_N_DRAWS).astype(float)
    found = [one for one in _alphas(drawn, counts, _distances(values, are_numbers)) if one is not None]
    if len(found) < _N_DRAWS / 2:
        return None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _counts(units: Units) -> tuple[npt.NDArray[np.float64], list[str | float]]:
    """How many judges say what: a row per unit, a column per value; and the values."""
    values: list[str | float] = sorted({one for unit in units for one in unit if one is not None}, key=str)
    index = {value: i for i, value in enumerate(values)}
    counts = np.zeros((len(units), len(values)))
    for row, unit in zip(counts, units, strict=True):
        for one in unit:
            if one is not None:
                row[index[one]] += 1
    return counts, values


def _paired(units: Units) -> tuple[npt.NDArray[np.float64], list[str | float]]:
    return _counts([unit for unit in units if sum(one is not None for one in unit) > 1])


def _distances(values: Sequence[str | float], are_numbers: bool) -> npt.NDArray[np.float64]:
    if are_numbers:
        numbers = np.array([float(value) for value in values])
        return np.asarray((numbers[:, None] - numbers[None, :]) ** 2, dtype=np.float64)
    return 1.0 - np.eye(len(values))


def _alphas(
    weights: npt.NDArray[np.float64], counts: npt.NDArray[np.float64], distances: npt.NDArray[np.float64]
) -> list[float | None]:
    """Alpha for each row of weights over the units."""
    n_judges = counts.sum(axis=1)
    within = np.einsum("uv,vw,uw->u", counts, distances, counts) / (n_judges - 1)
    totals = weights @ counts
    n = totals.sum(axis=1)
    observed = weights @ within / n
    expected = np.einsum("bv,vw,bw->b", totals, distances, totals) / (n * (n - 1))
    return [None if e == 0 else float(1 - o / e) for o, e in zip(observed, expected, strict=True)]
