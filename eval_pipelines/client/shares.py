"""One limit of requests in flight, divided among all clients of a machine that ask one endpoint.

Functions of `now` over what lies in the file that they share. Each client holds an allotment and counts within it
alone; what all hold together never grows beyond the limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eval_pipelines.client.pace_state import Bounds, Level, Pace, Window

_TURN_S = 1.0  # where there are more clients than slots, each has one in turn for so long


@dataclass(slots=True)
class Member:
    """One client.

    `held`: what it may have on the wire, or still has; `since`: when it last began to hold any; `seen_at`: when it last told.
    """

    wants: int
    held: int
    floor: int
    ceiling: int
    since: float = 0.0
    seen_at: float = 0.0


@dataclass(slots=True)
class Shares:
    """What lies in the file.

    Attributes:
        members: By name, in the order in which they get what cannot be divided.
        held_until: Host → when a server there may be asked again, after it said Retry-After.
    """

    pace: Pace | None = None
    members: dict[str, Member] = field(default_factory=dict)
    held_until: dict[str, float] = field(default_factory=dict)

    @property
    def bounds(self) -> Bounds:
        """What all members can agree to: the narrowest."""
        ceiling = min(member.ceiling for member in self.members.values())
        return Bounds(min(ceiling, max(member.floor for member in self.members.values())), ceiling)

    def fair(self, limit: int, **instead: int) -> dict[str, int]:
        """What each should have, by name; `instead`: if these wanted so many."""
        return max_min({name: member.wants for name, member in self.members.items()} | instead, limit)


def max_min(wants: Mapping[str, int], n: int) -> dict[str, int]:
    """Divide `n`: nobody gets more than it wants, and nobody less than others for their sake.

    What cannot be divided evenly goes to the first ones.
    """
    shares = dict.fromkeys(wants, 0)
    hungry = [name for name, wanted in wants.items() if wanted > 0]
    while hungry and n > 0:
        each = n // len(hungry)
        if each == 0:
            hungry = hungry[:n]
        for name in hungry:
            more = min(max(each, 1), wants[name] - shares[name])
            shares[name] += more
            n -= more
        hungry = [name for name in hungry if shares[name] < wants[name]]
    return shares


def agree(shares: Shares, name: str, *, wants: int, n_in_flight: int, limit: int, now: float) -> int:
    """Tell what a member wants; returns how many it may have in flight, itself and nobody else considered.

    What all members hold together never grows beyond `limit`: who should have less gives back what it does not have
    in flight, and only what is free is taken.
    """
    me = shares.members[name]
    me.wants, me.seen_at = wants, now
    targets = shares.fair(limit)
    waits = any(member.wants and not targets[one] for one, member in shares.members.items())
    if waits and me.held and now - me.since >= _TURN_S:
        shares.members[name] = shares.members.pop(name)
        me.since = now
        targets = shares.fair(limit)
    others = sum(member.held for one, member in shares.members.items() if one != name)
    allotment = max(0, min(targets[name], limit - others))
    had, me.held = me.held, max(n_in_flight, allotment)
    if me.held and not had:
        me.since = now
    return allotment


def from_json(told: dict[str, Any] | None) -> Shares:
    """As `asdict` wrote it; empty for what another release of this project wrote."""
    if told is None:
        return Shares()
    try:
        state = told["pace"]
        if state is not None:
            other = Level(**state["other"]) if state["other"] else None
            state = Pace(**{**state, "window": Window(**state["window"]), "other": other})
        return Shares(state, {name: Member(**one) for name, one in told["members"].items()}, told["held_until"])
    except (TypeError, KeyError):
        return Shares()
