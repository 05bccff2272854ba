"""The process between a keeper and one server: whatever dies, nothing of the server's tree stays behind.

A server starts workers of its own, in groups and sessions of their own. The guard is their subreaper, so it finds
them all; it ends when its keeper does, however that ends, because the socket between them closes.
"""

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval_pipelines.serving.room import ServerOrder

# in the environment of everything a server starts: what was left behind is recognised by it
MARK = "EVAL_PIPELINES_SERVER"
_GRACE_S = 12.0
_SWEEP_S = 10.0
_TICK_S = 0.2
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STOP = b"stop\n"


@dataclass(slots=True)
class Guard:
    """The keeper's end: the guard's process, and the server's once it runs."""

    pid: int
    line: socket.socket
    server_pid: int | None = None
    returncode: int | None = None
    is_lost: bool = False
    _heard: bytes = b""

    def listen(self) -> None:
        """Take in what the guard said since: the server's pid, then its exit status."""
        while self.returncode is None:
            try:
                data = self.line.recv(256)
            except BlockingIOError:
                return
            except OSError:  # it died with words of ours unread
                data = b""
            if not data:  # killed before it could say how the server ended
                self.returncode, self.is_lost = -signal.SIGKILL, True
            self._heard += data
            *lines, self._heard = self._heard.split(b"\n")
            for line in lines:
                word, _, value = line.decode().partition(" ")
                if word == "runs":
                    self.server_pid = int(value)
                else:
                    self.returncode = int(value)
        self.close()

    def stop(self) -> None:
        """Ask it to end the server: TERM, a grace period, then KILL."""
        try:
            self.line.send(_STOP)
        except OSError:
            pass  # it is gone already

    def close(self) -> None:
        """Reap the guard, and whatever it could not see to the end."""
        if self.line.fileno() < 0:
            return
        self.line.close()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass
        if self.server_pid is not None:
            _signal_group(self.server_pid, signal.SIGKILL)


def start(order: ServerOrder, *, log: Path, mark: str, keep: Collection[int]) -> Guard:
    """Fork a guard that runs one server.

    Args:
        mark: Told to every process of the server, in the variable MARK.
        keep: Open files that stay open in the guard: it holds their locks as long as anything of the server lives.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            status = _guard(order, log, mark, theirs, {*keep, theirs.fileno()})
        finally:
            os._exit(status)
    theirs.close()
    ours.setblocking(False)
    return Guard(pid, ours)


def become_subreaper() -> None:
    """Orphans among this process's descendants become its children instead of PID 1's. Linux only."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: signal.Signals) -> None:
    """In a child before it becomes its program: be sent this signal when the parent dies, however it dies."""
    _prctl(_PR_SET_PDEATHSIG, number)


def sweep(spare: Collection[int] = (), *, timeout_s: float = _SWEEP_S) -> None:
    """Kill and reap every descendant of this process, also those that left the group. Linux only.

    Args:
        spare: Children that are left alone, with all below them.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        strays = [child for child in _children(os.getpid()) if child not in spare]
        if not strays:
            return
        for stray in strays:
            for pid in (stray, *_descendants(stray)):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            try:
                os.waitpid(stray, os.WNOHANG)
            except ChildProcessError:
                pass
        time.sleep(0.02)


def _guard(order: ServerOrder, log: Path, mark: str, line: socket.socket, keep: Collection[int]) -> int:
    os.setsid()
    told_to_stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: told_to_stop.append(received))
    for fd in range(3, 1024):
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass
    become_subreaper()
    try:
        server = _start(order, log, mark)
    except OSError as error:
        log.write_text(f"cannot start {order.argv[0]!r}: {error}\n")
        _tell(line, "ended 127\n")
        return 1
    _tell(line, f"runs {server.pid}\n")
    while server.poll() is None and not told_to_stop:
        if select.select([line], [], [], _TICK_S)[0]:
            break
    # no message means that the keeper died: then nobody waits for a gentle end
    is_gentle = bool(told_to_stop) or (server.poll() is None and _heard_stop(line))
    returncode = _end(server, order.cleanup, grace_s=_GRACE_S if is_gentle else 0.0)
    _tell(line, f"ended {returncode}\n")
    return 0


def _tell(line: socket.socket, text: str) -> None:
    try:
        line.send(text.encode())
    except OSError:
        pass  # the keeper is gone, which the next look at the line shows


def _heard_stop(line: socket.socket) -> bool:
    try:
        return line.recv(len(_STOP)) == _STOP
    except OSError:
        return False


def _start(order: ServerOrder, log: Path, mark: str) -> "subprocess.Popen[bytes]":
    # appending: the log may be cut while the server writes
    with log.open("ab") as file:
        return subprocess.Popen(
            order.argv,
            env={**os.environ, **order.env, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )


def _end(server: "subprocess.Popen[bytes]", cleanup: Sequence[Sequence[str]], *, grace_s: float) -> int:
    """End the server's whole group, then all that left it. Returns the server's exit status."""
    if server.poll() is None and grace_s:
        _signal_group(server.pid, signal.SIGTERM)
        try:
            server.wait(grace_s)
        except subprocess.TimeoutExpired:
            pass
    _signal_group(server.pid, signal.SIGKILL)
    returncode = server.wait()
    for argv in cleanup:
        run_quietly(argv)
    sweep()
    return returncode


def run_quietly(argv: Sequence[str]) -> None:
    """Run a command that ends what a server started elsewhere; that it is gone already is no error."""
    try:
        subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GRACE_S + 5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        pass


def _signal_group(leader: int, number: signal.Signals) -> None:
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        pass


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return found


def _descendants(pid: int) -> list[int]:
    children = _children(pid)
    return [*children, *(below for child in children for below in _descendants(child))]


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
