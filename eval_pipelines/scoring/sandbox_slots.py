"""How many sandboxes run at once on this machine, and what each of them may take in all: shared by every process."""

import fcntl
import os
import pwd
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_FIRST_UID, _NOBODY = 64_000, 65_534  # above people and services
_RETRY_S = 0.02


@dataclass(frozen=True, slots=True)
class Slot:
    """The right to run one program and its tests.

    Attributes:
        program_uid: User of the program, nobody else's while the slot is held; 0 if we are no root.
        tests_uid: User of its tests; likewise.
        members: File that takes the ids of processes whose memory is limited in all; None where that cannot be had.
    """

    program_uid: int
    tests_uid: int
    members: Path | None


@contextmanager
def slot(memory_bytes: int) -> Iterator[Slot]:
    """Wait for one of as many slots as there are cores, and hold it."""
    folder = _folder()
    indexes = list(range(n_slots()))
    random.shuffle(indexes)
    while True:
        for index in indexes:
            descriptor = os.open(folder / f"slot-{index}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            try:
                with _memory_group(index, memory_bytes) as members:
                    yield Slot(*_users(index), members)
            finally:
                os.close(descriptor)
            return
        time.sleep(_RETRY_S)


def n_slots() -> int:
    """Programs judged at once on this machine."""
    return max(1, len(os.sched_getaffinity(0)))


def _folder() -> Path:
    """Where this user's locks are. Raises PermissionError if somebody else made it."""
    folder = Path(tempfile.gettempdir()) / f"eval-pipelines-sandboxes-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
        raise PermissionError(f"{folder} belongs to somebody else: remove it")
    return folder


def _users(index: int) -> tuple[int, int]:
    """Two users that nobody is: processes are counted per user, and root's are not limited."""
    if os.geteuid() != 0:
        return 0, 0
    free = _free_users()
    return free[2 * index], free[2 * index + 1]


@lru_cache
def _free_users() -> list[int]:
    taken = {user.pw_uid for user in pwd.getpwall()}
    return [uid for uid in range(_FIRST_UID, _NOBODY) if uid not in taken]


@contextmanager
def _memory_group(index: int, memory_bytes: int) -> Iterator[Path | None]:
    """A control group that limits the memory of all its members together, where we may make one."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root) / f"eval-pipelines-{os.geteuid()}-{index}"
        try:
            group.mkdir(exist_ok=True)
            (group / limit).write_text(str(memory_bytes))
        except OSError:
            continue
        try:
            yield group / "cgroup.procs"
        finally:
            try:
                group.rmdir()
            except OSError:
                pass  # its last members are still being buried: the next holder of the slot uses it again
        return
    yield None
