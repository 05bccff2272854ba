"""What was spent in a UTC day: the rule, as functions over a small state, and the file that holds it.

What an attempt may take is counted before it is sent, and set right once it is over; a process killed in between
leaves it counted: never too little. An attempt counts on the day on which it was sent.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from eval_pipelines.client import shared_file
from eval_pipelines.client.shared_file import SharedFile
from eval_pipelines.endpoint import DailyBudget
from eval_pipelines.records import Failure

DAY_S = 86_400
_TASK = "count what is spent today"
_SYNC_EVERY = 64
# how a failure begins that came before anything was sent
_NO_CONNECTION = f"{httpx.ConnectError.__name__}:"
# somebody on the way waited, or lost the server: it had the request, and may answer it for nobody
_MAY_GO_ON = frozenset({408, 504, 520, 522, 524})
_FIELDS = ("day", "tokens", "costs", "short", "in_flight", "account", "deployments")


class Amount(NamedTuple):
    """Tokens, and money in 1e-12 of the currency."""

    tokens: int = 0
    cost: int = 0


@dataclass(slots=True)
class Spent:
    """What was spent in one day.

    Attributes:
        day: Days since 1970-01-01, in UTC.
        tokens, costs: Spent, and reserved for what is in flight; money in 1e-12, by currency.
        short: The most by which an estimate of this day was too low: the next ones are raised by it.
        in_flight: Process → its attempts that may still give something back.
        account, deployments: Who counted here, for people.
    """

    day: int = 0
    tokens: int = 0
    costs: dict[str, int] = field(default_factory=dict)
    short: Amount = field(default_factory=Amount)
    in_flight: dict[str, int] = field(default_factory=dict)
    account: str = ""
    deployments: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was counted for one attempt before it was sent."""

    day: int
    estimate: Amount
    counted: Amount


def begin_day(state: Spent, now: float) -> None:
    """Count from nothing if a new day has begun. `now`: seconds since 1970.

    A clock that is set back brings no new budget: the later day goes on, or, if it is further away than tomorrow,
    becomes today.
    """
    today = int(now // DAY_S)
    if today > state.day:
        state.tokens, state.costs, state.short, state.deployments = 0, {}, Amount(), []
    if not today <= state.day <= today + 1:
        state.day = today


def lacking(state: Spent, budget: DailyBudget, currency: str, want: Amount) -> str:
    """The key of the budget that `want` would exceed; empty if there is room."""
    if budget.tokens is not None and state.tokens + want.tokens > budget.tokens:
        return "daily_tokens"
    if budget.cost is not None and state.costs.get(currency, 0) + want.cost > budget.cost:
        return "daily_cost"
    return ""


def count(state: Spent, currency: str, amount: Amount) -> None:
    """Add what was spent or reserved; what is given back is negative."""
    state.tokens = max(0, state.tokens + amount.tokens)
    if amount.cost:
        state.costs[currency] = max(0, state.costs.get(currency, 0) + amount.cost)


def settle(state: Spent, currency: str, held: Reservation, really: Amount | None) -> None:
    """An attempt took `really`; None: nobody knows, so that what was counted stays."""
    if really is None or held.day != state.day:
        return
    count(state, currency, Amount(really.tokens - held.counted.tokens, really.cost - held.counted.cost))
    more = (really.tokens - held.estimate.tokens, really.cost - held.estimate.cost)
    state.short = Amount(max(state.short.tokens, more[0]), max(state.short.cost, more[1]))


def is_refused(failed: Failure | None) -> bool:
    """True if nobody computed, and nobody pays.

    Not for a timeout, a bad answer, or a connection that broke once there was one: these may have been paid.
    """
    if failed is None:
        return False
    if failed.http_status is None:
        return failed.message.startswith(_NO_CONNECTION)
    return failed.http_status >= 300 and failed.http_status not in _MAY_GO_ON


# who is in flight


def ourselves() -> str:
    pid = os.getpid()
    if pid not in _STARTED:
        _STARTED[pid] = f"{pid}.{_started(pid)}"
    return _STARTED[pid]


_STARTED: dict[int, str] = {}


def is_alive(owner: str) -> bool:
    pid, _, started = owner.partition(".")
    return _started(int(pid)) == started


def _started(pid: int) -> str:
    """When a process began, in ticks since the machine did; empty: it has ended, or the system does not tell."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if told[0] in "ZX" else told[19]


# the file


def path_of(account: str, folder: Path | None) -> Path | None:
    """The file in which all who share an account count; its name outlives a restart of the machine."""
    return shared_file.path_of("spending", _TASK, account, folder)


def file_at(path: Path) -> SharedFile:
    deleted = ": what was spent today is then counted from nothing"
    return SharedFile(path, _TASK, sync_every=_SYNC_EVERY, deleted=deleted)


def spent_today(folder: Path, now: float) -> list[Spent]:
    """What is counted in a folder, as of `now`, seconds since 1970. Raises ConfigError: a file cannot be read."""
    found = []
    for path in sorted(folder.glob("spending-*")):
        state = spent_in(file_at(path).read())
        begin_day(state, now)
        state.in_flight = {owner: n for owner, n in state.in_flight.items() if is_alive(owner)}
        found.append(state)
    return found


def told_of(state: Spent) -> dict[str, Any]:
    """The state as plain JSON values, for this moment."""
    return {name: getattr(state, name) for name in _FIELDS}


def spent_in(told: Mapping[str, Any] | None) -> Spent:
    """The state that a file holds; a new one where it holds none."""
    if told is None:
        return Spent()
    fields = {name: told[name] for name in _FIELDS if name in told}
    return Spent(**fields | {"short": Amount(*fields.get("short", ()))})
