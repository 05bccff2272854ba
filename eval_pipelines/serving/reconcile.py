"""Put right what a crash left: processes without a keeper, notes without a process, folders nobody needs.

A keeper and its guards end a server's whole tree, whichever of them dies. Only where all of them are killed at once,
as when memory runs out, can a worker stay behind; it is recognised by the mark in its environment.
"""

import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eval_pipelines.serving.guard import MARK, run_quietly
from eval_pipelines.serving.room import Room

_KEEP_LOGS_S = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was done.

    Attributes:
        killed: Process → the folder of the server it belonged to.
        forgotten: Folders whose notes told of servers that do not run.
        removed: Folders that nobody used for 30 days, with their logs.
    """

    killed: dict[int, str]
    forgotten: tuple[str, ...]
    removed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.killed or self.forgotten or self.removed)


def rooms(leases: Path) -> list[Room]:
    """Every server's folder, in the order of their names."""
    return [Room(folder) for folder in sorted(leases.glob("*")) if (folder / "holders").is_dir()]


def reconcile(leases: Path, *, now: float | None = None) -> Reconciled:
    """Kill what no keeper keeps, and forget what does not run. Safe at any time, from any number of processes.

    Args:
        now: Seconds since the epoch; only tests give it.
    """
    killed: dict[int, str] = {}
    forgotten, removed = [], []
    marked = _marked_processes()
    for room in rooms(leases):
        with room.lock("start") as turn:
            if not turn.try_acquire():
                continue  # somebody starts or stops a server there just now
            was_running = room.last_running() is not None
            killed |= dict.fromkeys(_end(room, marked), room.folder.name)
            if was_running and room.last_running() is None:
                forgotten.append(room.folder.name)
            is_used = room.has_keeper() or bool(room.holders())
            if not is_used and (now or time.time()) - _last_used(room) > _KEEP_LOGS_S:
                shutil.rmtree(room.folder, ignore_errors=True)
                removed.append(room.folder.name)
    return Reconciled(killed, tuple(forgotten), tuple(removed))


def end_leftovers(room: Room) -> None:
    """Before a server is started: end what an earlier one left. Call it with the start lock held."""
    _end(room, _marked_processes())


def _end(room: Room, marked: Mapping[str, Mapping[str, list[int]]]) -> list[int]:
    """Kill this server's processes that no keeper keeps, and end what they ran elsewhere."""
    running = room.running()
    if running is None and room.has_keeper():
        return []  # it starts or stops just now
    living = running.generation if running else None
    orphans = [
        pid for generation, pids in marked.get(str(room.folder), {}).items() if generation != living for pid in pids
    ]
    if running is None and room.last_running() is not None:
        order = room.order()
        for argv in (line for server in (order.servers if order else []) for line in server.cleanup):
            run_quietly(argv)
        room.forget_servers()
    return [pid for pid in orphans if _kill(pid)]


def _marked_processes() -> dict[str, dict[str, list[int]]]:
    """Folder of a server → generation → its processes, of this user, as far as the machine tells (Linux)."""
    found: dict[str, dict[str, list[int]]] = {}
    wanted = f"{MARK}=".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        mark = next((variable for variable in variables if variable.startswith(wanted)), None)
        if mark is not None and int(folder.name) != os.getpid():
            room, _, generation = mark.removeprefix(wanted).decode(errors="replace").rpartition(":")
            found.setdefault(room, {}).setdefault(generation, []).append(int(folder.name))
    return found


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _last_used(room: Room) -> float:
    return max((path.stat().st_mtime for path in room.folder.iterdir()), default=0.0)
