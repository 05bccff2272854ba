"""A small state that the processes of one machine share: one file, written under a lock which the kernel releases.

A process killed at any moment leaves the state as it was before its write, or after: the file holds two slots with
checksums, and the older one is written over. Where moments in it are of the monotonic clock, which processes share
until the machine restarts, `boot_id` belongs to what names the file.
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

    def __init__(
        self,
        path: Path,
        task: str,
        *,
        slot_bytes: int = 4096,
        sync_every: int = 0,
        deleted: str = ", and wait a minute before asking on",
    ) -> None:
        """
        Args:
            task: What the file is for, in errors; `deleted`: what follows there on the advice to delete it.
            slot_bytes: What the state may take at most.
            sync_every: So many writes may be lost with the machine; 0: all of them.
        """
        self.path, self._task, self._deleted = path, task, deleted
        self.slot_bytes, self._sync_every = slot_bytes, sync_every

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
        """The newest state that was written whole; None before the first. Raises ConfigError."""
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise self._cannot(error) from None
        with file:
            newest = self._newest(file.fileno())[1]
        return json.loads(newest) if newest else None

    def _newest(self, file: int) -> tuple[int, bytes]:
        """The number and the text of the newest state that was written whole."""
        size = self.slot_bytes
        try:
            data = os.pread(file, 2 * size, 0)
        except OSError as error:
            raise self._cannot(error) from None
        found = [_whole(data[at : at + size]) for at in range(0, len(data), size)]
        whole = [one for one in found if one is not None]
        # a file that grew, and whose bytes were lost with the machine, is all zeros: as good as new
        if data.strip(b"\0") and not whole:
            raise self._cannot(ValueError("it holds something else"))
        return max(whole, default=(0, b""))

    def _write(self, file: int, number: int, text: bytes) -> None:
        told = b"%d %s" % (number, text)
        slot = b"%08x %s" % (zlib.crc32(told), told)
        if len(slot) > self.slot_bytes:
            raise self._cannot(ValueError(f"the state is {len(slot):,} bytes long, and {self.slot_bytes:,} are there"))
        try:
            os.pwrite(file, slot.ljust(self.slot_bytes, b"\0"), number % 2 * self.slot_bytes)
            if self._sync_every and number % self._sync_every == 0:
                os.fdatasync(file)
        except OSError as error:
            raise self._cannot(error) from None

    def _cannot(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"{self.path}: cannot {self._task} in this file: {error}. The folder must be writable; if the file is "
            f"damaged, delete it{self._deleted}."
        )


def _whole(slot: bytes) -> tuple[int, bytes] | None:
    checksum, _, told = slot.rstrip(b"\0").partition(b" ")
    number, _, text = told.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(told) or not number.isdigit():
        return None
    return int(number), text


def path_of(kind: str, task: str, key: Any, folder: Path | None) -> Path | None:
    """The file that all share who have the same key, a JSON value; None without a folder.

    Raises:
        ConfigError: the folder cannot be made.
    """
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot {task} in this folder: {error}. It must be writable.") from None
    return folder / f"{kind}-{digest(key, n_bytes=8)}"


@cache
def boot_id() -> str:
    """One for each start of the machine; empty where the system does not tell."""
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
