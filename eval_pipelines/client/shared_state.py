"""A small state that all processes of a machine share, in one file.

It is written under a lock that the kernel releases, into the slot that is not the newest: a process killed at any
moment leaves the state as it was before or after its change, and no lock.
"""

import errno
import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SLOT_BYTES = 4096


@contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """The open file, for this process alone; None while another has it. Raises OSError where it cannot be opened."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file
    finally:
        os.close(file)


def read(file: int) -> tuple[int, dict[str, Any] | None]:
    """The newest state that was written whole, and its number; None in a new file. Raises ValueError: it is damaged."""
    text = os.pread(file, 2 * SLOT_BYTES, 0)
    found = [_told_in(text[at : at + SLOT_BYTES]) for at in range(0, len(text), SLOT_BYTES)]
    whole = [told for told in found if told is not None]
    if text and not whole:
        raise ValueError("it holds something else")
    newest = max(whole, key=lambda told: int(told["number"]), default=None)
    return (0, None) if newest is None else (int(newest["number"]), newest)


def write(file: int, number: int, told: Mapping[str, Any]) -> None:
    """Make this the newest state; `number` is one more than that which was read. Raises OSError."""
    text = json.dumps({"number": number, **told}, separators=(",", ":")).encode()
    slot = b"%08x %s" % (zlib.crc32(text), text)
    if len(slot) > SLOT_BYTES:
        raise OSError(errno.EFBIG, "more than fits into its slot")
    os.pwrite(file, slot.ljust(SLOT_BYTES, b"\0"), number % 2 * SLOT_BYTES)


def _told_in(slot: bytes) -> dict[str, Any] | None:
    checksum, _, text = slot.partition(b"\0")[0].partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    told: dict[str, Any] = json.loads(text)
    return told
