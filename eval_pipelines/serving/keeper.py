"""The process that owns one server's life: `python -m eval_pipelines.serving.keeper FOLDER`.

It outlives the run that started it, so that other steps and runs can share the server, and ends when nobody
has leased the server for `keep_warm_s`, when the server ends, or when it is told to (SIGTERM). The server dies
with it, even by kill -9.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from eval_pipelines.records import utc_now
from eval_pipelines.serving.locks import FileLock
from eval_pipelines.serving.room import Exited, Order, Room, Running

_GRACE_S = 12.0
_LOCK_TIMEOUT_S = 4.0
_TICK_S = 0.25
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def keep(folder: Path) -> int:
    """Run the ordered server until nobody needs it. Returns the keeper's exit status."""
    room = Room(folder)
    order = room.order()
    with room.lock("keeper") as alive:
        if order is None or not _acquire(alive):
            return 1
        told_to_stop: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _frame: told_to_stop.append(received))
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        try:
            server = _start(room, order)
        except OSError as error:
            room.log.write_text(f"cannot start {order.argv[0]!r}: {error}\n")
            room.write(Exited(generation=order.generation, returncode=127, was_stopped=False))
            return 1
        room.write(
            Running(
                generation=order.generation,
                keeper_pid=os.getpid(),
                server_pid=server.pid,
                started_at=utc_now().isoformat(),
            )
        )
        idle_since: float | None = None
        while server.poll() is None and not told_to_stop:
            with room.lock("start") as start, room.lock("holders") as holders:
                if start.try_acquire() and holders.try_acquire():
                    idle_since = idle_since or time.monotonic()
                    if time.monotonic() - idle_since >= order.keep_warm_s:
                        room.forget_server()  # still holding both locks: who comes now starts a new one
                        return _stop(room, order, server)
                else:
                    idle_since = None
            time.sleep(_TICK_S)
        room.forget_server()
        return _stop(room, order, server, was_stopped=bool(told_to_stop))


def _acquire(alive: FileLock) -> bool:
    """Take the lock that says a keeper lives. Who merely looks whether one does holds it for a moment."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while not alive.try_acquire():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _start(room: Room, order: Order) -> "subprocess.Popen[bytes]":
    if room.log.exists():
        room.log.replace(room.log.with_suffix(".log.1"))
    with room.log.open("wb") as log:
        return subprocess.Popen(
            order.argv,
            env={**os.environ, **order.env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )


def _stop(room: Room, order: Order, server: "subprocess.Popen[bytes]", *, was_stopped: bool = True) -> int:
    """TERM, a grace period, then KILL, each to the server's whole group."""
    for number, wait_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        try:
            server.wait(wait_s)
        except subprocess.TimeoutExpired:
            continue
    returncode = server.poll()
    room.write(
        Exited(
            generation=order.generation, returncode=-9 if returncode is None else returncode, was_stopped=was_stopped
        )
    )
    return 0


def die_with_parent(number: signal.Signals) -> None:
    """In a child before it becomes its program: be sent this signal when the parent dies, however it dies."""
    _prctl(_PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main() -> None:
    """Detach from whoever started us, then keep."""
    if os.fork():
        os._exit(0)
    os.setsid()
    sys.exit(keep(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
