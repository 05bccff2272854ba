"""The course that asking took: how many requests were in flight, how fast they were answered, and what slowed it down."""

from collections import Counter
from dataclasses import dataclass, field

_N_POINTS, _N_EVENTS = 200, 50


@dataclass(frozen=True, slots=True)
class Point:
    """One moment.

    Attributes:
        at_s: Seconds since the first request.
        limit: Of all who ask the endpoint.
        n_in_flight, answers_per_s: Of this client; the latter since the point before.
    """

    at_s: float
    limit: int
    n_in_flight: int
    answers_per_s: float


@dataclass(slots=True)
class Course:
    """Points and events of one client, however long it asks: at most 200 and 50.

    Attributes:
        events: Seconds since the first request, and why the limit was lowered.
        n_lowered: Why → how often, those included that `events` has no room for.
    """

    points: list[Point] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    n_lowered: Counter[str] = field(default_factory=Counter)
    _began_at: float | None = None
    _every_s: float = 0.0
    _n_new: int = 0
    _new_since: float = 0.0

    def add(self, now: float, *, limit: int, n_in_flight: int, n_answers: int) -> None:
        """Note a moment of the monotonic clock. `n_answers`: since this was last called."""
        if self._began_at is None:
            self._began_at = self._new_since = now
        self._n_new += n_answers
        passed_s = now - self._new_since
        if self.points and passed_s <= self._every_s:
            return
        rate = self._n_new / passed_s if passed_s > 0 else 0.0
        self.points.append(Point(now - self._began_at, limit, n_in_flight, rate))
        self._n_new, self._new_since = 0, now
        if len(self.points) > _N_POINTS:
            del self.points[1::2]
            self._every_s = 2 * (now - self._began_at) / _N_POINTS

    def lowered(self, now: float, why: str) -> None:
        """The limit was lowered."""
        self.n_lowered[why] += 1
        if len(self.events) < _N_EVENTS:
            self.events.append((now - (self._began_at or now), why))

    @property
    def words(self) -> str:
        """In one line; empty where nothing was noted."""
        if not self.points:
            return ""
        limits = [point.limit for point in self.points]
        most = f", at most {max(limits)}" if max(limits) > max(limits[0], limits[-1]) else ""
        n = self.n_lowered.total()
        times = "once" if n == 1 else f"{n} times"
        lowered = f", backed off {times} ({', '.join(sorted(self.n_lowered))})" if n else ""
        return f"{limits[0]} -> {limits[-1]} in flight{most}{lowered}"
