"""Which of several servers gets a request: the least loaded, and the same one for what belongs together.

A server that does not answer is left out for a while that doubles each time; then one request tries it again.
"""

import time
import zlib
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from eval_pipelines.endpoint import Replica

_DOWN_S, _DOWN_CAP_S = 1.0, 30.0
_N_FAILED_TO_LEAVE_OUT = 3


@dataclass(slots=True)
class _Server:
    replica: Replica
    n_in_flight: int = 0
    n_failed: int = 0
    n_times_down: int = 0
    down_until: float = 0.0


class Router:
    """Counts what is under way at each server. One per evaluation; not shared between processes."""

    def __init__(self, replicas: Sequence[Replica], *, now: Callable[[], float] = time.monotonic) -> None:
        self._servers = [_Server(replica) for replica in replicas]
        self._now = now
        self.is_held: Callable[[str], bool] = lambda _url: False
        """Whether the server at a URL asked to be left alone for now: others come first."""

    def __len__(self) -> int:
        return len(self._servers)

    def begin(self, key: str, *, tried: Container[int] = ()) -> tuple[int, Replica]:
        """Choose a server for one attempt; call `end` when it is over.

        Args:
            key: Requests with the same key share a prompt's beginning, which a server computes once.
            tried: Servers at which this request has failed: others come first.
        """
        index = self._choose(key, tried) if len(self._servers) > 1 else 0
        server = self._servers[index]
        server.n_in_flight += 1
        return index, server.replica

    def end(self, index: int, *, is_answer: bool, is_gone: bool = False, is_fault: bool = True) -> None:
        """An attempt is over.

        Args:
            is_answer: It was answered, or refused for a reason that lies in the request: the server is well.
            is_gone: Nobody listens there any more.
            is_fault: False for an attempt that was called off: it says nothing of the server.
        """
        server = self._servers[index]
        server.n_in_flight -= 1
        if is_answer:
            server.n_failed = server.n_times_down = 0
            server.down_until = 0.0
            return
        if not is_fault:
            return
        server.n_failed += 1
        if (is_gone or server.n_failed >= _N_FAILED_TO_LEAVE_OUT) and server.down_until <= self._now():
            server.down_until = self._now() + min(_DOWN_CAP_S, _DOWN_S * 2.0**server.n_times_down)
            server.n_times_down += 1

    def has_other(self, tried: Container[int]) -> bool:
        """True if a server is up, and was not asked to be left alone, at which this request has not failed."""
        return any(
            self._is_up(server) and not self._is_held(server)
            for i, server in enumerate(self._servers)
            if i not in tried
        )

    def _is_held(self, server: _Server) -> bool:
        return self.is_held(server.replica.url)

    def _is_up(self, server: _Server) -> bool:
        if server.n_times_down == 0:
            return True
        # it was gone: one request may try it
        return server.down_until <= self._now() and server.n_in_flight == 0

    def _choose(self, key: str, tried: Container[int]) -> int:
        everyone = range(len(self._servers))
        fresh = [i for i in everyone if i not in tried]
        up = [i for i in everyone if self._is_up(self._servers[i])]
        free = [i for i in up if not self._is_held(self._servers[i])]
        wanted = [i for i in fresh if i in free], free, [i for i in fresh if i in up], up, fresh
        candidates = next(filter(None, wanted), [*everyone])
        loads = {i: self._servers[i].n_in_flight for i in candidates}
        least = min(candidates, key=loads.__getitem__)
        favourite = max(candidates, key=lambda i: zlib.crc32(f"{i}/{key}".encode()))
        return favourite if loads[favourite] <= loads[least] * 1.25 + 2 else least
