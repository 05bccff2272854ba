"""A run that is ended in the middle lets its server go, and keeps what was answered."""

import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from eval_pipelines.serving.reconcile import rooms
from eval_pipelines.serving.room import Running

pytestmark = pytest.mark.slow
SERVER = Path(__file__).parent.parent / "faulty_server.py"


def serve_slowly(project) -> None:
    """A model on a server of our own that takes its time."""
    (project.folder / "weights").write_bytes(b"weights")
    argv = [sys.executable, str(SERVER), "--port", "{port}", "--model", "{model_key}", "--latency-s", "0.4"]
    project.content["deployments"]["local"] = {"backend": "command", "argv": argv, "keep_warm_s": 1, "max_in_flight": 4}
    project.content["models"]["local@a"] = {"deployment": "local", "weights": "weights"}
    project.write()


def wait_until(is_so, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)


def running(project) -> Running | None:
    return next((found for room in rooms(project.data / "leases") if (found := room.running())), None)


def n_journalled(project) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in (project.data / "journal").glob("*.jsonl"))


def family(state: Running) -> list[psutil.Process]:
    server = psutil.Process(state.servers[0].pid)
    return [psutil.Process(state.keeper_pid), psutil.Process(server.ppid()), server]


def assert_gone(processes: list[psutil.Process]) -> None:
    wait_until(lambda: all(not one.is_running() or one.status() == psutil.STATUS_ZOMBIE for one in processes), 40)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_the_server_of_a_run_that_was_ended_goes_and_no_answer_is_lost(project, number: signal.Signals) -> None:
    serve_slowly(project)
    with project.start("evaluate", "--model", "local@a", "--benchmark", "gsm8k") as run:
        wait_until(lambda: n_journalled(project) >= 12)
        processes = family(running(project))
        run.send_signal(number)
        _, told = run.communicate(timeout=60)
    assert run.returncode != 0
    if number is signal.SIGINT:
        assert (
            told.strip().splitlines()[-1]
            == "interrupted: what was answered is kept; the same command asks only the rest"
        )
        assert "Traceback" not in told
    assert n_journalled(project) >= 12
    assert_gone(processes)
    assert running(project) is None
