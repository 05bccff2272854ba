"""The folder through which everybody who needs one server finds it: `<data root>/leases/<server id>/`.

start.lock     held by who may start or stop the servers
holders.lock   held shared by every lease; the keeper may stop the servers only while nobody holds it
holders/       who holds it: one note each, locked as long as its writer lives
keeper.lock    held by the keeper as long as it lives
order.json     what the keeper shall run (mode 0600: it carries the servers' key)
running.json   what runs; ready.json: which order was seen to work; exited.json: how the last one ended
server-0.log   what the first replica printed, with older ones as server-0.log.1 …
"""

import json
import os
import secrets
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from eval_pipelines.records import utc_now
from eval_pipelines.serving.locks import FileLock, is_held

Note = TypeVar("Note", bound=BaseModel)


class _Note(BaseModel):
    model_config = ConfigDict(frozen=True)


class ServerOrder(_Note):
    """One server to run. `cleanup`: command lines that end what the server started elsewhere, such as a container."""

    argv: list[str]
    env: dict[str, str]
    url: str
    health_url: str
    metrics_url: str | None = None
    gpus: list[str] = []
    cleanup: list[list[str]] = []


class Order(_Note):
    """What a keeper shall run: one server for each replica. Written by the first lease."""

    generation: str
    model_key: str
    fingerprint: str
    deployment: str
    servers: list[ServerOrder]
    api_key: str | None
    keep_warm_s: float
    max_restarts: int
    machine: str
    metric_names: dict[str, str] = {}


class ServerState(_Note):
    """One server: its process while it lives, else how it ended."""

    pid: int | None
    n_starts: int
    returncode: int | None = None


class Running(_Note):
    """The servers that a keeper runs."""

    generation: str
    keeper_pid: int
    started_at: str
    servers: list[ServerState]

    @property
    def n_restarts(self) -> int:
        """How often a server that had died was started again."""
        return sum(server.n_starts - 1 for server in self.servers)


class Ready(_Note):
    """The order whose servers were seen to work, and the model version they were last seen to serve."""

    generation: str


class Exited(_Note):
    """How the servers of an order ended."""

    generation: str
    returncode: int
    was_stopped: bool


class Holder(_Note):
    """Who leases the servers."""

    pid: int
    who: str
    since: str


class Room:
    """Paths, locks and notes of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> "Room":
        """Create the folder, readable by its owner only."""
        (self.folder / "holders").mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        return self

    def log(self, replica: int = 0) -> Path:
        """What a replica prints."""
        return self.folder / f"server-{replica}.log"

    def lock(self, name: str) -> FileLock:
        """`start`, `holders` or `keeper`."""
        return FileLock(self.folder / f"{name}.lock")

    def has_keeper(self) -> bool:
        """True while a keeper lives."""
        return is_held(self.folder / "keeper.lock")

    def write(self, note: Order | Running | Ready | Exited) -> None:
        """Leave a note: aside, then renamed, so that nobody reads half of it."""
        _write(self.folder / f"{type(note).__name__.lower()}.json", note)

    def order(self) -> Order | None:
        """What the keeper was told to run."""
        return _read(self.folder / "order.json", Order)

    def running(self) -> Running | None:
        """The servers a living keeper runs."""
        return _read(self.folder / "running.json", Running) if self.has_keeper() else None

    def last_running(self) -> Running | None:
        """The servers the last keeper ran, whether it lives or not."""
        return _read(self.folder / "running.json", Running)

    def is_ready(self, generation: str) -> bool:
        """True once somebody saw the servers of this order work."""
        ready = _read(self.folder / "ready.json", Ready)
        return ready is not None and ready.generation == generation

    def exited(self) -> Exited | None:
        """How the last order ended."""
        return _read(self.folder / "exited.json", Exited)

    def forget_servers(self) -> None:
        """The keeper's last act before it stops the servers."""
        (self.folder / "running.json").unlink(missing_ok=True)

    def holders(self) -> list[Holder]:
        """Who leases the servers now; notes of those who died are removed."""
        found = []
        for path in sorted(self.folder.glob("holders/*.json")):
            if is_held(path):
                found.append(_read(path, Holder))
            else:
                path.unlink(missing_ok=True)
        return [holder for holder in found if holder is not None]

    def log_lines(self, n: int = 400, *, replica: int = 0) -> Sequence[str]:
        """The last lines a replica printed, without empty ones."""
        try:
            with self.log(replica).open(errors="replace") as file:
                return [line.rstrip() for line in deque(file, maxlen=n) if line.strip()]
        except FileNotFoundError:
            return []


class Hold:
    """One holder's part in a lease: the shared lock that keeps the servers, and a note that says who it is."""

    def __init__(self, room: Room, who: str) -> None:
        self._lock = room.lock("holders")
        self._path = room.folder / "holders" / f"{os.getpid()}-{secrets.token_hex(4)}.json"
        self._note = FileLock(self._path.with_suffix(".new"))
        self._who = who

    async def acquire(self) -> None:
        """Wait for the moment at which the keeper looks whether anybody is there."""
        await self._lock.acquire(shared=True)
        self._say()

    def try_acquire(self) -> bool:
        """True if it is held now. Always so while another holder is there."""
        if not self._lock.try_acquire(shared=True):
            return False
        self._say()
        return True

    def release(self) -> None:
        """Let go. Safe to call twice."""
        self._path.unlink(missing_ok=True)
        self._note.release()
        self._lock.release()

    def _say(self) -> None:
        self._note.try_acquire()
        holder = Holder(pid=os.getpid(), who=self._who, since=utc_now().isoformat(timespec="seconds"))
        os.write(self._note.fd, holder.model_dump_json().encode())
        # renamed only now: who looks for the notes of the dead takes away every one that nobody locks
        self._note.path.rename(self._path)


def _write(path: Path, note: BaseModel) -> None:
    aside = path.with_suffix(f".tmp-{os.getpid()}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(note.model_dump_json())
    aside.rename(path)


def _read(path: Path, kind: type[Note]) -> Note | None:
    try:
        return kind.model_validate(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return None
