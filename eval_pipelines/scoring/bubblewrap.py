"""One side of the line, started in a sandbox of bubblewrap.

Source  bubblewrap 0.8, bwrap(1)
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from eval_pipelines.scoring import seccomp

_MIB = 2**20
_INSIDE = Path(__file__).parent / "in_sandbox"
_NAMESPACES = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
_VARIABLES = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}  # noqa: S108


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may take.

    Attributes:
        cpu_s: Seconds of processor time, each process.
        wall_s: Seconds from the moment it is handed over to the verdict.
        memory_mb: Address space of each process; of all together, too, where control groups can be had.
        file_mb: Size of one file. What can be written to is memory and ends with the sandbox.
    """

    cpu_s: int = 5
    wall_s: int = 20
    memory_mb: int = 512
    file_mb: int = 16
    n_processes: int = 32
    n_files: int = 64


def interpreter() -> Path:
    """This interpreter, without its virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def start(
    ends: ExitStack,
    side: str,
    limits: Limits,
    *,
    uid: int,
    members: Path | None,
    stdin: int,
    stdout: int,
    stderr: int,
    keep: tuple[int, ...] = (),
) -> "subprocess.Popen[bytes]":
    """Start `in_sandbox/<side>.py`; killed at the end of `ends`, with all that it left behind.

    Args:
        uid: the user it becomes, if we are root.
        members: file that takes its process id, so that its memory is limited together with its children's.
        keep: descriptors it inherits, told in its argv.
    """
    # bwrap reads it to its end: none can be read twice
    filter_file = memory_file(ends, _filter())
    told = {
        "cpu_s": limits.cpu_s if side == "program" else limits.wall_s,
        "memory_bytes": limits.memory_mb * _MIB,
        "file_bytes": limits.file_mb * _MIB,
        "n_processes": limits.n_processes,
        "n_files": limits.n_files,
        "uid": uid,
    }
    run = f"import sys; sys.path.insert(0, '/judge'); from in_sandbox.{side} import main; main()"
    python = [str(interpreter()), "-I", "-S", "-B", "-X", "utf8", "-c", run, json.dumps(told), *map(str, keep)]
    command = [shutil.which("bwrap") or "bwrap", *_options(), "--seccomp", str(filter_file), "--", *python]
    if members is not None:
        command = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(members), *command]
    # bwrap's process becomes the sandbox's first: what it is started with can be read in /proc there
    process = subprocess.Popen(
        command, env={}, cwd="/", stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=(filter_file, *keep)
    )
    ends.callback(_end, process)
    return process


def memory_file(ends: ExitStack, content: bytes) -> int:
    """A file in memory, to be read from its start."""
    descriptor = os.memfd_create("eval-pipelines", os.MFD_CLOEXEC)
    ends.callback(os.close, descriptor)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@lru_cache
def _filter() -> bytes:
    return seccomp.assemble(platform.machine())


@lru_cache
def _options() -> tuple[str, ...]:
    """All that is the same for every program."""
    is_root = os.geteuid() == 0
    mine = [] if is_root else ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    # as root: no more than what it takes to become somebody else
    kept = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if is_root else []
    variables = [word for name, value in _VARIABLES.items() for word in ("--setenv", name, value)]
    return (
        *_NAMESPACES, *mine, "--die-with-parent", "--new-session", "--hostname", "sandbox",
        "--clearenv", *variables, "--cap-drop", "ALL", *kept,
        "--ro-bind", "/usr", "/usr", *_libraries(), *_beside_usr(interpreter(), Path(sys.base_prefix).resolve()),
        "--perms", "0755", "--dir", "/judge", "--ro-bind", str(_INSIDE), "/judge/in_sandbox",
        "--proc", "/proc", "--dev", "/dev", "--size", str(_MIB), "--perms", "1777", "--tmpfs", "/dev/shm",  # noqa: S108
        "--remount-ro", "/dev", "--size", str(64 * _MIB), "--perms", "1777", "--tmpfs", "/tmp",  # noqa: S108
        "--chdir", "/tmp", "--remount-ro", "/",  # noqa: S108
    )  # fmt: skip


def _libraries() -> list[str]:
    """/lib and its like, which most systems keep in /usr."""
    words: list[str] = []
    for path in map(Path, ("/bin", "/lib", "/lib64")):
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    return words


def _beside_usr(python: Path, prefix: Path) -> list[str]:
    """The interpreter's folder, where it is not in /usr; folders above it are made readable, and empty."""
    if prefix.is_relative_to("/usr") and python.is_relative_to("/usr"):
        return []
    above = [word for path in list(reversed(prefix.parents))[1:] for word in ("--perms", "0755", "--dir", str(path))]
    return [*above, "--ro-bind", str(prefix), str(prefix)]
