"""What one client may have in flight, in agreement with all who ask the same endpoint.

A few times a second it tells the shared file what it saw and what it wants, and reads how much it may have: no lock
and no file for a request. A client that died is found by the lock that the kernel let go.
"""

import asyncio
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval_pipelines.client import pace, shared_file
from eval_pipelines.client.course import Course
from eval_pipelines.client.pace_state import Bounds, Pace, Seen
from eval_pipelines.client.shared_file import SharedFile
from eval_pipelines.client.shares import Member, Shares, agree, from_json
from eval_pipelines.errors import EvalPipelinesError
from eval_pipelines.records import Failure, FailureKind

_TASK = "share the requests in flight"
_SLOT_BYTES = 16_384
_LOOK_EVERY_S = 0.25
_LOOK_HUNGRY_S = 0.1
_LOOK_AGAIN_S = 0.01
_LOOK_AT_MOST_EVERY_S = 0.05
_SILENT_S = 60.0  # a member that told nothing for so long holds nothing any more
_LAG_S = 2 * _LOOK_EVERY_S
_SIGNALS = frozenset({FailureKind.OVERLOADED, FailureKind.TIMEOUT, FailureKind.CONNECTION})


class Slots:
    """What one client may have in flight: first come, first served within, by `max_min` among all clients.

    A slot is one answer: a request for several takes several. What was asked before goes first: whether it ends well is
    known sooner, and a server that answers nobody is noticed.
    """

    def __init__(self, bounds: Bounds, path: Path | None, *, now: Callable[[], float] = time.monotonic) -> None:
        """`path` is the file that all share; None: this client is alone. Nothing is written before the first `take`."""
        self._bounds, self._path, self._now = bounds, path, now
        self._file = SharedFile(path, _TASK, slot_bytes=_SLOT_BYTES) if path else None
        self._own = Shares()
        self._name, self._claim, self._is_member = secrets.token_hex(4), -1, False
        self._waiting: deque[tuple[asyncio.Future[int], int, bool]] = deque()
        # slots taken; waited for; how many may be; how many it would get if it wanted all; wanted at most since it was
        # last told; told; held as others see it
        self._n = self._n_waited_for = self._allotment = self._fair = self._peak = self._told = self._held = 0
        self._seen, self._counted_at = Seen(), now()
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at, self._n_decreases = -1e9, -1
        self._held_until: dict[str, float] = {}
        self._is_eager = self._is_closed = False
        self.course = Course()

    @property
    def n_in_flight(self) -> int:
        """Slots that are taken."""
        return self._n

    async def take(self, n: int = 1, *, is_again: bool = False) -> int:
        """Wait for `n` slots, or for all that this client can get; `give` back as many as were taken.

        Raises:
            ConfigError: the count cannot be kept.
        """
        if not self._waiting and (n_taken := self._room(n)):
            self._count(n_taken)
            self._peak = max(self._peak, self._n)
            return n_taken
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        place = (turn, n, is_again)
        n_before = sum(again for *_, again in self._waiting) if is_again else len(self._waiting)
        self._waiting.insert(n_before, place)
        self._n_waited_for += n
        wants = self._n + self._n_waited_for
        self._peak = max(self._peak, wants)
        if not self._is_member or self._timer is None:
            self._look_in(0.0)
        elif wants > self._told:
            self._look_soon()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self.give(turn.result())
            elif place in self._waiting:
                self._waiting.remove(place)
                self._n_waited_for -= n
                self._wake()  # those behind it may need less
            raise

    def give(self, n: int = 1) -> None:
        """Give slots back."""
        self._count(-n)
        self._wake()
        is_round_over = self._is_eager and self._seen.n_done >= self._allotment
        has_drained = self._held > self._allotment >= self._n
        if is_round_over or has_drained:
            self._look_soon()

    def saw(self, started_at: float, told: Sequence[Mapping[str, Any]], failed: Failure | None) -> None:
        """An attempt came to these answers (Response fields), or to a failure. Other failures than these tell nothing."""
        seen = self._seen
        if told:
            counts = [one.get(name) for one in told for name in ("prompt_tokens", "completion_tokens")]
            known = [count for count in counts if count is not None]
            is_told = seen.n_tokens is not None and len(known) == len(counts)
            seen.n_tokens = (seen.n_tokens or 0) + sum(known) if is_told else None
            seen.n_done += len(told)
            seen.n_fine += started_at > seen.since
        elif failed is None or failed.kind not in _SIGNALS or started_at <= seen.since:
            return
        elif failed.http_status == 429:
            seen.refused_at = max(started_at, seen.refused_at or started_at)
            self._look_in(0.0)
        else:
            seen.n_broken += 1

    def hold(self, host: str, until: float) -> None:
        """Tell everybody that `host` asked to be left alone until then."""
        self._held_until[host] = max(until, self._held_until.get(host, 0.0))
        self._look_in(0.0)

    def held_until(self, host: str) -> float:
        """Until when somebody was told to leave `host` alone, on the monotonic clock."""
        return self._held_until.get(host, 0.0)

    def close(self) -> None:
        """Give everything back. What was learned stays."""
        if self._timer:
            self._timer.cancel()
        if self._is_member:
            self._count(0)
            with suppress(EvalPipelinesError), self._shares() as shares:
                if shares:
                    self._agree(shares, wants=0)
        self._is_member, self._is_closed, self._allotment, self._timer = False, True, 0, None
        if self._claim >= 0:
            os.close(self._claim)
            self._claim_path(self._name).unlink(missing_ok=True)
            self._claim = -1

    def _count(self, more: int) -> None:
        now = self._now()
        # who waits although something is free is a batch: more would be used, if it were there
        n_busy = max(self._n, self._allotment) if self._waiting else self._n
        self._seen.busy_s += n_busy * (now - self._counted_at)
        self._counted_at = now
        self._n += more

    def _room(self, n: int) -> int:
        """As many slots as a request for `n` answers takes; 0 if they are not free."""
        n = min(n, max(1, self._fair))
        return n if self._n + n <= self._allotment else 0

    def _wake(self) -> None:
        while self._waiting:
            turn, n, _ = self._waiting[0]
            n_taken = 0 if turn.done() else self._room(n)
            if not n_taken and not turn.done():
                return
            self._count(n_taken)
            self._waiting.popleft()
            self._n_waited_for -= n
            if n_taken:
                turn.set_result(n_taken)

    def _look_soon(self) -> None:
        self._look_in(max(0.0, self._looked_at + _LOOK_AT_MOST_EVERY_S - self._now()))

    def _look_in(self, wait_s: float) -> None:
        if self._is_closed:
            return
        loop = asyncio.get_running_loop()
        if self._timer:
            if self._timer.when() <= loop.time() + wait_s:
                return
            self._timer.cancel()
        self._timer = loop.call_later(wait_s, self._look)

    def _look(self) -> None:
        """Tell and read; again in a while, as long as anybody wants anything."""
        self._timer = None
        self._count(0)
        try:
            with self._shares() as shares:
                if shares:
                    self._agree(shares, wants=max(self._peak, self._n + self._n_waited_for))
        except Exception as error:  # noqa: BLE001 - nobody awaits this function; who waits for a slot must hear of it
            for turn, *_ in self._waiting:
                if not turn.done():
                    turn.set_exception(error)
            self._waiting.clear()
            self._n_waited_for = 0
            return
        self._wake()
        if shares is None:
            self._look_in(_LOOK_AGAIN_S)
        elif self._is_member:
            self._look_in(_LOOK_EVERY_S if self._allotment or not self._waiting else _LOOK_HUNGRY_S)

    def _agree(self, shares: Shares, *, wants: int) -> None:
        now = self._now()
        is_first = self._join(shares)
        bounds = shares.bounds
        if shares.pace is None or now - shares.pace.seen_at > pace.FORGET_S:
            shares.pace = pace.begin(bounds, now)
        elif is_first:
            pace.resume(shares.pace, now)
        known, seen = shares.pace, self._seen
        pace.advance(known, seen, bounds, now, lag_s=_LAG_S if len(shares.members) > 1 else 0.0)
        self._allotment = agree(shares, self._name, wants=wants, n_in_flight=self._n, limit=known.limit, now=now)
        self._held = shares.members[self._name].held
        self._fair = shares.fair(known.limit, **{self._name: known.limit})[self._name]
        if wants == 0:
            self._is_member = bool(shares.members.pop(self._name).held)
        for host, until in self._held_until.items():
            shares.held_until[host] = max(until, shares.held_until.get(host, 0.0))
        shares.held_until = {host: until for host, until in shares.held_until.items() if until > now}
        self._held_until = dict(shares.held_until)
        self._note(known, now)
        self._seen, self._is_eager = Seen(since=known.decreased_at), known.phase == "double"
        self._told, self._peak, self._looked_at = wants, self._n + self._n_waited_for, now

    def _note(self, known: Pace, now: float) -> None:
        self.course.add(now, limit=known.limit, n_in_flight=self._n, n_answers=self._seen.n_done)
        if self._n_decreases >= 0:
            for _ in range(known.n_decreases - self._n_decreases):
                self.course.lowered(now, known.why)
        self._n_decreases = known.n_decreases

    def _join(self, shares: Shares) -> bool:
        """Be a member, and have no dead ones beside one. Returns whether there was none."""
        if self._path is not None:
            if self._claim < 0:
                self._claim = shared_file.claim(self._claim_path(self._name))
                for path in self._path.parent.glob(f"{self._path.name}.*"):
                    if not shared_file.is_claimed(path):
                        path.unlink(missing_ok=True)
            for name, member in [*shares.members.items()]:
                is_dead = not shared_file.is_claimed(self._claim_path(name))
                # or lives, and is stopped (Ctrl-Z): it joins again when it goes on
                if name != self._name and (is_dead or self._now() - member.seen_at > _SILENT_S):
                    del shares.members[name]
                    if is_dead:
                        self._claim_path(name).unlink(missing_ok=True)
        is_first = not shares.members
        shares.members.setdefault(self._name, Member(0, 0, self._bounds.floor, self._bounds.ceiling))
        self._is_member = True
        return is_first

    def _claim_path(self, name: str) -> Path:
        assert self._path is not None, "alone, one needs no claim"
        return self._path.with_name(f"{self._path.name}.{name}")

    @contextmanager
    def _shares(self) -> Iterator[Shares | None]:
        """What all share, to be changed within; None if somebody else is changing it."""
        if self._file is None:
            yield self._own
            return
        with self._file.draft() as draft:
            if draft is None:
                yield None
                return
            shares = from_json(draft.value)
            yield shares
            draft.value = asdict(shares)


def path_of(url: str, key_env: str | None, folder: Path | None) -> Path | None:
    """The file that all who ask an address with the key of one variable share. Raises ConfigError."""
    return shared_file.path_of("pace", _TASK, [url, key_env, shared_file.boot_id()], folder)
