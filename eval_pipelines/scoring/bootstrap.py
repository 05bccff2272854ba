"""How sure a number is that is no mean: its error and interval from resampling the questions, or their groups.

Most aggregations of lm-eval are a function of sums over the questions. These are resampled as sums, some thousand times
in well under a second, with the bias-corrected and accelerated interval of Efron (1987). Others are computed anew for
each resample, fewer times, with plain percentiles; one that takes long to compute has no error.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eval_pipelines.scoring.intervals import Interval

Array = npt.NDArray[np.float64]
Combine = Callable[[list[Any]], float]

_SEED = 1234
_N_RESAMPLES = 2_000
_MOST_DRAWS = 50_000_000
_BATCH_DRAWS = 2_000_000
# as lm-eval: a hundred of those that are computed from all texts
_N_SLOW_RESAMPLES = 100
_SLOW_S = 0.25
_NONE = Interval(None, None, None, None)


def of_aggregate(combine: Combine, raw: Sequence[Any], clusters: Sequence[str | None] = ()) -> Interval:
    """Error and interval of `combine(raw)`, the same each time.

    Args:
        combine: lm-eval's aggregation, or a task's own.
        raw: one verdict per question, of whatever kind `combine` takes.
        clusters: of each verdict, the group it belongs to; None: it stands alone. Empty: all stand alone.
    """
    groups = _groups(len(raw), clusters)
    n_groups = int(groups.max()) + 1 if len(raw) else 0
    if n_groups < 2:
        return _NONE
    summed = _SUMMED.get(_name(combine))
    n_clusters = n_groups if n_groups < len(raw) else None
    if summed is not None:
        rows, value_of = summed
        found = _of_sums(rows(raw), groups, n_groups, value_of)
    else:
        found = _of_each(combine, raw, groups, n_groups)
    return found._replace(n_clusters=n_clusters) if found.method else found


def _groups(n: int, clusters: Sequence[str | None]) -> npt.NDArray[np.int64]:
    if not clusters:
        return np.arange(n)
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(i if one is None else one, len(numbers)) for i, one in enumerate(clusters)])


def _of_sums(rows: Array, groups: npt.NDArray[np.int64], n_groups: int, value_of: Callable[[Array], Array]) -> Interval:
    sums = np.zeros((n_groups, rows.shape[1]))
    np.add.at(sums, groups, rows)
    n_resamples = max(200, min(_N_RESAMPLES, _MOST_DRAWS // n_groups))
    rng = np.random.default_rng(_SEED)
    batch = max(1, _BATCH_DRAWS // n_groups)
    with np.errstate(all="ignore"):
        drawn = np.concatenate(
            [
                value_of(sums[rng.integers(n_groups, size=(min(batch, n_resamples - done), n_groups))].sum(axis=1))
                for done in range(0, n_resamples, batch)
            ]
        )
        total = sums.sum(axis=0)
        return _accelerated(drawn, float(value_of(total[None])[0]), value_of(total - sums))


def _accelerated(drawn: Array, value: float, without_one: Array) -> Interval:
    from scipy.special import ndtr, ndtri

    drawn = drawn[np.isfinite(drawn)]
    error = _spread(drawn)
    if error is None or not math.isfinite(value):
        return _NONE
    if error == 0.0:
        return Interval(0.0, value, value, "bootstrap")
    below = (np.count_nonzero(drawn < value) + np.count_nonzero(drawn == value) / 2) / len(drawn)
    bias = ndtri(min(max(below, 0.5 / len(drawn)), 1 - 0.5 / len(drawn)))
    away = np.nanmean(without_one) - without_one
    away = away[np.isfinite(away)]
    away = away / (np.abs(away).max(initial=0.0) or 1.0)  # only its shape counts, and its cube may be beyond numbers
    spread = float((away**2).sum())
    acceleration = float((away**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    z = bias + ndtri(np.array([0.025, 0.975]))
    low, high = np.quantile(drawn, ndtr(bias + z / (1 - acceleration * z)))
    return Interval(error, min(float(low), value), max(float(high), value), "bootstrap")


def _of_each(combine: Combine, raw: Sequence[Any], groups: npt.NDArray[np.int64], n_groups: int) -> Interval:
    started = time.perf_counter()
    value = _or_nan(combine, list(raw))
    if time.perf_counter() - started > _SLOW_S or not math.isfinite(value):
        return _NONE
    members: list[list[Any]] = [[] for _ in range(n_groups)]
    for one, group in zip(raw, groups, strict=True):
        members[group].append(one)
    rng = np.random.default_rng(_SEED)
    drawn = np.array(
        [
            _or_nan(combine, [one for group in rng.integers(n_groups, size=n_groups) for one in members[group]])
            for _ in range(_N_SLOW_RESAMPLES)
        ]
    )
    drawn = drawn[np.isfinite(drawn)]
    error = _spread(drawn)
    if error is None:
        return _NONE
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(error, min(float(low), value), max(float(high), value), "bootstrap")


def _or_nan(combine: Combine, raw: list[Any]) -> float:
    try:
        return float(combine(raw))
    except Exception:  # noqa: BLE001 - a resample may lack a whole class: each aggregation says so in its own way
        return math.nan


def _spread(drawn: Array) -> float | None:
    if len(drawn) < 2:
        return None
    with np.errstate(all="ignore"):
        spread = float(drawn.std(ddof=1))
    return spread if math.isfinite(spread) else None


def _name(combine: Combine) -> str:
    of_library = getattr(combine, "__module__", "") == "lm_eval.api.metrics"
    return getattr(combine, "__name__", "") if of_library else ""


def _mean_rows(raw: Sequence[Any]) -> Array:
    values = np.array(raw, dtype=float)
    return np.column_stack([values, np.ones(len(values))])


def _known_rows(raw: Sequence[Any]) -> Array:
    values = np.array(raw, dtype=float)
    return np.column_stack([np.nan_to_num(values, nan=0.0), ~np.isnan(values)])


def _weighted_rows(raw: Sequence[Any]) -> Array:
    return np.array(raw, dtype=float)


def _brier_rows(raw: Sequence[Any]) -> Array:
    chances = np.array([one for _, one in raw], dtype=float)
    gold = np.eye(chances.shape[1])[[one for one, _ in raw]]
    return np.column_stack([((chances - gold) ** 2).sum(axis=1), np.ones(len(raw))])


def _table_rows(raw: Sequence[Any]) -> Array:
    """Each verdict as one cell of the table of gold by predicted, over all classes there are."""
    classes = sorted({one for pair in raw for one in pair})
    place = {one: i for i, one in enumerate(classes)}
    rows = np.zeros((len(raw), len(classes) ** 2))
    rows[np.arange(len(raw)), [place[gold] * len(classes) + place[said] for gold, said in raw]] = 1
    return rows


def _binary_rows(raw: Sequence[Any]) -> Array:
    gold, said = (np.array(side) == 1 for side in zip(*raw, strict=True))
    return np.column_stack([gold & said, ~gold & said, gold & ~said]).astype(float)


def _ratio(sums: Array) -> Array:
    found: Array = sums[:, 0] / sums[:, 1]
    return found


def _f1(sums: Array) -> Array:
    right, wrong = 2 * sums[:, 0], sums[:, 1] + sums[:, 2]
    found: Array = np.where(right + wrong > 0, right / np.maximum(right + wrong, 1), 0.0)
    return found


def _matthews(sums: Array) -> Array:
    k = math.isqrt(sums.shape[1])
    table = sums.reshape(-1, k, k)
    n, gold, said = table.sum(axis=(1, 2)), table.sum(axis=2), table.sum(axis=1)
    together = np.trace(table, axis1=1, axis2=2) * n - (gold * said).sum(axis=1)
    apart = np.sqrt((n**2 - (gold**2).sum(axis=1)) * (n**2 - (said**2).sum(axis=1)))
    found: Array = np.where(apart > 0, together / np.where(apart > 0, apart, 1), 0.0)
    return found


# aggregation of lm-eval → what is summed of each verdict, and the value of the sums
_SUMMED: dict[str, tuple[Callable[[Sequence[Any]], Array], Callable[[Array], Array]]] = {
    "perplexity": (_mean_rows, lambda sums: np.exp(-_ratio(sums))),
    "weighted_perplexity": (_weighted_rows, lambda sums: np.exp(-_ratio(sums))),
    "bits_per_byte": (_weighted_rows, lambda sums: -_ratio(sums) / math.log(2)),
    "nanmean": (_known_rows, _ratio),
    "brier_score": (_brier_rows, _ratio),
    "f1_score": (_binary_rows, _f1),
    "matthews_corrcoef": (_table_rows, _matthews),
}
