"""A small state that the processes of one machine share: one file, written under a lock which the kernel releases.

A process killed at any moment leaves the state as it was before its write, or after: the file holds two slots with
checksums, and the older one is written over. Moments in it are of the monotonic clock, which processes share until
the machine restarts; its restart starts a new file.
"""

import fcntl
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import digest


@dataclass(slots=True)
class Draft:
    """What the file holds, as plain JSON values; what it holds at the end is written, if it differs."""

    value: Any


class SharedFile:
    """One state in one file."""

    def __init__(self, path: Path, task: str, *, slot_bytes: int = 4096) -> None:
        """`task` says in errors what the file is for; `slot_bytes`: what the state may take at most."""
        self.path, self._task, self.slot_bytes = path, task, slot_bytes

    @contextmanager
    def draft(self) -> Iterator[Draft | None]:
        """The state, to be changed within: its value is None before the first write. None: somebody else has it.

        Raises:
            ConfigError: the file cannot be read or written, or holds something else.
        """
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._cannot(error) from None
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            number, before = self._newest(file)
            draft = Draft(json.loads(before) if before else None)
            yield draft
            after = json.dumps(draft.value, separators=(",", ":")).encode()
            if after != before:
                self._write(file, number + 1, after)
        finally:
            os.close(file)

    def read(self) -> Any:
        """The newest state that was written whole; None before the first."""
        with self.path.open("rb") as file:
            newest = self._newest(file.fileno())[1]
        return json.loads(newest) if newest else None

    def _newest(self, file: int) -> tuple[int, bytes]:
        """The number and the text of the newest state that was written whole."""
        size = self.slot_bytes
        data = os.pread(file, 2 * size, 0)
        found = [_whole(data[at : at + size]) for at in range(0, len(data), size)]
        whole = [one for one in found if one is not None]
        if data and not whole:
            raise self._cannot(ValueError("it holds something else"))
        return max(whole, default=(0, b""))

    def _write(self, file: int, number: int, text: bytes) -> None:
        told = b"%d %s" % (number, text)
        slot = b"%08x %s" % (zlib.crc32(told), told)
        if len(slot) > self.slot_bytes:
            raise self._cannot(ValueError(f"the state is {len(slot):,} bytes long, and {self.slot_bytes:,} are there"))
        try:
            os.pwrite(file, slot.ljust(self.slot_bytes, b"\0"), number % 2 * self.slot_bytes)
        except OSError as error:
            raise self._cannot(error) from None

    def _cannot(self, error: Exception) -> ConfigError:
        return cannot(self._task, self.path, error)


def cannot(task: str, path: Path, error: Exception) -> ConfigError:
    """What is raised where a shared state cannot be kept."""
    return ConfigError(
        f"{path}: cannot {task} in this file: {error}. The folder must be writable; if the file is damaged, delete it, "
        f"and wait a minute before asking on."
    )


def _whole(slot: bytes) -> tuple[int, bytes] | None:
    checksum, _, told = slot.rstrip(b"\0").partition(b" ")
    number, _, text = told.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(told) or not number.isdigit():
        return None
    return int(number), text


def path_of(kind: str, task: str, url: str, key_env: str | None, folder: Path | None) -> Path | None:
    """The file that all who ask an address with the key of one variable share; None without a folder.

    Raises:
        ConfigError: the folder cannot be made.
    """
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot(task, folder, error) from None
    return folder / f"{kind}-{digest([url, key_env, _boot_id()], n_bytes=8)}"


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def claim(path: Path) -> int:
    """Lock a file of one's own until the process dies or closes what is returned. Raises OSError."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def is_claimed(path: Path) -> bool:
    """True while whoever claimed it lives and has not let go."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
