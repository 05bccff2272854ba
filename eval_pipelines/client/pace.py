"""How many requests an endpoint gets at once: a rule over a small state, in functions of `now`.

It doubles each round trip while the throughput grows with it. Where that ends lies the knee: more requests would only
queue (Little's law: in flight = throughput x latency). It rests there, and tries a little more, or less, now and then:
servers get faster and slower. What a server refuses lowers it at once, and it climbs back: fast to where it was,
slowly beyond.
Source: slow start and one decrease per episode as in RFC 5681; the climb back as in CUBIC, RFC 9438; the knee as in
Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016.
"""

from eval_pipelines.client.pace_state import START_REST_S, Bounds, Level, Pace, Seen, Window

START = 16
FORGET_S = 900.0
_IDLE_S = 2.0  # so long without anything: what was measured before says nothing of now
_N_RECENT = 20  # fewer attempts are no share: one poisoned prompt fails a few times
_BROKEN_SHARE = 0.3
_COOL_DOWN_S = 1.0
_LONGEST_PATIENCE_S = 16.0
_CREEP_S = 60.0  # so long after a refusal, more is tried in single steps only
_USED_SHARE = 0.75  # less in flight than this share of the limit: it is not the limit that holds things back
_WORTH = 0.5  # share of the added requests that must be added throughput
_UP, _DOWN = 1.25, 0.8
_CALM_REST_S, _LONGEST_REST_S = 10.0, 30.0


def begin(bounds: Bounds, now: float) -> Pace:
    """Where nothing is known yet."""
    return Pace(bounds.clamp(START), seen_at=now, changed_at=now, window=Window(now))


def resume(pace: Pace, now: float) -> None:
    """Nobody asked meanwhile: the limit stays, what was measured begins anew."""
    if pace.phase in ("up", "down"):
        _rest(pace, _limit_rested_at(pace))
    pace.other, pace.n_fine, pace.n_broken = None, 0, 0
    pace.changed_at, pace.window = now, Window(now)


def advance(pace: Pace, seen: Seen, bounds: Bounds, now: float, *, lag_s: float = 0.0) -> None:
    """Take in what was seen, and change the limit where that tells to.

    Args:
        lag_s: How long it takes until all who share the limit keep to a new one.
    """
    if now - pace.seen_at > _IDLE_S:
        resume(pace, now)
    pace.seen_at, pace.limit = now, bounds.clamp(pace.limit)
    before = pace.limit
    if seen.since == pace.decreased_at:
        _remember(pace, seen)
    has_decreased = _back_off(pace, seen, bounds, now)
    if not has_decreased and _is_counted(pace, seen, now):
        _decide(pace, bounds, now)
    if has_decreased or pace.limit != before:
        # what lies above the new limit has to drain, and a trial is compared with what had settled
        n_skip = max(0, before - pace.limit) if pace.phase == "double" else max(before, pace.limit)
        pace.changed_at, pace.window = now, Window(now + lag_s, n_skip if pace.phase != "climb" else 0)


def _remember(pace: Pace, seen: Seen) -> None:
    pace.n_fine, pace.n_broken = pace.n_fine + seen.n_fine, pace.n_broken + seen.n_broken
    if pace.n_fine + pace.n_broken > 4 * max(_N_RECENT, pace.limit):
        pace.n_fine, pace.n_broken = pace.n_fine // 2, pace.n_broken // 2


def _back_off(pace: Pace, seen: Seen, bounds: Bounds, now: float) -> bool:
    """Once per episode: what had started before the last decrease says nothing of the limit since."""
    is_refused = seen.refused_at is not None and seen.refused_at > pace.decreased_at
    n = pace.n_fine + pace.n_broken
    if not is_refused and (n < _N_RECENT or pace.n_broken < _BROKEN_SHARE * n):
        return False
    # who answers nobody may be gone: with less in flight that would only be noticed later
    is_silent = not is_refused and pace.n_fine == 0
    lowest = bounds.clamp(min(START, pace.limit)) if is_silent else bounds.floor
    if is_silent and pace.limit <= lowest:
        return False
    # still falling, or an outage that has nothing to do with the limit: it climbs back to where all this began
    is_same_fall = pace.phase == "climb" and (not is_refused or pace.changed_at == pace.decreased_at)
    if is_refused and not is_same_fall:
        is_known = abs(pace.limit - pace.top) <= max(1, 0.1 * pace.top)
        pace.patience_s = min(_LONGEST_PATIENCE_S, 2 * pace.patience_s) if is_known else _COOL_DOWN_S
    pace.top = max(pace.top, pace.limit) if is_same_fall else pace.limit
    factor = 0.5 if pace.phase == "double" else 0.8 if is_refused else 0.7
    pace.limit = max(lowest, bounds.clamp(min(pace.limit - 1, pace.limit * factor)))
    pace.phase, pace.other, pace.why = "climb", None, "429" if is_refused else "5xx or no reply"
    pace.decreased_at = pace.changed_at = now
    pace.refused_at = now if is_refused else pace.refused_at
    pace.n_decreases, pace.n_fine, pace.n_broken = pace.n_decreases + 1, 0, 0
    return True


def _is_counted(pace: Pace, seen: Seen, now: float) -> bool:
    """Count in the window; False while it has not opened."""
    window = pace.window
    if now < window.opened_at:
        return False
    if window.n_skip > 0:
        window.n_skip -= seen.n_done
        window.opened_at = now
        return False
    window.n_done += seen.n_done
    has_tokens = window.n_tokens is not None and seen.n_tokens is not None
    window.n_tokens = (window.n_tokens or 0) + (seen.n_tokens or 0) if has_tokens else None
    window.busy_s += seen.busy_s
    return True


def _decide(pace: Pace, bounds: Bounds, now: float) -> None:
    window, span_s = pace.window, now - pace.window.opened_at
    if window.n_done < pace.limit or span_s <= 0:
        return
    level = Level(
        pace.limit,
        window.busy_s / span_s,
        window.n_done / span_s,
        None if window.n_tokens is None else window.n_tokens / span_s,
    )
    if level.n < _USED_SHARE * pace.limit:
        if pace.phase in ("up", "down"):
            _rest(pace, _limit_rested_at(pace))
        pace.window = Window(now)
        return
    _BY_PHASE[pace.phase](pace, level, bounds, now)


def _double(pace: Pace, level: Level, bounds: Bounds, now: float) -> None:
    below = pace.other
    if below is None or _worth(below, level) >= _WORTH:
        if pace.limit >= bounds.ceiling:
            _rest(pace, pace.limit, now, _CALM_REST_S)
        else:
            pace.other, pace.limit = level, bounds.clamp(pace.limit * 2)
    elif pace.window.n_done >= max(3 * pace.limit, 48):  # a few slow answers are no verdict
        _rest(pace, bounds.clamp(min(_knee(below, level), pace.limit)), now)


def _climb(pace: Pace, level: Level, bounds: Bounds, now: float) -> None:
    del level
    if now - pace.changed_at < _COOL_DOWN_S:
        return
    is_touchy = now - pace.refused_at < _CREEP_S
    step = max(1, pace.limit // 50)
    if pace.limit < min(pace.top - step if is_touchy else pace.top, bounds.ceiling):
        pace.limit = bounds.clamp(min(pace.top, pace.limit + max(1, (pace.top - pace.limit) // 4)))
    elif is_touchy and pace.limit < bounds.ceiling:
        # so many were refused before: each time later is it tried again
        if pace.limit >= pace.top or now - pace.changed_at >= pace.patience_s:
            pace.limit = bounds.clamp(pace.limit + step)
    elif not is_touchy:
        _rest(pace, pace.limit, now)


def _rested(pace: Pace, level: Level, bounds: Bounds, now: float) -> None:
    n_rounds = 5 if pace.rest_s == START_REST_S else 20
    n_needed = max(n_rounds * pace.limit, 64)
    if now - pace.changed_at < pace.rest_s or pace.window.n_done < n_needed:
        if pace.window.n_done > 2 * n_needed:
            pace.window.forget_half(now)
        return
    up = bounds.clamp(max(pace.limit + 1, pace.limit * _UP))
    down = bounds.clamp(min(pace.limit - 1, pace.limit * _DOWN))
    wants_down = pace.n_tried % 2 == 1 or up == pace.limit
    pace.n_tried += 1
    if wants_down and down < pace.limit:
        pace.phase, pace.other, pace.limit = "down", level, down
    elif up > pace.limit:
        pace.phase, pace.other, pace.limit = "up", level, up
    else:
        pace.window = Window(now)


def _tried(pace: Pace, level: Level, bounds: Bounds, now: float) -> None:
    if pace.window.n_done < max(4 * pace.limit, 128):
        return
    rested = pace.other
    if rested is None:
        _rest(pace, pace.limit, now)
    elif pace.phase == "up" and _worth(rested, level) >= _WORTH:
        pace.phase, pace.other, pace.rest_s = "double", level, START_REST_S
        pace.limit = bounds.clamp(pace.limit * 2)
        if pace.limit == level.limit:
            _rest(pace, pace.limit, now, _CALM_REST_S)
    else:
        low, high = (rested, level) if pace.phase == "up" else (level, rested)
        knee = bounds.clamp(max(_DOWN * rested.limit, min(_knee(low, high), high.limit)))
        has_moved = abs(knee - rested.limit) > 0.05 * rested.limit
        if has_moved and pace.phase == "down":
            pace.n_tried -= 1  # once more
        rest_s = START_REST_S if has_moved else min(_LONGEST_REST_S, 2 * pace.rest_s)
        _rest(pace, knee if has_moved else rested.limit, now, rest_s)


_BY_PHASE = {"double": _double, "climb": _climb, "rest": _rested, "up": _tried, "down": _tried}


def _rest(pace: Pace, limit: int, now: float | None = None, rest_s: float | None = None) -> None:
    pace.phase, pace.limit, pace.other = "rest", limit, None
    pace.rest_s = rest_s or pace.rest_s
    if now is not None:
        pace.changed_at, pace.window = now, Window(now)


def _limit_rested_at(pace: Pace) -> int:
    return pace.other.limit if pace.other else pace.limit


def _gain(low: Level, high: Level) -> float:
    """The throughput of one as a multiple of the other's."""
    if low.tokens_per_s and high.tokens_per_s is not None:
        return high.tokens_per_s / low.tokens_per_s
    return high.answers_per_s / low.answers_per_s if low.answers_per_s else 1.0


def _worth(low: Level, high: Level) -> float:
    """1: twice the requests in flight, twice the throughput. 0: no more throughput."""
    more = high.n / low.n - 1 if low.n else 0.0
    return (_gain(low, high) - 1) / more if more > 0.02 else 0.0


def _knee(low: Level, high: Level) -> float:
    """In flight at the higher throughput and the lower latency."""
    return low.limit * _gain(low, high)
