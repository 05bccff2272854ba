"""Grading in processes of its own: on all cores, and a sample that hangs is stopped without its neighbours."""

import atexit
import contextlib
import copy
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import connection
from typing import Any

import cloudpickle

from eval_pipelines.benchmarks.grading_process import MESSAGE
from eval_pipelines.benchmarks.scorer import DIED, TIMEOUT, Case, Outcome
from eval_pipelines.errors import ScoringError

_MOST_IN_CHUNK = 256
_CHUNKS_PER_WORKER = 4
# the worker itself stops what computes too long; what does not let itself be stopped, or sleeps, is killed later
_PATIENCE = 2.0
_SLACK_S = 5.0
# until a worker has imported what a task needs: sympy on a busy machine takes ten seconds
_LOADING_S = 60.0
# what a task carries that no scorer reads
_NOT_SENT = ("dataset", "task_docs", "sampler", "_training_docs", "_fewshot_docs", "_instances")

# libraries for linear algebra and memory would start threads, in a process that is to be forked
_NO_THREADS = ("OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1", "JE_ARROW_MALLOC_CONF=background_thread:false")

Numbered = tuple[int, Case]


class CannotSendError(Exception):
    """A task cannot leave its process."""


def pickled(task: Any) -> bytes:
    """A task without its data, for another process. Raises CannotSendError."""
    lean = copy.copy(task)
    for name in _NOT_SENT:
        if name in vars(lean):
            delattr(lean, name)
    lean._config = copy.copy(task.config)
    lean._config.custom_dataset = None
    try:
        dumped: bytes = cloudpickle.dumps(lean)
        return dumped
    except Exception as error:
        raise CannotSendError(f"{type(error).__name__}: {error}") from error


@dataclass(slots=True)
class _Worker:
    """One process, what it was given, and how far it came."""

    pid: int
    line: connection.Connection
    knows: set[int] = field(default_factory=set)
    given: list[Numbered] = field(default_factory=list)
    heard_at: float = 0.0
    limit_s: float = 0.0
    is_one_by_one: bool = False


class GradingPool:
    """Workers on all cores this process may use, started when there is something to grade."""

    def __init__(self, n_workers: int | None = None) -> None:
        self._n_workers = n_workers or _n_cores()
        self._server: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._n_tasks = 0

    @property
    def is_running(self) -> bool:
        """Whether its start is paid for."""
        return self._owner == os.getpid() and self._server is not None and self._server.poll() is None

    def judge(self, payload: bytes, cases: Collection[Numbered], timeout_s: float) -> Iterator[tuple[int, Outcome]]:
        """An outcome for each numbered case, as it comes; no order.

        Args:
            payload: of `pickled`.
            timeout_s: Seconds one answer may take.

        Raises:
            CannotSendError: the task cannot be read in another process.
            ScoringError: no worker could be started.
        """
        self._n_tasks += 1
        run = _Run(self, self._n_tasks, payload, cases, timeout_s)
        try:
            yield from run.outcomes()
        finally:
            run.close()

    def take(self) -> _Worker:
        """A worker that has nothing to do. Raises ScoringError where none can be started."""
        with self._lock:
            if self._idle and self.is_running:
                return self._idle.pop()
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    line = self._started()
                    socket.send_fds(line, [MESSAGE.pack(0)], [theirs.fileno()])
                    (pid,) = MESSAGE.unpack(line.recv(MESSAGE.size, socket.MSG_WAITALL))
                except (OSError, struct.error) as error:
                    ours.close()
                    self._close()
                    raise ScoringError(
                        f"no process could be started to grade in: {type(error).__name__}: {error}"
                    ) from error
            return _Worker(pid, connection.Connection(ours.detach()))

    def give_back(self, worker: _Worker) -> None:
        """To be used for the next task, or killed if it still does something."""
        if worker.given:
            self.kill(worker)
        else:
            with self._lock:
                self._idle.append(worker)

    def kill(self, worker: _Worker) -> None:
        """End a worker, whatever it does."""
        with self._lock:
            self._kill(worker)

    def rest(self) -> None:
        """End the workers that have nothing to do: they hold memory. What started them stays."""
        with self._lock:
            while self._idle:
                self._kill(self._idle.pop())

    def close(self) -> None:
        """End every process of it. It can be used again."""
        with self._lock:
            self._close()

    @property
    def n_workers(self) -> int:
        """As many as there are cores."""
        return self._n_workers

    def _kill(self, worker: _Worker) -> None:
        worker.line.close()
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.sendall(MESSAGE.pack(worker.pid))
                self._line.recv(MESSAGE.size, socket.MSG_WAITALL)

    def _close(self) -> None:
        while self._idle:
            self._idle.pop().line.close()
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._server is not None and self._owner == os.getpid():
            self._server.wait()
        self._server = None

    def _started(self) -> socket.socket:
        if self._line is None or not self.is_running:
            self._close()
            self._owner = os.getpid()
            self._line, theirs = socket.socketpair()
            with theirs:
                fd = theirs.fileno()
                command = [
                    "env",
                    *_NO_THREADS,
                    sys.executable,
                    "-m",
                    "eval_pipelines.benchmarks.grading_process",
                    str(fd),
                ]
                self._server = subprocess.Popen(
                    command, pass_fds=[fd], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
                )
            path = pickle.dumps([os.path.abspath(one) for one in sys.path])
            self._line.sendall(MESSAGE.pack(len(path)) + path)
        return self._line


class _Run:
    """One task's cases on their way through the workers."""

    def __init__(
        self, pool: GradingPool, task_id: int, payload: bytes, cases: Collection[Numbered], timeout_s: float
    ) -> None:
        self._pool, self._task_id, self._payload, self._timeout_s = pool, task_id, payload, timeout_s
        self._cases = iter(cases)
        self._n_in_chunk = min(_MOST_IN_CHUNK, 1 + len(cases) // (pool.n_workers * _CHUNKS_PER_WORKER))
        self._again: list[tuple[list[Numbered], bool]] = []
        self._workers: list[_Worker] = []

    def outcomes(self) -> Iterator[tuple[int, Outcome]]:
        while True:
            self._give()
            busy = {worker.line: worker for worker in self._workers if worker.given}
            if not busy:
                return
            deadline = min(worker.heard_at + worker.limit_s for worker in busy.values())
            for line in connection.wait([*busy], max(0.0, deadline - time.monotonic())):
                yield from self._hear(busy[line])  # type: ignore[index]
            now = time.monotonic()
            for worker in [one for one in busy.values() if one.given and now > one.heard_at + one.limit_s]:
                if not worker.line.poll():
                    yield from self._lost(worker, TIMEOUT)

    def close(self) -> None:
        for worker in self._workers:
            self._pool.give_back(worker)
        self._workers = []

    def _give(self) -> None:
        idle = [worker for worker in self._workers if not worker.given]
        while True:
            if not idle and len(self._workers) >= self._pool.n_workers:
                return
            cases, is_one_by_one = (
                self._again.pop() if self._again else (list(islice(self._cases, self._n_in_chunk)), False)
            )
            if not cases:
                return
            if not idle:
                idle.append(self._pool.take())
                self._workers += idle
            worker = idle.pop()
            self._send(worker, cases, is_one_by_one)

    def _send(self, worker: _Worker, cases: Sequence[Numbered], is_one_by_one: bool) -> None:
        payload = None if self._task_id in worker.knows else self._payload
        worker.knows.add(self._task_id)
        worker.given, worker.is_one_by_one = list(cases), is_one_by_one
        worker.heard_at = time.monotonic() + (0.0 if payload is None else _LOADING_S)
        n_answers = max(case.n_answers for _, case in cases)
        worker.limit_s = self._timeout_s * (1 + n_answers) * _PATIENCE + _SLACK_S
        with contextlib.suppress(OSError):  # it is dead: found out when it is listened to
            worker.line.send((self._task_id, payload, [case for _, case in cases], self._timeout_s, is_one_by_one))

    def _hear(self, worker: _Worker) -> Iterator[tuple[int, Outcome]]:
        try:
            heard = worker.line.recv()
        except (EOFError, OSError):
            yield from self._lost(worker, DIED)
            return
        if isinstance(heard, str):
            raise CannotSendError(heard)
        worker.heard_at = time.monotonic()
        done, worker.given = worker.given[: len(heard)], worker.given[len(heard) :]
        yield from ((number, outcome) for (number, _), outcome in zip(done, heard, strict=True))

    def _lost(self, worker: _Worker, reason: str) -> Iterator[tuple[int, Outcome]]:
        """It hangs or died. Which of its samples that was is known once they are graded one by one."""
        self._workers.remove(worker)
        self._pool.kill(worker)
        rest = worker.given
        if worker.is_one_by_one or len(rest) == 1:
            yield rest[0][0], reason
            rest = rest[1:]
        if rest:
            self._again.append((rest, not worker.is_one_by_one))


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# one per process: what it costs to start is paid once for all that is graded here
POOL = GradingPool()
atexit.register(POOL.close)
