"""Files that are whole or absent: written aside, synced, then named; and the one lock of this room."""

import errno
import fcntl
import itertools
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from eval_pipelines.errors import WarehouseError

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,199}")
_FULL = (errno.ENOSPC, errno.EDQUOT)


def safe_name(what: str, name: str) -> str:
    """`name`, if it can be part of a path. Raises WarehouseError saying what is allowed."""
    if not _SAFE.fullmatch(name) or ".." in name:
        raise WarehouseError(
            f"{name!r} is no usable {what} in a file name: 1 to 200 letters, digits, '.', '_', '@', '+' and '-', "
            f"starting with a letter or digit, without '..'."
        )
    return name


def aside_of(target: Path) -> Path:
    """A hidden name beside a file, for this call alone; what a killed process leaves there is swept after a day."""
    return target.with_name(f".{target.name}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def write_new(
    target: Path, write: Callable[[BinaryIO], None], before_naming: Callable[[Path], None] | None = None
) -> Path:
    """Let `write` fill a file aside, sync it, and give it its name; a reader sees all of it or none.

    Never overwrites: if `target` exists (a step was retried within one run), the file is called `<stem>-2`, `-3` …

    Args:
        before_naming: called with the path aside once the file is whole and synced, before anyone can see it.

    Returns:
        The path it was landed at.

    Raises:
        WarehouseError: the disk is full, or the folder cannot be written; the file aside is removed.
    """
    aside = aside_of(target)
    try:
        make_folder(target.parent)
        try:
            with open(aside, "xb") as sink:
                write(sink)
                sink.flush()
                os.fsync(sink.fileno())
            if before_naming:
                before_naming(aside)
            landed = _name(aside, target)
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(landed.parent)
    except OSError as error:
        raise write_failed(target, error) from error
    return landed


def write_copy(target: Path, fill: Callable[[Path], None], before_naming: Callable[[Path], None] | None = None) -> None:
    """Let `fill` write a copy of an unchanging file aside, sync it, and give it its name; two who do so do no harm.

    Raises:
        WarehouseError: the disk is full, or the folder cannot be written; the file aside is removed.
    """
    aside = aside_of(target)
    try:
        make_folder(target.parent)
        try:
            fill(aside)
            sync_file(aside)
            if before_naming:
                before_naming(aside)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(target.parent)
    except OSError as error:
        raise write_failed(target, error) from error


def _name(aside: Path, target: Path) -> Path:
    """Give the file its final name without replacing anything."""
    for n in itertools.count(1):
        candidate = target if n == 1 else target.with_name(f"{target.stem}-{n}{target.suffix}")
        try:
            os.link(aside, candidate)
            return candidate
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            # A file system without hard links: names carry a run id, so only one process competes for this one.
            if not candidate.exists():
                os.rename(aside, candidate)
                return candidate
    raise AssertionError("unreachable")


def write_failed(path: Path, error: Exception) -> WarehouseError:
    """What to tell the operator when `path` could not be written."""
    folder = next(parent for parent in (path.parent, *path.parents) if parent.exists())
    is_full = getattr(error, "errno", None) in _FULL or "No space left" in str(error)
    if not is_full:
        return WarehouseError(f"{path} could not be written: {error}")
    free = shutil.disk_usage(folder).free
    return WarehouseError(
        f"{path} could not be written: the disk is full ({free:,} bytes free at {folder}). Nothing half-written is "
        f"left behind. Free some space there, then run the same step again: what was answered is not asked twice."
    )


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents so that a power cut does not lose their names."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for part in missing:
        sync_folder(part.parent)


def sync_folder(folder: Path) -> None:
    """fsync a folder: a renamed file's name is safe only after this."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """fsync a file that someone else wrote."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(lock: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold an advisory lock (released by the kernel if we die). Raises WarehouseError after `timeout_s` seconds."""
    make_folder(lock.parent)
    deadline = time.monotonic() + timeout_s
    with open(lock, "a+") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise WarehouseError(
                        f"another process has held {lock} for more than {timeout_s:g} s. Find it with `fuser {lock}`."
                    ) from None
                time.sleep(0.02)
        yield
