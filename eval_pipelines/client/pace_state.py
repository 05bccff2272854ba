"""What is known of how fast an endpoint answers, in plain values: it is written as JSON. The rule is in pace.py."""

from dataclasses import dataclass, field
from typing import Literal

START_REST_S = 1.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limit never leaves these."""

    floor: int
    ceiling: int

    def clamp(self, limit: float) -> int:
        """The nearest limit within."""
        return max(self.floor, min(self.ceiling, round(limit)))


@dataclass(slots=True)
class Seen:
    """What one client saw since it last told.

    Attributes:
        n_done: Answers; a reply to several has several.
        n_tokens: Tokens of these, prompt and answer together; None: not all of them told.
        n_broken: Attempts that came to a 5xx, a timeout or a lost connection. As `n_fine`, the answered ones, without
            those that had started before `since`, which is the last decrease that the client knows of.
        refused_at: When the latest attempt that was answered with 429 had started.
        busy_s: Slots taken, or kept free for a batch that waits for more of them, x seconds.
    """

    since: float = 0.0
    n_done: int = 0
    n_tokens: int | None = 0
    n_fine: int = 0
    n_broken: int = 0
    refused_at: float | None = None
    busy_s: float = 0.0


@dataclass(slots=True)
class Window:
    """What was seen since the limit was last changed, or since there was last something to decide.

    Attributes:
        opened_at: Nothing counts before it: it takes a moment until everybody knows the limit.
        n_skip: Answers that do not count yet: they belong to the limit before.
    """

    opened_at: float = 0.0
    n_skip: int = 0
    n_done: int = 0
    n_tokens: int | None = 0
    busy_s: float = 0.0

    def forget_half(self, now: float) -> None:
        """So that what it tells is of late."""
        self.opened_at = (self.opened_at + now) / 2
        self.n_done, self.busy_s = self.n_done // 2, self.busy_s / 2
        self.n_tokens = None if self.n_tokens is None else self.n_tokens // 2


@dataclass(slots=True)
class Level:
    """The throughput at one limit. `n`: mean in flight."""

    limit: int
    n: float
    answers_per_s: float
    tokens_per_s: float | None


@dataclass(slots=True)
class Pace:
    """What is known of one endpoint. Plain values: it is written as JSON.

    Attributes:
        limit: Answers in flight, of all who ask the endpoint.
        phase: double (as long as it pays), rest, up and down (try more, or less), climb (after a decrease).
        top: The limit at which the last decrease began.
        patience_s: How long it waits before it tries again what was refused.
        other: What to compare with: the limit below while doubling, the one rested at while trying.
    """

    limit: int
    phase: Literal["double", "rest", "up", "down", "climb"] = "double"
    seen_at: float = 0.0
    changed_at: float = 0.0
    decreased_at: float = 0.0
    refused_at: float = -1e9
    n_decreases: int = 0
    why: str = ""
    top: int = 0
    n_fine: int = 0
    n_broken: int = 0
    patience_s: float = 1.0
    rest_s: float = START_REST_S
    n_tried: int = 0
    window: Window = field(default_factory=Window)
    other: Level | None = None
