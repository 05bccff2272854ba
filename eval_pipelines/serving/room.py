"""The folder through which everybody who needs one server finds it: `<data root>/leases/<server id>/`.

start.lock     held by who may start or stop the server
holders.lock   held shared by every lease; the keeper may stop the server only while nobody holds it
keeper.lock    held by the keeper as long as it lives
order.json     what the keeper shall run (mode 0600: it carries the server's key)
server.json    the running server; exited.json: how the last one ended
server.log     what the server printed
"""

import json
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from eval_pipelines.serving.locks import FileLock, is_held

Note = TypeVar("Note", bound=BaseModel)


class Order(BaseModel):
    """What a keeper shall run. Written by the first lease."""

    model_config = ConfigDict(frozen=True)

    generation: str
    model_key: str
    deployment: str
    argv: list[str]
    env: dict[str, str]
    url: str
    health_url: str
    api_key: str | None
    keep_warm_s: float


class Running(BaseModel):
    """A server that a keeper started."""

    model_config = ConfigDict(frozen=True)

    generation: str
    keeper_pid: int
    server_pid: int
    started_at: str


class Exited(BaseModel):
    """How a server ended."""

    model_config = ConfigDict(frozen=True)

    generation: str
    returncode: int
    was_stopped: bool


class Room:
    """Paths, locks and notes of one server's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "server.log"

    def make(self) -> "Room":
        """Create the folder, readable by its owner only."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self

    def lock(self, name: str) -> FileLock:
        """`start`, `holders` or `keeper`."""
        return FileLock(self.folder / f"{name}.lock")

    def has_keeper(self) -> bool:
        """True while a keeper lives."""
        return is_held(self.folder / "keeper.lock")

    def write(self, note: Order | Running | Exited) -> None:
        """Leave a note: aside, then renamed, so that nobody reads half of it."""
        path = self.folder / f"{type(note).__name__.lower().replace('running', 'server')}.json"
        aside = path.with_suffix(f".tmp-{os.getpid()}")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(note.model_dump_json())
        aside.rename(path)

    def order(self) -> Order | None:
        """What the keeper was told to run."""
        return self._read("order.json", Order)

    def running(self) -> Running | None:
        """The server a living keeper runs."""
        return self._read("server.json", Running) if self.has_keeper() else None

    def exited(self) -> Exited | None:
        """How the last server ended."""
        return self._read("exited.json", Exited)

    def forget_server(self) -> None:
        """The keeper's last act before it stops the server."""
        (self.folder / "server.json").unlink(missing_ok=True)

    def log_lines(self, n: int = 400) -> Sequence[str]:
        """The last lines the server printed, without empty ones."""
        try:
            with self.log.open(errors="replace") as file:
                return [line.rstrip() for line in deque(file, maxlen=n) if line.strip()]
        except FileNotFoundError:
            return []

    def _read(self, name: str, kind: type[Note]) -> Note | None:
        try:
            return kind.model_validate(json.loads((self.folder / name).read_text()))
        except (FileNotFoundError, ValueError):
            return None
