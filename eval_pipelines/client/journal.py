"""Answers as they arrive, on disk before they are counted.

One file per evaluation, one JSON line per answer. A line is written with one system call to a file opened
for appending, so a kill -9 at any moment leaves at most a torn last line, which readers skip. Failures are
not written: they cost nothing to ask again.

What a killed run leaves is taken over by the next evaluation of the same model version that wants it, under whatever
name it was written.
"""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from eval_pipelines.errors import WarehouseError
from eval_pipelines.records import Place, Response

_SYNC_EVERY_S = 1.0  # what a power loss may cost; a killed process loses nothing


class Journal:
    """The answers of one evaluation. Use as a context manager; one process at a time holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._synced_at = 0.0
        self._end = 0

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Open for appending and take the lock. Raises BlockingIOError while another process holds it.

        Raises:
            WarehouseError: the file cannot be made or opened.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise not_opened(self.path, error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink == 0:  # its last holder landed and removed it while we waited
                raise BlockingIOError(errno.EAGAIN, "the journal was just removed")
            self._drop_torn_line(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._end = fd, os.fstat(fd).st_size

    def close(self) -> None:
        """Sync and release. Safe to call twice. Raises WarehouseError when the disk says only now that it is full."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            try:
                if os.fstat(fd).st_nlink:  # a removed one is landed: there is nothing to keep
                    os.fsync(fd)
            except OSError as error:
                raise not_written(self.path, error) from error
            finally:
                os.close(fd)

    def append(self, response: Response, place: Place | None = None) -> None:
        """Write one answer. Raises WarehouseError when the disk is full; what is written stays readable.

        Args:
            place: where the answer belongs, so that it can be landed without its request at hand.
        """
        assert self._fd is not None, "the journal is not open"
        line = response.model_dump_json(exclude_none=True).encode()
        if place is not None:
            line = b'%s,"place":%s}' % (line[:-1], json.dumps(place).encode())
        line += b"\n"
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if time.monotonic() - self._synced_at >= _SYNC_EVERY_S:
                os.fsync(self._fd)  # some disks only say here that they are full
                self._synced_at = time.monotonic()
        except OSError as error:
            os.ftruncate(self._fd, self._end)
            raise not_written(self.path, error) from error
        self._end += len(line)  # nobody else writes: asking the file each time costs as much as the write

    def answers(self) -> dict[str, Response]:
        """Every answer written so far, by request digest."""
        return {response.request_digest: response for response in read(self.path)}

    def move(self, to: "Journal", which: Callable[[str], bool], wants: Callable[[Response], bool | None]) -> None:
        """Move answers to another journal; both are held. One is there before it is gone here: a kill doubles it at most.

        Args:
            which: by request digest, whether to look at an answer at all.
            wants: True: move it. False: drop it. None: leave it.

        Raises:
            WarehouseError: the disk is full. Nothing is lost.
        """
        aside, gone, n_lines = self.path.with_suffix(".left"), set(), 0
        try:
            with self.path.open("rb") as file:
                for n_lines, line in enumerate(file, 1):
                    # what another release wrote, and this one cannot read, stays
                    with suppress(ValueError, TypeError, AttributeError):
                        told = json.loads(line)
                        if not which(told.get("request_digest")):
                            continue
                        told.pop("place", None)  # it may be asked at another one now
                        response = Response.model_validate(told)
                        if (wanted := wants(response)) is None:
                            continue
                        if wanted:
                            to.append(response)
                        gone.add(n_lines)
            if gone:
                to.sync()
            if len(gone) == n_lines:
                self.remove()
            elif gone:
                with self.path.open("rb") as file, aside.open("wb") as left:
                    left.writelines(line for n, line in enumerate(file, 1) if n not in gone)
                    left.flush()
                    os.fsync(left.fileno())
                aside.replace(self.path)
        except OSError as error:
            aside.unlink(missing_ok=True)  # nobody else's: it is only ever written by who holds this journal
            raise not_written(self.path, error) from error

    def sync(self) -> None:
        """See that what is written outlives a power loss. Raises OSError."""
        assert self._fd is not None, "the journal is not open"
        os.fsync(self._fd)

    def remove(self) -> None:
        """Delete the file: its answers are landed. Only while open, so that nobody else is appending."""
        assert self._fd is not None, "the journal is not open"
        self.path.unlink(missing_ok=True)

    @staticmethod
    def _drop_torn_line(fd: int) -> None:
        # appending after a torn line would glue the next answer to it
        size = os.fstat(fd).st_size
        position = size
        while position > 0:
            start = max(0, position - 65536)
            newline = os.pread(fd, position - start, start).rfind(b"\n")
            if newline >= 0:
                os.ftruncate(fd, start + newline + 1)
                return
            position = start
        os.ftruncate(fd, 0)


@contextmanager
def unheld(paths: Iterable[Path]) -> Iterator[list[Journal]]:
    """Those of these journals that are there and that nobody holds: held until the context closes."""
    with ExitStack() as stack:
        found = []
        for path in paths:
            with suppress(BlockingIOError):
                if path.exists():
                    found.append(stack.enter_context(Journal(path)))
        yield found


def read(path: Path) -> Iterator[Response]:
    """The whole lines of a journal. A line that is not a response ends nothing: it is skipped."""
    return (response for _, response in entries(path))


def entries(path: Path) -> Iterator[tuple[Place | None, Response]]:
    """The whole lines of a journal with the places of their answers; None where none was written."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            try:
                told = json.loads(line)
                place = told.pop("place", None)
                yield place and Place(*place), Response.model_validate(told)
            except (ValueError, TypeError, AttributeError):
                continue


def not_opened(path: Path, error: OSError) -> WarehouseError:
    """What to raise for a journal, or a file beside it, that cannot be made or opened."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return not_written(path, error)
    return WarehouseError(
        f"cannot open the journal {path}: {error.strerror}. Its folder must be one that this user may write to, and the "
        f"file this user's own: if somebody else's run left it, materialize as that user, or change its owner."
    )


def not_written(path: Path, error: OSError) -> WarehouseError:
    return WarehouseError(
        f"could not write {path}: {error.strerror}; {_free(path)}. Free some space (or point data_root elsewhere) and "
        f"materialize again: every answer up to here is kept and not asked again."
    )


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free there"
    except OSError:
        return "the disk could not be asked how much is free"
