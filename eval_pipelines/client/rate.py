"""Requests and tokens per minute, counted together by all processes of a machine.

The rule itself is a function of `now` over a small state, which lies in a shared file: a process killed at any moment
leaves what it was granted as counted, and nothing else.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval_pipelines.client import shared_file
from eval_pipelines.client.shared_file import SharedFile
from eval_pipelines.records import Request

WINDOW_S = 60.0
# The grain of the count. What leaves evenly may arrive a little less so: an entry counts up to this much longer.
_BUCKET_S = 1.0
# How far a late start may be made up for: without it, each late wake-up lowers the rate.
_MAKE_UP_S = 0.25
# Others may finish, and give back what they did not use, while one waits.
_LOOK_EVERY_S = 0.1
_BYTES_PER_TOKEN = 3  # English has four or more; a guess that is too low would break the limit
_MEMORY_OF_MEAN = 0.8
_TASK = "count requests per minute"
_MAX_TOKENS = ("max_tokens", "max_completion_tokens", "max_new_tokens", "max_output_tokens")


# the rule: functions of `now`


@dataclass(frozen=True, slots=True)
class PerMinute:
    """What may start in any `WINDOW_S`; None: no limit."""

    requests: int | None = None
    tokens: int | None = None


@dataclass(slots=True)
class State:
    """What was granted lately.

    Attributes:
        last: When the last request started, in the even flow.
        mean_tokens: Tokens that a request really took, on a moving average; None before the first is known.
        buckets: Number of the bucket → requests and tokens granted in it.
    """

    last: float | None = None
    mean_tokens: float | None = None
    buckets: dict[int, tuple[int, int]] = field(default_factory=dict)


def admit(state: State, limit: PerMinute, n_tokens: int, now: float) -> float:
    """Count a request of `n_tokens` and return 0; or return the seconds after which to ask again, and count nothing."""
    n_tokens = min(n_tokens, limit.tokens or n_tokens)  # larger than all: let the server say so
    if state.last is not None and state.last > now + WINDOW_S:
        state.last, state.buckets = None, {}  # counted before the machine, and its clock, were started anew
    state.buckets = {b: entry for b, entry in state.buckets.items() if _leaves_at(b) > now}
    gap_s = _gap_s(state, limit, n_tokens)
    due = now if state.last is None else state.last + gap_s
    wait_s = max(due - now, _wait_for_room_s(state, limit, n_tokens, now))
    if wait_s > 0:
        return wait_s
    bucket = int(now // _BUCKET_S)
    n, tokens = state.buckets.get(bucket, (0, 0))
    state.buckets[bucket] = (n + 1, tokens + n_tokens)
    state.last = max(due, now - _MAKE_UP_S)
    return 0.0


def settle(state: State, bucket: int, n_counted: int, n_tokens: int) -> None:
    """A request that was counted with `n_counted` tokens took `n_tokens`."""
    if bucket in state.buckets:
        n, tokens = state.buckets[bucket]
        state.buckets[bucket] = (n, max(0, tokens + n_tokens - n_counted))
    mean = n_tokens if state.mean_tokens is None else state.mean_tokens
    state.mean_tokens = _MEMORY_OF_MEAN * mean + (1 - _MEMORY_OF_MEAN) * n_tokens


def give_back(state: State, bucket: int, n_counted: int) -> None:
    """A request that was counted with `n_counted` tokens did not start."""
    if bucket in state.buckets:
        n, tokens = state.buckets[bucket]
        state.buckets[bucket] = (max(0, n - 1), max(0, tokens - n_counted))


def _gap_s(state: State, limit: PerMinute, n_tokens: int) -> float:
    """Seconds between two starts that use up the limits evenly."""
    mean = n_tokens if state.mean_tokens is None else state.mean_tokens
    shares = (1 / limit.requests if limit.requests else 0.0, mean / limit.tokens if limit.tokens else 0.0)
    return (WINDOW_S + _BUCKET_S) * max(shares)


def _wait_for_room_s(state: State, limit: PerMinute, n_tokens: int, now: float) -> float:
    """Seconds until enough of what was granted is older than the window."""
    n_over = sum(n for n, _ in state.buckets.values()) + 1 - (limit.requests or 10**18)
    tokens_over = sum(tokens for _, tokens in state.buckets.values()) + n_tokens - (limit.tokens or 10**18)
    wait_s = 0.0
    for bucket, (n, tokens) in sorted(state.buckets.items()):
        if n_over <= 0 and tokens_over <= 0:
            break
        n_over, tokens_over = n_over - n, tokens_over - tokens
        wait_s = _leaves_at(bucket) - now
    return wait_s


def _leaves_at(bucket: int) -> float:
    return (bucket + 1) * _BUCKET_S + WINDOW_S


def limits_of_answers(renames: Mapping[str, str | None]) -> tuple[str, ...]:
    """The parameters by which a server that renames some is told how long an answer may become."""
    return tuple(dict.fromkeys((*_MAX_TOKENS, *(there for name in _MAX_TOKENS if (there := renames.get(name))))))


def most_tokens(request: Request, limits: Sequence[str] = _MAX_TOKENS) -> int | None:
    """How many tokens an answer may have, as the request is sent; None: it does not say."""
    if request.is_likelihood:
        return 1
    given = [request.params[name] for name in limits if isinstance(request.params.get(name), int | float)]
    return int(max(given)) if given else None


def estimate_tokens(request: Request, n_answers: int = 1, limits: Sequence[str] = _MAX_TOKENS) -> int:
    """How many tokens a request may take, prompt and answers together, before anybody counted them."""
    texts = [request.prompt or "", request.continuation or ""]
    texts += [message.get("content") or "" for message in request.messages or ()]
    prompt = sum(len(text.encode(errors="replace")) for text in texts) // _BYTES_PER_TOKEN + 1
    return prompt + n_answers * (most_tokens(request, limits) or 0)


# the state, shared


@dataclass(frozen=True, slots=True)
class Ticket:
    """One attempt that was let through, and what was counted for it."""

    limiter: "Limiter"
    bucket: int
    n_tokens: int


class Limiter:
    """The limits of one address."""

    def __init__(self, limit: PerMinute, path: Path | None) -> None:
        """`path` is the file in which everybody counts; None: this object counts alone."""
        self.limit, self._own = limit, State()
        self._file = SharedFile(path, _TASK) if path else None
        # one in the queue asks for all in this process: first come, first served, and no crowd at the lock
        self._queue = asyncio.Lock()
        self._unsettled: list[tuple[int, int, int]] = []
        self._unused: list[Ticket] = []

    async def take(self, n_tokens: int) -> Ticket:
        """Wait until a request of so many tokens may start. Raises ConfigError where the count cannot be kept."""
        async with self._queue:
            while True:
                with self._state() as state:
                    now = time.monotonic()
                    wait_s = _LOOK_EVERY_S / 10 if state is None else admit(state, self.limit, n_tokens, now)
                if wait_s <= 0:
                    return Ticket(self, int(now // _BUCKET_S), min(n_tokens, self.limit.tokens or n_tokens))
                await asyncio.sleep(min(wait_s, _LOOK_EVERY_S))

    def settle(self, ticket: Ticket, n_tokens: int) -> None:
        """Count what a request really took."""
        self._unsettled.append((ticket.bucket, ticket.n_tokens, n_tokens))
        with self._state():
            pass

    def give_back(self, ticket: Ticket) -> None:
        """What was let through was not sent: others may."""
        self._unused.append(ticket)
        with self._state():
            pass

    @contextmanager
    def _state(self) -> Iterator[State | None]:
        """The state, to be changed within; None if somebody else is changing it."""
        if self._file is None:
            self._settle_in(self._own)
            yield self._own
            return
        with self._file.draft() as draft:
            if draft is None:
                yield None
                return
            state = _state_of(draft.value)
            self._settle_in(state)
            yield state
            buckets = [[bucket, *entry] for bucket, entry in state.buckets.items()]
            draft.value = {"last": state.last, "mean_tokens": state.mean_tokens, "buckets": buckets}

    def _settle_in(self, state: State) -> None:
        for entry in self._unsettled:
            settle(state, *entry)
        for ticket in self._unused:
            give_back(state, ticket.bucket, ticket.n_tokens)
        self._unsettled.clear()
        self._unused.clear()


def _state_of(told: dict[str, Any] | None) -> State:
    if told is None:
        return State()
    buckets = {bucket: (n, tokens) for bucket, n, tokens in told["buckets"]}
    return State(told["last"], told["mean_tokens"], buckets)


def path_of(url: str, key_env: str | None, folder: Path | None) -> Path | None:
    """The file in which all who ask an address with the key of one variable count."""
    return shared_file.path_of("rates", _TASK, [url, key_env, shared_file.boot_id()], folder)
