"""What a server tells of itself: our names, how several series become one number, and what an evaluation came to.

| Name | Kind | Meaning |
|---|---|---|
| `n_running` | count | requests in computation |
| `n_waiting` | count | requests that wait for their turn |
| `kv_cache_share` | share | of the memory for keys and values in use, 0..1 |
| `prefix_cache_hits` | counter | prompt tokens found in the cache |
| `prefix_cache_queries` | counter | prompt tokens looked up in it |
| `prompt_tokens`, `generation_tokens` | counter | tokens read and written |
| `n_finished` | counter | requests that ended |
| `n_preempted` | counter | requests whose memory was taken for others: they are computed again |
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final, Literal, get_args

from pydantic import Field

from eval_pipelines.records import Record, ServerMetrics

MetricName = Literal[
    "n_running",
    "n_waiting",
    "kv_cache_share",
    "prefix_cache_hits",
    "prefix_cache_queries",
    "prompt_tokens",
    "generation_tokens",
    "n_finished",
    "n_preempted",
]
NAMES: Final[tuple[MetricName, ...]] = get_args(MetricName)
SHARES: Final[frozenset[str]] = frozenset({"kv_cache_share"})
COUNTERS: Final[frozenset[str]] = frozenset(NAMES) - SHARES - {"n_running", "n_waiting"}


class ServerSummary(Record):
    """How busy the servers of one evaluation were. None: they did not tell. The mart `serving_performance` agrees.

    Means are over time. Counts and rates are of all replicas together; `kv_cache_share_max` is of the fullest one.
    """

    n_replicas: int = Field(ge=1)
    n_scrapes: int = Field(ge=1, description="Times a replica was asked for its metrics.")
    n_failed_scrapes: int = Field(ge=0)
    watched_s: float = Field(ge=0, description="From the first answer to the last.")
    n_running_mean: float | None = None
    n_running_max: int | None = None
    n_waiting_mean: float | None = None
    n_waiting_max: int | None = None
    kv_cache_share_mean: float | None = None
    kv_cache_share_max: float | None = None
    prefix_cache_hit_share: float | None = None
    prompt_tokens_per_s: float | None = None
    generation_tokens_per_s: float | None = None
    n_finished: int | None = None
    n_preempted: int | None = None


class Counters:
    """Counters of one server, counted from the first look and over its restarts."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._since: dict[str, float] = {}

    def advance(self, told: Mapping[str, float], names: Iterable[str]) -> Mapping[str, float]:
        """How far each counter has come since the first call; what the server never told is left out."""
        is_first = not self._last
        for name in names:
            value = told.get(name)
            if value is not None:
                # below the last value: the server started anew, and all it counts happened since
                last = self._last.get(name, value if is_first else 0.0)
                self._since[name] = self._since.get(name, 0.0) + (value - last if value >= last else value)
            # a counter that is not there yet has counted nothing
            self._last[name] = value or 0.0
        return self._since


def one_number(name: str, series: Sequence[float]) -> float | None:
    """The mean of a share, the sum of anything else; None if no value is a number."""
    numbers = [value for value in series if math.isfinite(value)]
    if not numbers:
        return None
    return sum(numbers) / len(numbers) if name in SHARES else sum(numbers)


def summarise(records: Iterable[ServerMetrics]) -> ServerSummary | None:
    """What one watch came to; None if nobody was asked."""
    everything = sorted(records, key=lambda one: one.scraped_at)
    if not everything:
        return None
    by_replica: dict[str, list[ServerMetrics]] = defaultdict(list)
    by_moment: dict[datetime, list[ServerMetrics]] = defaultdict(list)
    for one in everything:
        if one.failure is None:
            by_replica[one.replica].append(one)
            by_moment[one.scraped_at].append(one)
    moments = list(by_moment)
    watched_s = (moments[-1] - moments[0]).total_seconds() if moments else 0.0

    def mean(name: MetricName) -> float | None:
        return one_number(name, _told([_mean_over_time(rows, name) for rows in by_replica.values()]))

    def most(name: MetricName) -> int | None:
        sums = [sum(told) for rows in by_moment.values() if (told := _values(rows, name))]
        return int(max(sums)) if sums else None

    def counted(name: MetricName) -> int | None:
        ends = _told([max(_values(rows, name), default=None) for rows in by_replica.values()])
        return int(sum(ends)) if ends else None

    def per_s(name: MetricName) -> float | None:
        n = counted(name)
        return n / watched_s if n is not None and watched_s else None

    hits, queries = counted("prefix_cache_hits"), counted("prefix_cache_queries")
    return ServerSummary(
        n_replicas=len({one.replica for one in everything}),
        n_scrapes=len(everything),
        n_failed_scrapes=sum(one.failure is not None for one in everything),
        watched_s=watched_s,
        n_running_mean=mean("n_running"),
        n_running_max=most("n_running"),
        n_waiting_mean=mean("n_waiting"),
        n_waiting_max=most("n_waiting"),
        kv_cache_share_mean=mean("kv_cache_share"),
        kv_cache_share_max=max(_values(everything, "kv_cache_share"), default=None),
        prefix_cache_hit_share=hits / queries if hits is not None and queries else None,
        prompt_tokens_per_s=per_s("prompt_tokens"),
        generation_tokens_per_s=per_s("generation_tokens"),
        n_finished=counted("n_finished"),
        n_preempted=counted("n_preempted"),
    )


def _mean_over_time(rows: Sequence[ServerMetrics], name: MetricName) -> float | None:
    """Between two looks half the time is given to each: looks grow rarer, so a plain mean would favour the start."""
    told = [(one.scraped_at, getattr(one, name)) for one in rows]
    steps = [
        ((later - at).total_seconds(), (value + then) / 2)
        for (at, value), (later, then) in pairwise(told)
        if value is not None and then is not None
    ]
    total_s = sum(seconds for seconds, _ in steps)
    return sum(seconds * value for seconds, value in steps) / total_s if total_s else _last(rows, name)


def _values(rows: Iterable[ServerMetrics], name: MetricName) -> list[float]:
    return _told([getattr(one, name) for one in rows])


def _last(rows: Sequence[ServerMetrics], name: MetricName) -> float | None:
    values = _values(rows, name)
    return values[-1] if values else None


def _told(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
