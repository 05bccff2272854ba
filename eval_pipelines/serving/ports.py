"""Ports of loopback for the servers of this machine, given out so that no two starts race for one.

A reserved port is a file lock, handed on to the server's keeper. The range lies below the one from which the
kernel takes ports for outgoing connections (32768 on Linux), so no other program gets one by chance.
"""

import socket
import zlib
from collections.abc import Sequence
from pathlib import Path

from eval_pipelines.errors import ConfigError, ServingError
from eval_pipelines.serving.locks import FileLock, is_held

FIRST, LAST = 20_000, 31_999


def reserve(n: int, *, host: str, folder: Path, hint: str) -> list[FileLock]:
    """Hold `n` consecutive ports that nobody uses. `hint` says where to begin, so that a server tends to get its old ones.

    Raises:
        ServingError: no `n` free ports in a row.
    """
    span = LAST - FIRST + 1 - n
    start = zlib.crc32(hint.encode()) % span
    for offset in range(span):
        first = FIRST + (start + offset) % span
        held = _try_hold(range(first, first + n), host=host, folder=folder)
        if held:
            return held
    raise ServingError(f"no {n} free ports in a row on {host} between {FIRST} and {LAST}")


def reserve_fixed(port: int, n: int, *, host: str, folder: Path, deployment: str) -> list[FileLock]:
    """Hold the ports from `port` on, which the operator chose. Raises ConfigError if one is taken."""
    held = _try_hold(range(port, port + n), host=host, folder=folder)
    if not held:
        raise ConfigError(
            f"deployment {deployment!r}: port {port}{f' to {port + n - 1}' if n > 1 else ''} on {host} is taken by "
            f"another program. Leave `port` out to get any free one, or stop the other program "
            f"(`ss -ltnp 'sport = :{port}'` names it)."
        )
    return held


def is_reserved(port: int, n: int, *, folder: Path) -> bool:
    """True while a server of ours holds one of these ports."""
    return any(is_held(folder / f"port-{each}.lock") for each in range(port, port + n))


def number(lock: FileLock) -> int:
    """The port that a lock stands for."""
    return int(lock.path.stem.removeprefix("port-"))


def _try_hold(ports: Sequence[int], *, host: str, folder: Path) -> list[FileLock]:
    held: list[FileLock] = []
    for port in ports:
        lock = FileLock(folder / f"port-{port}.lock", for_all=True)
        if not lock.try_acquire() or not _is_free(host, port):
            for one in (*held, lock):
                one.release()
            return []
        held.append(lock)
    return held


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError:
            return False
    return True
