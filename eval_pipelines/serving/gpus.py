"""The GPUs of this machine: which there are, and who uses them.

A GPU in use is a file lock that its server's keeper holds, so a killed server gives it back. Who waits holds a
ticket; the oldest ticket is served first. A model whose server is warm needs no GPU and so does not wait.
"""

import asyncio
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from eval_pipelines.config import Machine
from eval_pipelines.errors import ConfigError
from eval_pipelines.serving.locks import FileLock, is_held

_ASK_DRIVER = ("nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader")
# sizes of parallelism by which backends multiply; experts and decoding contexts share GPUs that others take
_MULTIPLIES = re.compile(
    r"^(?!.*(expert|decode)).*parallel_size$|^(tp|pp|cp|dp)_size$|^(num|n)_(shard|gpus|replicas|nodes)$|_replica$"
)
_EVERY_S = 0.2
_SAY_EVERY_S = 30.0


def devices(machine: Machine, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that may be used: as declared, else as the driver tells and CUDA_VISIBLE_DEVICES allows."""
    if machine.gpus != "auto":
        return machine.gpus
    try:
        told = subprocess.run(_ASK_DRIVER, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if told.returncode != 0:
        return ()
    rows = [[word.strip() for word in line.split(",")] for line in told.stdout.splitlines() if line.strip()]
    allowed = environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return tuple(row[0] for row in rows)
    # one name for each, or two processes would claim one under two names
    index_of = {name: row[0] for row in rows for name in row}
    found: list[str] = []
    for wanted in (one.strip() for one in allowed.split(",")):
        if wanted not in index_of and not re.fullmatch(r"MIG-[\w-]+", wanted):
            break  # as CUDA has it: what follows an unknown one is not visible
        found.append(index_of.get(wanted, wanted))
    return tuple(found)


def check_demand(n: int, n_servers: int, spec: BaseModel, known: Sequence[str], *, deployment: str) -> None:
    """Raises ConfigError, with the arithmetic, for a demand that this machine can never meet."""
    if n * n_servers <= len(known):
        return
    sizes = {
        name: value
        for name, value in spec.model_dump().items()
        if isinstance(value, int) and value > 1 and _MULTIPLIES.search(name)
    }
    product = " * ".join([*(f"{name} {value}" for name, value in sizes.items())])
    each = f"{n} GPU{'s' * (n != 1)}{f' ({product})' if product else ''}"
    servers = f", for each of {n_servers} replicas: {n * n_servers} in all" if n_servers > 1 else ""
    have = f"has {len(known)} ({', '.join(known)})" if known else "has none"
    raise ConfigError(
        f"deployment {deployment!r} needs {each}{servers}; this machine {have}. Lower its parallelism, "
        f"write `gpus: 0` if its server runs on a CPU, or declare what there is as `machine: {{gpus: N}}`."
    )


async def claim(
    n: int, known: Sequence[str], *, folder: Path, who: str, on_wait: Callable[[str], None] = lambda _: None
) -> list[FileLock]:
    """Hold `n` of the known GPUs, waiting in turn. Check the demand first: what can never fit waits for ever.

    Args:
        on_wait: Told now and then why it waits.
    """
    if n == 0:
        return []
    queue = folder / "queue"
    queue.mkdir(parents=True, exist_ok=True)
    path = queue / f"{time.time_ns():020d}-{os.getpid()}.json"
    with FileLock(path.with_suffix(".new"), for_all=True) as ticket:
        ticket.try_acquire()
        os.write(ticket.fd, json.dumps({"n": n, "who": who}).encode())
        ticket.path.rename(path)  # only now: tickets that nobody locks are taken away
        said_at = -_SAY_EVERY_S
        try:
            while True:
                with FileLock(folder / "gpus.lock", for_all=True) as turn:
                    await turn.acquire(every_s=0.01)
                    ahead = [other for other in _waiting(folder) if other < path]
                    if not ahead and (held := _try_hold(n, known, folder)):
                        return held
                if time.monotonic() - said_at >= _SAY_EVERY_S:
                    said_at = time.monotonic()
                    n_free = len(known) - len(in_use(known, folder))
                    on_wait(
                        f"waiting for {n} GPU{'s' * (n != 1)}: {n_free} of {len(known)} are free, {len(ahead)} wait ahead"
                    )
                await asyncio.sleep(_EVERY_S)
        finally:
            path.unlink(missing_ok=True)


def name(lock: FileLock) -> str:
    """The GPU that a lock stands for."""
    return lock.path.stem.removeprefix("gpu-")


def in_use(known: Sequence[str], folder: Path) -> list[str]:
    """Those of the GPUs that a server holds."""
    return [gpu for gpu in known if is_held(_path(folder, gpu))]


def is_anyone_waiting(folder: Path) -> bool:
    """True while somebody waits for GPUs: an idle server that holds some should go at once."""
    return bool(_waiting(folder))


def _waiting(folder: Path) -> list[Path]:
    """Tickets in their order; those of waiters that died are removed."""
    found = []
    for path in sorted((folder / "queue").glob("*.json")):
        if is_held(path):
            found.append(path)
        else:
            path.unlink(missing_ok=True)
    return found


def _try_hold(n: int, known: Sequence[str], folder: Path) -> list[FileLock]:
    held: list[FileLock] = []
    for gpu in known:
        lock = FileLock(_path(folder, gpu), for_all=True)
        if lock.try_acquire():
            held.append(lock)
            if len(held) == n:
                return held
    for lock in held:
        lock.release()
    return []


def _path(folder: Path, gpu: str) -> Path:
    return folder / f"gpu-{gpu}.lock"
