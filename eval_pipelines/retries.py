"""When a failed run of a checkpoint is tried again: later each time, and not for ever.

What a failed run was answered is landed, so a further try asks only the rest. A budget of several days is no failure of
the model: while answers come, the tries are not counted, and the next one waits for the budget's next day.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

# a moment for a lost server, an hour for a busy one, a day for what somebody has to mend
WAITS = (timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1), timedelta(hours=6), timedelta(hours=24))


@dataclass(frozen=True, slots=True)
class Failed:
    """The newest run of a checkpoint, which failed.

    Attributes:
        n_tries: How often these bytes were tried since anything was answered, this run included.
        has_answers: This run was answered something: what is left becomes less, and it counts as no try.
        budget_begins_at: When the daily budget that ended it begins anew; None: it ended otherwise.
    """

    run_id: str
    model_key: str
    fingerprint: str
    n_tries: int
    ended_at: datetime
    has_answers: bool = False
    budget_begins_at: datetime | None = None

    @property
    def due_at(self) -> datetime | None:
        """When to try again; None: it was tried often enough."""
        if self.n_tries > len(WAITS) and not self.has_answers:
            return None
        if self.budget_begins_at is not None:
            return max(self.budget_begins_at, self.ended_at + WAITS[0])
        return self.ended_at + WAITS[min(self.n_tries, len(WAITS)) - 1]

    @property
    def n_tries_of_next(self) -> int:
        """`n_tries` of the run that tries again."""
        return 1 if self.has_answers else self.n_tries + 1


def budget_begins_at(used_up_at: datetime) -> datetime:
    """When a daily budget begins anew: the next 00:00 UTC."""
    day = used_up_at.astimezone(UTC) + timedelta(days=1)
    return day.replace(hour=0, minute=0, second=0, microsecond=0)


@dataclass(frozen=True, slots=True)
class Retries:
    """What to try again now, and a sentence about all that failed."""

    due: tuple[Failed, ...]
    reason: str


def what_to_retry(failed: Iterable[Failed], *, now: datetime, limit: int) -> Retries:
    """Choose the failed runs whose time has come, the longest overdue first, at most `limit`."""
    waiting: list[tuple[datetime, Failed]] = []
    given_up: list[str] = []
    for one in failed:
        if one.due_at is None:
            given_up.append(one.model_key)
        else:
            waiting.append((one.due_at, one))
    waiting.sort(key=lambda pair: (pair[0], pair[1].model_key))
    due = tuple(one for due_at, one in waiting if due_at <= now)[:limit]
    later = [f"{one.model_key} at {due_at:%H:%M} UTC" for due_at, one in waiting if due_at > now]
    words = [f"trying again: {', '.join(one.model_key for one in due)}"] * bool(due)
    words += [f"later: {', '.join(later)}"] * bool(later)
    words += [
        f"given up after {len(WAITS) + 1} tries without an answer, materialize by hand: {', '.join(sorted(given_up))}"
    ] * bool(given_up)
    return Retries(due, "; ".join(words) or "no checkpoint's newest run failed")
