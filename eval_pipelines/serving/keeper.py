"""The process that owns the servers of one order: `python -m eval_pipelines.serving.keeper FOLDER GENERATION FD,FD…`.

It outlives the run that started it, so that other steps and runs can share the servers. It starts a server that died
again, up to `max_restarts` times, and ends when nobody has leased them for `keep_warm_s`, at once when nobody does
and another model waits for their GPUs, or when it is told to (SIGTERM). The servers die with it, even by kill -9.

The open files it inherits are the locks of the servers' GPUs and ports.
"""

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path

from eval_pipelines.records import utc_now
from eval_pipelines.serving import gpus, guard
from eval_pipelines.serving.guard import Guard
from eval_pipelines.serving.locks import FileLock
from eval_pipelines.serving.room import Exited, Order, Room, Running, ServerState

_LOCK_TIMEOUT_S = 60.0  # an earlier keeper may still be stopping its servers
_STOP_TIMEOUT_S = 45.0
_TICK_S = 0.25
_MAX_LOG_BYTES = 64 * 2**20
_N_OLD_LOGS = 4
_SHOW_EVERY_S = 3600.0


class Keeper:
    """Runs one order until nobody needs it."""

    def __init__(self, room: Room, order: Order, claims: Collection[int]) -> None:
        self.room, self.order, self.claims = room, order, claims
        self.started_at = utc_now().isoformat(timespec="seconds")
        self.n_starts = [0] * len(order.servers)
        self.guards: list[Guard | None] = [None] * len(order.servers)
        self.returncodes: list[int | None] = [None] * len(order.servers)
        self.told_to_stop: list[int] = []
        self.idle_since: float | None = None
        self.is_stopped = False
        self.shown_at = float("-inf")

    def run(self) -> None:
        """Start all servers, watch them, and stop what is left of them in the end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _frame: self.told_to_stop.append(received))
        guard.become_subreaper()
        try:
            for index in range(len(self.guards)):
                self._start(index)
            self._say()
            while self._goes_on():
                lines = [one.line for one in self.guards if one is not None]
                select.select(lines, [], [], _TICK_S)
                self._look()
                self._cut_logs()
                self._show_use()
        finally:
            self._stop()

    def _start(self, index: int) -> None:
        self.n_starts[index] += 1
        written = self.room.order()
        if written is not None and written.generation == self.order.generation:
            self.order = written  # other weights may have been loaded into it meanwhile
        log = self.room.log(index)
        _set_aside(log)
        mark = f"{self.room.folder}:{self.order.generation}"
        self.guards[index] = guard.start(self.order.servers[index], log=log, mark=mark, keep=self.claims)

    def _look(self) -> None:
        """Take in what happened; start again what died after it had been seen to work."""
        before = self._state()
        for index, one in enumerate(self.guards):
            if one is None:
                continue
            one.listen()
            if one.returncode is None:
                continue
            self.guards[index], self.returncodes[index] = None, one.returncode
            if one.is_lost:
                self._end_strays(index)
            may_restart = self.n_starts[index] <= self.order.max_restarts
            if may_restart and not self.told_to_stop and self.room.is_ready(self.order.generation):
                self._start(index)
        if self._state() != before:
            self._say()

    def _end_strays(self, index: int) -> None:
        """What a guard does at the end of its server, where the guard itself was killed."""
        for argv in self.order.servers[index].cleanup:
            guard.run_quietly(argv)
        guard.sweep([one.pid for one in self.guards if one is not None])

    def _goes_on(self) -> bool:
        if self.told_to_stop or not any(self.guards):
            return False
        written = self.room.order()
        if written is None or written.generation != self.order.generation:
            return False  # who ordered this died before we could say that it runs, and somebody ordered anew
        if None in self.guards and not self.room.is_ready(self.order.generation):
            return False  # one replica cannot start: it is the same for all of them
        with self.room.lock("start") as start, self.room.lock("holders") as holders:
            if not (start.try_acquire() and holders.try_acquire()):
                self.idle_since = None
                return True
            self.idle_since = self.idle_since or time.monotonic()
            is_wanted = any(server.gpus for server in self.order.servers) and gpus.is_anyone_waiting(
                Path(self.order.machine)
            )
            if is_wanted or time.monotonic() - self.idle_since >= self.order.keep_warm_s:
                self._stop()  # still holding both locks: who comes now waits, then starts new ones
                return False
            return True

    def _stop(self) -> None:
        if self.is_stopped:
            return
        self.is_stopped = True
        self.room.forget_servers()
        was_stopped = bool(self.told_to_stop) or None not in self.guards
        for one in self.guards:
            if one is not None:
                one.stop()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while any(one is not None and one.returncode is None for one in self.guards) and time.monotonic() < deadline:
            select.select([one.line for one in self.guards if one and one.line.fileno() >= 0], [], [], _TICK_S)
            for one in self.guards:
                if one is not None:
                    one.listen()
        for index, one in enumerate(self.guards):
            if one is not None:
                self.returncodes[index] = one.returncode
                one.close()
        self.guards = []
        guard.sweep()
        returncode = next((code for code in self.returncodes if code), 0)
        self.room.write(Exited(generation=self.order.generation, returncode=returncode, was_stopped=was_stopped))

    def _state(self) -> list[ServerState]:
        return [
            ServerState(pid=one.server_pid if one else None, n_starts=n_starts, returncode=None if one else code)
            for one, n_starts, code in zip(self.guards, self.n_starts, self.returncodes, strict=True)
        ]

    def _say(self) -> None:
        state = self._state()
        self.room.write(
            Running(
                generation=self.order.generation,
                keeper_pid=os.getpid(),
                started_at=self.started_at,
                servers=state,
            )
        )

    def _show_use(self) -> None:
        """Touch the lock files now and then: programs that tidy temporary folders go by their age."""
        if time.monotonic() - self.shown_at > _SHOW_EVERY_S:
            self.shown_at = time.monotonic()
            for fd in self.claims:
                try:
                    os.utime(fd)
                except OSError:
                    pass  # another user's file

    def _cut_logs(self) -> None:
        """Move the text of a log that grew too long aside. The server goes on writing into the same file."""
        for index in range(len(self.guards)):
            log = self.room.log(index)
            if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
                _make_way(log)
                shutil.copyfile(log, log.with_suffix(".log.1"))
                os.truncate(log, 0)


def keep(folder: Path, generation: str, claims: Collection[int]) -> int:
    """Run the servers of one order until nobody needs them. Returns the keeper's exit status."""
    room = Room(folder)
    with room.lock("keeper") as alive:
        if not _acquire(alive):
            return 1
        order = room.order()
        if order is None or order.generation != generation:
            return 1  # somebody ordered anew meanwhile
        Keeper(room, order, claims).run()
    return 0


def _acquire(alive: FileLock) -> bool:
    """Take the lock that says a keeper lives. Who merely looks whether one does holds it for a moment."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while not alive.try_acquire():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _set_aside(log: Path) -> None:
    """An earlier server's log becomes `.log.1`, that one `.log.2` …"""
    if log.exists():
        _make_way(log)
        log.rename(log.with_suffix(".log.1"))


def _make_way(log: Path) -> None:
    for n in range(_N_OLD_LOGS, 0, -1):
        older = log.with_suffix(f".log.{n}")
        if older.exists():
            older.replace(log.with_suffix(f".log.{n + 1}")) if n < _N_OLD_LOGS else older.unlink()


def main() -> None:
    """Detach from whoever started us, then keep."""
    if os.fork():
        os._exit(0)
    os.setsid()
    folder, generation, claims = sys.argv[1:]
    sys.exit(keep(Path(folder), generation, [int(fd) for fd in claims.split(",") if fd]))


if __name__ == "__main__":
    main()
