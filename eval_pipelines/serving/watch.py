"""Whether the servers of a lease live, while they are asked."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from eval_pipelines.checkpoint_files import UnfinishedError, UnusableError, check_whole
from eval_pipelines.errors import NotReadyError, StartError
from eval_pipelines.serving.backends import Cause, likely_cause
from eval_pipelines.serving.room import Order, Room

_CAUSE_LINES = 5000  # every worker of a server adds a traceback below the one that matters
_TAIL_LINES = 12
# the transport adds up its parts
_HEALTH_TIMEOUT = httpx.Timeout(None, read=5.0)


class ServerWatch:
    """Asks the health routes when a request had failed, and the keeper's notes when nobody answers."""

    def __init__(
        self,
        room: Room,
        order: Order,
        client: httpx.AsyncClient,
        *,
        causes: Sequence[Cause],
        ready_timeout_s: float,
        weights: Path | None = None,
    ) -> None:
        self._room, self._order, self._client, self._causes, self._weights = room, order, client, causes, weights
        self._ready_timeout_s = ready_timeout_s
        self._lock = asyncio.Lock()
        self._settled_at = float("-inf")
        self.n_restarts = 0
        self.look()

    def look(self) -> None:
        """Take in how often servers were started again."""
        running = self._room.running()
        if running is not None and running.generation == self._order.generation:
            self.n_restarts = running.n_restarts

    async def settle(self, failed_at: float) -> int:
        """Wait until a server answers again. See endpoint.Watch."""
        async with self._lock:  # hundreds of requests fail at once: one looks for all
            if self._settled_at >= failed_at:
                return self.n_restarts
            looked_at = time.monotonic()
            await self.until_healthy(any_of=True)
            self._settled_at = looked_at
            self.look()
            return self.n_restarts

    async def until_healthy(self, *, any_of: bool = False) -> None:
        """Wait until the servers answer, all or any.

        Raises:
            StartError: they ended, or their keeper did; with the likely cause and the last lines.
            NotReadyError: they run, but none answers within `ready_timeout_s`.
        """
        deadline = time.monotonic() + self._ready_timeout_s
        urls = {index: server.health_url for index, server in enumerate(self._order.servers)}
        waiting, up = set(urls), set[int]()
        while True:
            self._raise_if_replaced()
            # what has used up its restarts is not waited for
            waiting &= set(self.alive())
            asked = sorted(waiting)
            healthy = await asyncio.gather(*(is_healthy(self._client, urls[index]) for index in asked))
            up |= {index for index, is_up in zip(asked, healthy, strict=True) if is_up}
            waiting -= up
            if up and (any_of or not waiting):
                return
            self._raise_if_ended()
            if time.monotonic() > deadline:
                index = min(waiting, default=0)
                tail = "".join(f"\n  | {line}" for line in self._room.log_lines(_TAIL_LINES, replica=index))
                raise NotReadyError(
                    f"{self._order.model_key}: the server did not answer {urls[index]} within "
                    f"ready_timeout_s = {self._ready_timeout_s:g}. It still runs; its last lines:{tail}\n"
                    f"  whole log: {self._room.log(index)}"
                )
            await asyncio.sleep(0.1)

    def alive(self) -> list[int]:
        """The replicas that have not ended for good."""
        running = self._room.running()
        everyone = range(len(self._order.servers))
        if running is None or running.generation != self._order.generation:
            return [*everyone]
        return [index for index in everyone if running.servers[index].returncode is None]

    def _raise_if_replaced(self) -> None:
        order = self._room.order()
        if order is None or order.generation != self._order.generation:
            raise StartError(
                f"{self._order.model_key}: its server was killed, and another one was started in its place. "
                f"Materialize again: what was answered is kept."
            )

    def _raise_if_ended(self) -> None:
        ended, key = self._room.exited(), self._order.model_key
        is_ours = ended is not None and ended.generation == self._order.generation
        if not is_ours and self._room.has_keeper():
            return
        index = self._ended_first()
        lines = self._room.log_lines(_CAUSE_LINES, replica=index)
        if ended is None or not is_ours:
            raise StartError(
                f"{key}: the keeper of the server died", log_path=self._room.log(index), tail=lines[-_TAIL_LINES:]
            )
        cause = likely_cause(lines, self._causes) or _lack_of(self._weights)
        advice = f" Likely cause: {cause}." if cause else ""
        when = "while it was asked" if self._room.is_ready(self._order.generation) else "before it was ready"
        again = f", after {self.n_restarts} restarts (max_restarts)" if self.n_restarts else ""
        told = f"{key}: the server ended with status {ended.returncode} {when}{again}.{advice} Its last lines:"
        if ended.was_stopped:
            told = f"{key}: the server was stopped {when}, as somebody told its keeper to. Its last lines:"
        raise StartError(told, log_path=self._room.log(index), tail=lines[-_TAIL_LINES:])

    def _ended_first(self) -> int:
        """The replica whose log tells most: one that has an error to tell, else the first."""
        for index in range(len(self._order.servers)):
            if likely_cause(self._room.log_lines(_CAUSE_LINES, replica=index), self._causes):
                return index
        return 0


def _lack_of(weights: Path | None) -> str | None:
    """What a server of a GGUF file that said nothing may have met: llama-server may lose its last words as it ends."""
    if weights is None or weights.suffix != ".gguf":
        return None
    try:
        check_whole(weights)
    except UnfinishedError as error:
        return f"the weights are damaged or still being written: {error}"
    except (UnusableError, OSError):
        pass
    return None


async def is_healthy(client: httpx.AsyncClient, url: str) -> bool:
    """True if the route answers 200 soon."""
    try:
        return (await client.get(url, timeout=_HEALTH_TIMEOUT)).status_code == 200
    except httpx.HTTPError:
        return False
