"""The asyncio side of the engine: hands works over, brings tokens back, notices when the engine is gone.

One reader thread receives, one writer thread sends, because a pipe that is full blocks; the event loop never waits.
"""

import asyncio
import contextlib
import itertools
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from eval_pipelines.embedded.errors import EngineError, StartError
from eval_pipelines.embedded.messages import (
    Cancel,
    Delta,
    EngineSettings,
    FromEngine,
    LoadFailed,
    Lost,
    Ready,
    Step,
    ToEngine,
    Work,
)

# A step takes at most a few seconds, also on a slow machine; one that takes this long will not end.
STALL_AFTER_S = 120.0
# -P: a folder in the working directory must not shadow a package (one called `gguf` has).
_WORKER = [sys.executable, "-P", "-m", "eval_pipelines.embedded.worker"]
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


class Stream:
    """What comes back for one work, delta by delta."""

    def __init__(self, id_: int, engine: "Engine") -> None:
        self._id, self._engine = id_, engine
        self._inbox: asyncio.Queue[Delta | EngineError] = asyncio.Queue()
        self._is_over = False

    def put(self, item: Delta | EngineError) -> None:
        """Called by the engine, on the event loop."""
        self._inbox.put_nowait(item)

    async def deltas(self) -> AsyncIterator[Delta]:
        """Yield until the work is finished. Raises EngineError if it cannot be."""
        while not self._is_over:
            item = await self._inbox.get()
            if isinstance(item, EngineError):
                self._is_over = True
                raise item
            if item.failure is not None:
                self._is_over = True
                raise EngineError(item.failure)
            self._is_over = item.finish is not None
            yield item

    def close(self) -> None:
        """Give up on the work if it still runs: its memory is freed at the engine's next step. Never raises."""
        if not self._is_over:
            self._is_over = True
            self._engine.cancel(self._id)


@dataclass
class Engine:
    """One engine process. Use from one event loop; `start` first, `stop` at the end."""

    settings: EngineSettings
    command: Callable[[int], list[str]] = lambda fd: [*_WORKER, str(fd)]
    name: str = "not loaded"
    n_running: int = 0
    n_waiting: int = 0
    kv_cache_share: float = 0.0
    failure: str | None = None
    _streams: dict[int, Stream] = field(default_factory=dict)
    _outbox: "queue.SimpleQueue[ToEngine | None]" = field(default_factory=queue.SimpleQueue)
    _heard_at: float = 0.0
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def launch(self) -> None:
        """Start the process; it loads while the caller does something else."""
        ours, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if name != "EMBEDDED_API_KEY"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [_PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
        with theirs:
            self._process = subprocess.Popen(
                self.command(theirs.fileno()), pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL
            )
        self._pipe: Connection[object, FromEngine] = Connection(ours.detach())
        self._pipe.send(self.settings)

    def wait_until_ready(self) -> None:
        """Block until the model is loaded. Raises StartError with the engine's own reason if it cannot be."""
        name = self.settings.weights.name
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            raise StartError(
                f"the engine died while loading {name} (exit code {code}). Is there enough memory?"
            ) from None
        if isinstance(message, LoadFailed):
            raise StartError(f"OpenVINO cannot load {name}: {message.reason}")
        assert isinstance(message, Ready)
        self.name = message.engine

    def start(self) -> None:
        """Begin to exchange messages, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="engine-reader", daemon=True).start()
        threading.Thread(target=self._write, name="engine-writer", daemon=True).start()

    def next_id(self) -> int:
        """An id no other work of this engine has."""
        return next(self._ids)

    def submit(self, work: Work) -> Stream:
        """Hand one work over. Raises EngineError if the engine is gone."""
        if self.failure is not None:
            raise EngineError(self.failure)
        if not self._streams:
            self._heard_at = time.monotonic()
        stream = self._streams[work.id] = Stream(work.id, self)
        self.n_waiting += 1
        self._outbox.put(work)
        return stream

    def cancel(self, id_: int) -> None:
        """Forget one work. Unknown ids are ignored."""
        if self._streams.pop(id_, None) is not None and self.failure is None:
            self._outbox.put(Cancel(id_))

    def trouble(self) -> str | None:
        """Why the engine cannot answer; None if it can."""
        if self.failure is None and self._streams and time.monotonic() - self._heard_at > STALL_AFTER_S:
            return f"the engine has not finished a step for {STALL_AFTER_S:.0f} s"
        return self.failure

    def stop(self) -> None:
        """End the process: ask by closing the pipe, then kill. Nothing is left behind."""
        self._outbox.put(None)
        process = getattr(self, "_process", None)
        if process is None:
            return
        # shutdown, not close: close() does not wake a reader that is blocked on the same descriptor.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._pipe.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _read(self) -> None:
        reason = "the engine process ended unexpectedly"
        try:
            while True:
                message = self._pipe.recv()
                if isinstance(message, Lost):
                    reason = f"the engine broke: {message.reason}"
                    break
                self._loop.call_soon_threadsafe(self._deliver, message)
        except (EOFError, OSError):
            pass
        try:
            self._loop.call_soon_threadsafe(self._fail, reason)
        except RuntimeError:
            return  # the loop is closed: the server is already gone

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._pipe.send(message)
            except OSError:
                return  # the reader notices the same and says it

    def _deliver(self, message: FromEngine) -> None:
        assert isinstance(message, Step)
        self._heard_at = time.monotonic()
        self.n_running, self.n_waiting = message.n_running, message.n_waiting
        self.kv_cache_share = message.kv_cache_share
        for delta in message.deltas:
            is_over = delta.finish is not None or delta.failure is not None
            stream = self._streams.pop(delta.id, None) if is_over else self._streams.get(delta.id)
            if stream is not None:
                stream.put(delta)

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self.n_running = self.n_waiting = 0
        self.kv_cache_share = 0.0
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.put(EngineError(reason))
