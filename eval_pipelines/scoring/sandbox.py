"""Model-written programs judged by their tests, where they can harm nobody and cannot forge the verdict.

A program and its tests run in two sandboxes of bubblewrap, each with namespaces of its own: no network, nothing of this
machine but its libraries (read-only), no environment, limits on processor time, memory, files, processes and wall time,
and a seccomp filter. A line joins the two: the tests call the program's functions over it and compare what comes back in
their own interpreter (`in_sandbox/`). The verdict goes to us from the tests' side, which the program cannot see.
"""

import json
import os
import platform
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from eval_pipelines.errors import NoSandboxError, SandboxError
from eval_pipelines.scoring import seccomp
from eval_pipelines.scoring.bubblewrap import Limits, interpreter, memory_file, start
from eval_pipelines.scoring.sandbox_slots import n_slots, slot

# bumped when the same program may get another verdict
_JUDGING = 2
_START_S = 60.0  # that a sandbox may take to start on a machine under load
_SIGNALLED = 128
_SIGKILL, _SIGXCPU = 9, 24


@dataclass(frozen=True, slots=True)
class Job:
    """A program, and the tests that judge it.

    Attributes:
        program: What the model wrote.
        tests: Code of the benchmark; the program passes if it runs to its end.
        setup: Code of the benchmark that the tests need: imports and helpers. Never the program's.
        before_program: Code of the benchmark that is run before the program, in its process.
        after_program: The same, behind it.
        asked: Names that the tests take from the program, which fails without them. No others are.
    """

    program: str
    tests: str
    setup: str = ""
    before_program: tuple[str, ...] = ()
    after_program: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict on a program, and why."""

    passed: bool
    reason: str


def judging_version() -> list[str]:
    """What verdicts depend on beside the program, its tests and the limits."""
    return [str(_JUDGING), f"Python {sys.version_info.major}.{sys.version_info.minor}"]


def judge_all(jobs: Iterable[Job], limits: Limits) -> list[Outcome | SandboxError]:
    """Verdicts in the order of the jobs, on all cores; the error where a sandbox broke. Raises NoSandboxError."""
    require()
    with ThreadPoolExecutor(n_slots(), thread_name_prefix="sandbox") as threads:
        return list(threads.map(lambda job: _judge_or_error(job, limits), jobs))


def _judge_or_error(job: Job, limits: Limits) -> Outcome | SandboxError:
    try:
        return judge(job, limits)
    except SandboxError as error:
        return error


def judge(job: Job, limits: Limits) -> Outcome:
    """One verdict. A program that takes too long, too much, or ends early has failed.

    Raises:
        SandboxError: the sandbox itself broke, or the tests cannot be asked. Nothing is known of the program.
    """
    with ExitStack() as ends:
        held = ends.enter_context(slot(limits.memory_mb * 2**20))
        to_program, from_tests = os.pipe()
        from_program, to_tests = os.pipe()
        line = [to_program, from_tests, from_program, to_tests]
        ends.callback(_close, line)
        complaints = memory_file(ends, b"")
        program = start(
            ends, "program", limits, uid=held.program_uid, members=held.members,
            stdin=to_program, stdout=to_tests, stderr=complaints,
        )  # fmt: skip
        tests = start(
            ends, "tests", limits, uid=held.tests_uid, members=None, keep=(from_tests, from_program),
            stdin=memory_file(ends, json.dumps(asdict(job)).encode()), stdout=subprocess.PIPE, stderr=complaints,
        )  # fmt: skip
        _close(line)  # theirs alone now: where one ends, the other hears it
        told = _hear(tests, limits)
        if told["passed"] is False and told["reason"] == "ended":
            return Outcome(False, _why_it_ended(program))
        if told["passed"] is None:
            raise SandboxError(told["reason"] or f"the sandbox did not start: {_read(complaints) or 'no word why'}")
        return Outcome(told["passed"] is True, str(told["reason"]))


@lru_cache
def require() -> None:
    """Have a program look around in the sandbox, once per process.

    Raises:
        NoSandboxError: there is none here, or it is not tight; says what to install or allow.
    """
    if sys.platform != "linux" or platform.machine() not in seccomp.architectures():
        raise NoSandboxError(f"the sandbox is made for Linux on {' and '.join(seccomp.architectures())}")
    if shutil.which("bwrap") is None:
        raise NoSandboxError("bubblewrap is not installed: `apt-get install bubblewrap`, `dnf install bubblewrap`")
    try:
        canary = f"INTERPRETER = {str(interpreter())!r}\n{_CANARY}"
        seen = judge(Job(canary, "seen = look()\nassert seen == [], seen", asked=("look",)), Limits())
    except (SandboxError, OSError) as error:
        raise NoSandboxError(
            f"{error}. Without root it needs user namespaces (sysctl kernel.unprivileged_userns_clone=1 and "
            f"kernel.apparmor_restrict_unprivileged_userns=0; in a container, a seccomp profile that allows them), "
            f"bubblewrap 0.8 or newer, and an interpreter that this user may read ({interpreter()})"
        ) from None
    if not seen.passed:
        raise NoSandboxError(f"the sandbox is not tight: {seen.reason}")


# each thing it finds is a hole
_CANARY = """
import os, socket
def look():
    found = [f"the variable {name}" for name in os.environ if name not in ("PATH", "HOME", "LANG", "PWD")]
    for path in ("/etc", "/home", "/root", "/sys", "/var", "/run", "/mnt", "/opt", "/srv"):
        if os.path.isdir(path) and os.access(path, os.R_OK):
            found += [f"{path}/{name} is there" for name in os.listdir(path) if not INTERPRETER.startswith(f"{path}/{name}/")]
    for path in ("/usr/x", "/x", "/dev/x", "/judge/x"):
        try:
            open(path, "w").close()
            found.append(f"{path} can be written")
        except OSError:
            pass
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
        try:
            socket.socket(family)
            found.append(f"{family.name} can be opened")
        except OSError:
            pass
    if 0 in os.getresuid():
        found.append("it is root")
    try:
        with open("/proc/1/environ") as file:
            found += [f"its parent's {one}" for one in file.read().split(chr(0)) if one.split("=")[0] not in ("", "PWD")]
    except PermissionError:
        pass
    found += [f"process {number}" for number in os.listdir("/proc") if number.isdigit() and int(number) > 9]
    return found
"""


def _hear(tests: "subprocess.Popen[bytes]", limits: Limits) -> dict[str, Any]:
    """The verdict as the tests' side tells it; `passed` is None if it came to none for no fault of the program."""
    assert tests.stdout is not None, "it is a pipe"
    descriptor, heard = tests.stdout.fileno(), b""
    deadline, is_running = time.monotonic() + _START_S, False
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if not poll.poll(left * 1000):
            continue
        chunk = os.read(descriptor, 65536)
        if not chunk:
            break
        heard += chunk
        *lines, heard = heard.split(b"\n")
        for message in map(json.loads, lines):
            if "passed" in message:
                return {"passed": message["passed"], "reason": message["reason"]}
            if message["state"] == "asked":
                deadline, is_running = time.monotonic() + limits.wall_s, True
    if not is_running:
        return {"passed": None, "reason": None}
    return {"passed": False, "reason": "timed out" if left <= 0 else "its answers ended its tests"}


def _why_it_ended(program: "subprocess.Popen[bytes]") -> str:
    try:
        status = program.wait(timeout=2)
    except subprocess.TimeoutExpired:
        return "it hung up on its tests"
    if status == _SIGNALLED + _SIGXCPU:
        return "timed out"
    if status == _SIGNALLED + _SIGKILL:
        return "killed: out of memory or time"
    return f"ended by signal {status - _SIGNALLED}" if status > _SIGNALLED else f"ended itself with status {status}"


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _read(complaints: int) -> str:
    os.lseek(complaints, 0, os.SEEK_SET)
    return os.read(complaints, 2000).decode(errors="replace").strip()
