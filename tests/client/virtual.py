"""Asking in virtual time: an event loop whose clock jumps to what comes next, and a server that is a few lines."""

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval_pipelines.client.pace_state import Bounds
from eval_pipelines.client.slots import Slots
from eval_pipelines.records import Failure, FailureKind

BEGAN_AT = 1000.0


class _Jumping(selectors.DefaultSelector):
    """Waits for nothing: the time passes at once."""

    now = BEGAN_AT

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing will ever happen again: somebody waits for ever"
        self.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time is `time()`."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def now() -> float:
    return asyncio.get_running_loop().time()


def played(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


@dataclass
class Server:
    """Answers `capacity` requests at a time, each after `latency_s`; the others wait for their turn.

    Attributes:
        refuses_above: More than so many are answered with 429 at once.
        broken: Says whether an attempt comes to a 500, by the moment and a die.
        spread: Latencies lie between (1 - spread) and (1 + spread) times the mean.
    """

    capacity: int = 10**9
    latency_s: float = 0.2
    refuses_above: int = 10**9
    broken: Callable[[float, float], bool] = lambda at, die: False
    spread: float = 0.1
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    n: int = 0
    most: int = 0
    n_busy: int = 0
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    answered_at: list[float] = field(default_factory=list)
    refused_at: list[float] = field(default_factory=list)

    async def ask(self) -> Failure | None:
        if self.n >= self.refuses_above:
            await asyncio.sleep(0.002)
            self.refused_at.append(now())
            return Failure(kind=FailureKind.OVERLOADED, message="slow down", http_status=429)
        self.n += 1
        self.most = max(self.most, self.n)
        try:
            if self.broken(now() - BEGAN_AT, self.dice.random()):
                await asyncio.sleep(0.02)
                return Failure(kind=FailureKind.OVERLOADED, message="oops", http_status=500)
            while self.n_busy >= self.capacity:
                turn = asyncio.get_running_loop().create_future()
                self.waiting.append(turn)
                await turn
            self.n_busy += 1
            try:
                await asyncio.sleep(self.latency_s * (1 + self.spread * (2 * self.dice.random() - 1)))
            finally:
                self.n_busy -= 1
                while self.waiting and self.waiting[0].done():
                    self.waiting.pop(0)
                if self.waiting:
                    self.waiting.pop(0).set_result(None)
            self.answered_at.append(now())
            return None
        finally:
            self.n -= 1


@dataclass
class Asker:
    """One client with so many workers, who ask until they are cancelled or have asked enough."""

    server: Server
    bounds: Bounds
    n_workers: int
    path: Path | None = None
    n_to_ask: int = 10**9
    n_per_request: int = 1
    n_answered: int = 0
    watch: Callable[["Asker"], None] = lambda _: None

    async def run(self, until_s: float = 1e9) -> None:
        self.slots = Slots(self.bounds, self.path, now=now)
        self._left = self.n_to_ask
        try:
            async with asyncio.timeout_at(BEGAN_AT + until_s), asyncio.TaskGroup() as group:
                for _ in range(self.n_workers):
                    group.create_task(self._work())
        except TimeoutError:
            pass
        finally:
            self.slots.close()

    async def _work(self) -> None:
        while self._left > 0:
            self._left -= 1
            for n_attempts in range(10**6):
                n_slots = await self.slots.take(self.n_per_request)
                self.watch(self)
                started_at, told, failed = now(), (), None
                try:
                    failed = await self.server.ask()
                    told = () if failed else ({"prompt_tokens": 10, "completion_tokens": 10},) * self.n_per_request
                finally:
                    self.slots.saw(started_at, told, failed)
                    self.slots.give(n_slots)
                if failed is None:
                    self.n_answered += 1
                    break
                await asyncio.sleep(min(4.0, 0.5 * 2**n_attempts) * (0.5 + 0.5 * self.server.dice.random()))
