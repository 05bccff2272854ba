"""Do judges agree, and more than by chance?

Source  Cohen (1960) for two judges; Fleiss (1971) for several; Krippendorff (2011), "Computing Krippendorff's
        Alpha-Reliability", whose alpha takes units on which some judges say nothing, and numbers as numbers
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

# one row per unit, one column per judge; None where a judge says nothing
Units = Sequence[Sequence[str | float | None]]
Array = npt.NDArray[np.float64]
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
    return _estimate(_cohens, *_pairs_of_two(units))


def fleiss_kappa(units: Units) -> float | None:
    """Of any number of judges, over the units all of them say something of; None where all always say one thing."""
    return _estimate(_fleiss, _counts(_whole(units))[0])


def krippendorffs_alpha(units: Units, *, are_numbers: bool = False) -> float | None:
    """Over the units that two judges or more say something of; None where all always say one thing.

    Args:
        are_numbers: how far apart two verdicts are counts (interval), not only whether they differ (nominal).
    """
    counts, values = _counts(_said_by_two(units))
    return _estimate(_alphas, counts, _distances(values, are_numbers))


def kappa_interval(units: Units) -> tuple[float, float] | None:
    """95 % interval of kappa, Cohen's of two judges and Fleiss' of more: its percentiles over units drawn again."""
    if len(units) and len(units[0]) == 2:
        return _interval(_cohens, *_pairs_of_two(units))
    return _interval(_fleiss, _counts(_whole(units))[0])


def alpha_interval(units: Units, *, are_numbers: bool = False) -> tuple[float, float] | None:
    """95 % interval of alpha: its percentiles over units drawn again."""
    counts, values = _counts(_said_by_two(units))
    return _interval(_alphas, counts, _distances(values, are_numbers))


def _estimate(of: Callable[..., Array], units: Array, *more: Array) -> float | None:
    if not len(units):
        return None
    (found,) = of(np.ones((1, len(units))), units, *more)
    return float(found) if np.isfinite(found) else None


def _interval(of: Callable[..., Array], units: Array, *more: Array) -> tuple[float, float] | None:
    """Bootstrap, always with the same draws; None where too few of them tell anything."""
    n = len(units)
    if n < 2:
        return None
    drawn = np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), size=_N_DRAWS).astype(float)
    found = of(drawn, units, *more)
    found = found[np.isfinite(found)]
    if len(found) < _N_DRAWS / 2:
        return None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


# each gives one number for each row of weights over the units; nan or infinite where there is none


def _cohens(weights: Array, pairs: Array) -> Array:
    """`pairs`: a row per unit, a matrix with a 1 where the two judges' verdicts meet."""
    shares = np.einsum("bu,uvw->bvw", weights, pairs) / weights.sum(axis=1)[:, None, None]
    observed = np.einsum("bvv->b", shares)
    return _beyond(observed, np.einsum("bv,bv->b", shares.sum(axis=2), shares.sum(axis=1)))


def _fleiss(weights: Array, counts: Array) -> Array:
    n_judges = counts.sum(axis=1)
    agreeing = (np.sum(counts**2, axis=1) - n_judges) / (n_judges * (n_judges - 1))
    totals = weights @ counts
    shares = totals / totals.sum(axis=1, keepdims=True)
    return _beyond(weights @ agreeing / weights.sum(axis=1), np.sum(shares**2, axis=1))


def _alphas(weights: Array, counts: Array, distances: Array) -> Array:
    n_judges = counts.sum(axis=1)
    within = np.einsum("uv,vw,uw->u", counts, distances, counts) / (n_judges - 1)
    totals = weights @ counts
    n = totals.sum(axis=1)
    expected = np.einsum("bv,vw,bw->b", totals, distances, totals) / (n * (n - 1))
    return _beyond(1 - weights @ within / n, 1 - expected)


def _beyond(observed: Array, by_chance: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((observed - by_chance) / (1 - by_chance), dtype=np.float64)


def _whole(units: Units) -> Units:
    return [unit for unit in units if None not in unit and len(unit) > 1]


def _said_by_two(units: Units) -> Units:
    return [unit for unit in units if sum(one is not None for one in unit) > 1]


def _pairs_of_two(units: Units) -> tuple[Array]:
    whole = [unit for unit in units if unit[0] is not None and unit[1] is not None]
    values = sorted({one for unit in whole for one in unit}, key=str)
    pairs = np.zeros((len(whole), len(values), len(values)))
    for at, (first, second, *_) in enumerate(whole):
        pairs[at, values.index(first), values.index(second)] = 1
    return (pairs,)


def _counts(units: Units) -> tuple[Array, list[str | float]]:
    """How many judges say what: a row per unit, a column per value; and the values."""
    values: list[str | float] = sorted({one for unit in units for one in unit if one is not None}, key=str)
    index = {value: i for i, value in enumerate(values)}
    counts = np.zeros((len(units), len(values)))
    for row, unit in zip(counts, units, strict=True):
        for one in unit:
            if one is not None:
                row[index[one]] += 1
    return counts, values


def _distances(values: Sequence[str | float], are_numbers: bool) -> Array:
    if are_numbers:
        numbers = np.array([float(value) for value in values])
        return np.asarray((numbers[:, None] - numbers[None, :]) ** 2, dtype=np.float64)
    return 1.0 - np.eye(len(values))
