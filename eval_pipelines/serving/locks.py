"""Advisory file locks that the kernel releases when their last holder dies, however it dies."""

import asyncio
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class FileLock:
    """One `flock` on one file. Two objects conflict even within one process."""

    def __init__(self, path: Path, *, for_all: bool = False) -> None:
        """`for_all`: other users of the machine may take it too, if they may write in its folder."""
        self.path = path
        self._mode = 0o666 if for_all else 0o600
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        """The open file of a held lock. A process that inherits it holds the lock too, until both have closed it."""
        if self._fd is None:
            raise ValueError(f"{self.path} is not held")
        return self._fd

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Take the lock without waiting; True if it is held now."""
        if self._fd is None:
            self._fd = _open(self.path, self._mode)
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        return True

    async def acquire(self, *, shared: bool = False, every_s: float = 0.05) -> None:
        """Take the lock, waiting for it. Polls, so that cancelling leaves no thread behind."""
        while not self.try_acquire(shared=shared):  # noqa: ASYNC110 - the kernel tells nobody when a flock is let go
            await asyncio.sleep(every_s)

    def release(self) -> None:
        """Let go. Safe to call twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _open(path: Path, mode: int) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
        try:
            os.fchmod(fd, mode)  # whatever the umask
        except PermissionError:
            pass  # another user made it meanwhile
        return fd


def is_held(path: Path) -> bool:
    """True while somebody holds the exclusive lock."""
    if not path.exists():
        return False
    with FileLock(path) as lock:
        return not lock.try_acquire(shared=True)
