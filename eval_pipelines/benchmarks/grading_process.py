"""The process that grading workers are forked from, and what a worker does.

    python -m eval_pipelines.benchmarks.grading_process FD

It has no threads, so forking it is safe where forking a Dagster run is not; it has lm-eval imported, so a worker costs
milliseconds. FD is a socket to the process that grades: a message with a file descriptor asks for a worker on it, one
without names a worker to kill. It ends, and its workers with it, when that socket closes.
"""

import contextlib
import ctypes
import io
import logging
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

# what is sent on the socket: a worker's pid to kill, or 0 for a new one; and back: its pid
MESSAGE = struct.Struct("!q")
_PR_SET_PDEATHSIG = 1
_FLUSH_S = 0.05
# a power tower takes all memory before it takes all time
_MOST_BYTES = 8 << 30


def main() -> None:
    """Serve until the other end of the socket closes."""
    with socket.socket(fileno=int(sys.argv[1])) as line:
        sys.path[:] = pickle.loads(_read_path(line))  # noqa: S301
        from eval_pipelines.benchmarks.building import prepare_library

        prepare_library()
        children: set[int] = set()
        while True:
            data, fds, _, _ = socket.recv_fds(line, MESSAGE.size, 1)
            if not data:
                break
            (pid,) = MESSAGE.unpack(data)
            if pid in children:
                _kill(pid)
                children.remove(pid)
            if fds:
                pid = os.fork()
                if pid == 0:
                    line.close()
                    _work_and_exit(Connection(fds[0]))
                os.close(fds[0])
                _lead_a_group(pid)
                children.add(pid)
            line.sendall(MESSAGE.pack(pid))
        for pid in children:
            _kill(pid)


def _read_path(line: socket.socket) -> bytes:
    (size,) = MESSAGE.unpack(line.recv(MESSAGE.size, socket.MSG_WAITALL))
    return line.recv(size, socket.MSG_WAITALL)


def _lead_a_group(pid: int) -> None:
    # on both sides of the fork: whoever comes first
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)


def _kill(pid: int) -> None:
    # with what its scorers started; its pid is not given to another before it is waited for
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _work_and_exit(line: Connection) -> NoReturn:
    _lead_a_group(os.getpid())
    with contextlib.suppress(AttributeError, OSError):  # Linux only; elsewhere a worker ends with its line
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    try:
        _work(line)
    except (EOFError, OSError, KeyboardInterrupt):
        pass
    finally:
        os._exit(0)


def _work(line: Connection) -> None:
    """Grade what comes until the line closes: (task id, pickled task or None, cases, seconds, one by one) each time."""
    scorers: dict[int, Any] = {}
    while True:
        task_id, payload, cases, timeout_s, one_by_one = line.recv()
        try:
            if task_id not in scorers:
                scorers[task_id] = _scorer(payload)
                line.send([])  # from here on its time is that of the answers
            scorer = scorers[task_id]
        except Exception as error:  # noqa: BLE001
            line.send(f"{type(error).__name__}: {error}")
            continue
        pending: list[Any] = []
        flushed_at = time.monotonic()
        for group in [[case] for case in cases] if one_by_one else [cases]:
            for outcome in scorer.judge(group, timeout_s=timeout_s):
                pending.append(outcome)
                if one_by_one or time.monotonic() - flushed_at > _FLUSH_S:
                    _send(line, pending)
                    pending, flushed_at = [], time.monotonic()
        if pending:
            _send(line, pending)


def _scorer(payload: bytes) -> Any:
    from eval_pipelines.benchmarks.scorer import Scorer

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return Scorer(_Unpickler(io.BytesIO(payload)).load())


def _send(line: Connection, outcomes: list[Any]) -> None:
    from eval_pipelines.benchmarks.scorer import Raised

    try:
        line.send(outcomes)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        for outcome in outcomes:
            try:
                pickle.dumps(outcome)
            except Exception:  # noqa: BLE001
                outcome = Raised(f"gave a verdict that cannot be sent between processes: {error}")
            line.send([outcome])


class _Unpickler(pickle.Unpickler):
    """Finds what stands in a file beside a task's YAML: lm-eval names such modules by their path."""

    def find_class(self, module: str, name: str) -> Any:
        if Path(module).is_absolute():
            from lm_eval.tasks._yaml_loader import _load_module_with_cache

            found = _load_module_with_cache(Path(f"{module}.py"))
            for part in name.split("."):
                found = getattr(found, part)
            return found
        return super().find_class(module, name)


if __name__ == "__main__":
    main()
