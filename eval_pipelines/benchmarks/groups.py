"""Averages over the subtasks of a group, exactly as lm-eval takes them.

Source  `lm_eval.api.group.Group.aggregate` and `lm_eval.api.metrics` of 0.4.13: the mean of the subtasks' values, weighted
        by their number of samples (micro) or not (macro); its error from theirs, with a formula for each
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from eval_pipelines.benchmarks.catalog import Aggregate, Group
from eval_pipelines.benchmarks.grading import SHARES, Pair, Subtask
from eval_pipelines.records import Metric
from eval_pipelines.scoring import intervals
from eval_pipelines.scoring.aggregate import Verdicts, metric_of

# by subtask, the verdicts of each (metric, filter)
Graded = Mapping[str, Mapping[Pair, Verdicts]]


def metrics_of(subtasks: Sequence[Subtask], graded: Graded, headline: Pair) -> list[Metric]:
    """Every subtask's metrics, then every inner group's, then the whole benchmark's.

    The whole is what the outermost group states; a metric of which it states nothing, or a tag, is taken over all
    samples together.
    """
    pairs = _pairs(graded.values())
    if headline not in pairs:  # a scorer may name its metrics otherwise than its task lists them
        headline = next((pair for pair in pairs if pair[1] == headline[1]), headline)
    if len(subtasks) == 1:
        [verdicts] = graded.values()
        return [_metric(found, "", pair, headline) for pair, found in verdicts.items()]
    by_subtask = {
        name: {pair: _metric(found, name, pair, None) for pair, found in verdicts.items()}
        for name, verdicts in graded.items()
    }
    metrics = [metric for found in by_subtask.values() for metric in found.values()]
    groups = _groups(subtasks)
    outermost = _outermost(subtasks)
    for group, members in groups.items():
        if group != outermost:
            averages = _averages(group, members, by_subtask, graded)
            metrics += [average.model_copy(update={"subtask": group.name}) for average in averages.values()]
    whole = {pair: _metric(_pooled(graded, pair), "", pair, headline) for pair in pairs}
    if outermost is not None:
        for pair, average in _averages(outermost, groups[outermost], by_subtask, graded).items():
            whole[pair] = average.model_copy(update={"is_headline": pair == headline})
    return [*metrics, *whole.values()]


def _metric(verdicts: Verdicts, subtask: str, pair: Pair, headline: Pair | None) -> Metric:
    return metric_of(verdicts, subtask, *pair, is_headline=pair == headline)


def _groups(subtasks: Sequence[Subtask]) -> dict[Group, list[str]]:
    found: dict[Group, list[str]] = {}
    for subtask in subtasks:
        for group in subtask.groups:
            found.setdefault(group, []).append(subtask.name)
    return found


def _outermost(subtasks: Sequence[Subtask]) -> Group | None:
    """The group that holds all subtasks, if it is one group that was asked for."""
    first = subtasks[0].groups[:1]
    return first[0] if first and all(subtask.groups[:1] == first for subtask in subtasks) else None


def _pairs(found: Iterable[Mapping[Pair, object]]) -> list[Pair]:
    return list(dict.fromkeys(pair for one in found for pair in one))


def _pooled(graded: Graded, pair: Pair, names: Iterable[str] | None = None) -> Verdicts:
    found = [graded[name][pair] for name in (graded if names is None else names) if pair in graded[name]]
    whole = Verdicts(found[0].higher_is_better, found[0].combine)
    for one in found:
        whole.extend(one)
    return whole


def _averages(
    group: Group, members: Sequence[str], by_subtask: Mapping[str, Mapping[Pair, Metric]], graded: Graded
) -> dict[Pair, Metric]:
    averages: dict[Pair, Metric] = {}
    for aggregate, pair in _stated(group, [by_subtask[name] for name in members]):
        found = [by_subtask[name][pair] for name in members if pair in by_subtask[name]]
        sizes = [_size(by_subtask[name]) for name in members if pair in by_subtask[name]]
        pooled = _pooled(graded, pair, members)
        averages[pair] = _average(found, sizes, pooled, is_weighted=aggregate.weight_by_size)
    return averages


def _size(found: Mapping[Pair, Metric]) -> int:
    """Graded samples of a subtask. Shares are of answers, which need not be graded."""
    return max(one.n for (metric, _), one in found.items() if metric not in SHARES)


def _stated(group: Group, members: Sequence[Mapping[Pair, Metric]]) -> Iterator[tuple[Aggregate, Pair]]:
    for aggregate in group.aggregates:
        known = sorted({pair[1] for one in members for pair in one if pair[0] == aggregate.metric})
        for filter_name in known if aggregate.filters is None else aggregate.filters:
            if filter_name in known:
                yield aggregate, (aggregate.metric, filter_name)


def _average(found: Sequence[Metric], sizes: Sequence[int], pooled: Verdicts, *, is_weighted: bool) -> Metric:
    """One average as the reference has it, with an interval and bounds.

    A subtask of which nothing could be graded takes no part in the value, and widens the bounds.
    """
    pair = (found[0].metric, found[0].filter)
    whole = metric_of(pooled, "", *pair, is_headline=False)
    is_micro_mean = is_weighted and pooled.combine is None
    valued = [(one, size) for one, size in zip(found, sizes, strict=True) if one.value is not None]
    if not valued:
        return whole
    weights = [size if is_weighted else 1 for _, size in valued]
    value = sum((one.value or 0.0) * weight for (one, _), weight in zip(valued, weights, strict=True)) / sum(weights)
    error = _stderr([one for one, _ in valued], weights, is_weighted=is_weighted)
    told: dict[str, object] = {"value": value, "stderr": error}
    if whole.ci_method == "clustered" and is_micro_mean:
        told = {"value": value}
    elif not is_micro_mean or whole.ci_method != "wilson":
        is_bounded = whole.bound_low is not None
        around = intervals.normal(value, error, is_bounded=is_bounded)
        told |= {"ci_low": around.low, "ci_high": around.high, "ci_method": around.method, "n_clusters": None}
    if not is_micro_mean:
        told |= dict(zip(("bound_low", "bound_high"), _bounds(found), strict=True))
    return whole.model_copy(update=told)


def _stderr(found: Sequence[Metric], sizes: Sequence[int], *, is_weighted: bool) -> float | None:
    errors = [one.stderr for one in found if one.stderr is not None]
    if len(errors) < len(found):
        return None
    if not is_weighted:
        return math.sqrt(sum(error**2 for error in errors)) / len(errors)
    if sum(sizes) == len(sizes):
        return None
    pooled = sum((size - 1) * error**2 * size for size, error in zip(sizes, errors, strict=True))
    return math.sqrt(pooled / (sum(sizes) - len(sizes)) / sum(sizes))


def _bounds(found: Sequence[Metric]) -> tuple[float | None, float | None]:
    low = [one.bound_low for one in found if one.bound_low is not None]
    high = [one.bound_high for one in found if one.bound_high is not None]
    if len(low) < len(found) or len(high) < len(found):
        return None, None
    return sum(low) / len(low), sum(high) / len(high)
