"""What a crash left is put right, and nothing else is touched."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from eval_pipelines.serving.guard import MARK
from eval_pipelines.serving.reconcile import reconcile
from eval_pipelines.serving.room import Hold, Room, Running, ServerState
from tests.serving.test_servers import borrow, deployment, is_alive, model, program, room_of, until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
RUNNING = Running(
    generation="g", keeper_pid=1, started_at="2026-01-01T00:00:00+00:00", servers=[ServerState(pid=1, n_starts=1)]
)


def room(tmp_path: Path) -> Room:
    return Room(tmp_path / "leases" / "mock-a-1").make()


def test_a_worker_whose_keeper_is_gone_is_killed_and_only_that(tmp_path) -> None:
    left = room(tmp_path)
    left.write(RUNNING)
    with (
        subprocess.Popen(SLEEP, env={**os.environ, MARK: f"{left.folder}:g"}) as orphan,
        subprocess.Popen(SLEEP, env={**os.environ, MARK: f"{left.folder}-other:g"}) as another,
        subprocess.Popen(SLEEP) as unrelated,
    ):
        until_started = time.monotonic() + 5
        while psutil.Process(orphan.pid).environ().get(MARK) is None and time.monotonic() < until_started:
            time.sleep(0.01)
        done = reconcile(tmp_path / "leases")
        assert done.killed == {orphan.pid: "mock-a-1"}
        assert orphan.wait(5) == -signal.SIGKILL
        assert (another.poll(), unrelated.poll()) == (None, None)
        another.kill()
        unrelated.kill()
    assert done.forgotten == ("mock-a-1",)
    assert left.last_running() is None


@pytest.mark.slow
async def test_a_leased_server_is_left_alone(tmp_path) -> None:
    how = deployment()
    async with borrow(tmp_path, how):
        assert not reconcile(tmp_path / "leases")
        assert is_alive(room_of(tmp_path, how).running().servers[0].pid)


@pytest.mark.slow
async def test_where_keeper_and_guard_are_killed_at_once_the_worker_left_behind_goes(tmp_path) -> None:
    # a worker in a session of its own, which no group signal reaches
    family = "import subprocess, sys\n"
    family += "w = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    family += (
        f"open({str(tmp_path / 'worker')!r}, 'w').write(str(w.pid))\nimport runpy; sys.argv = ['x', *sys.argv[1:]]\n"
    )
    family += f"runpy.run_path({str(Path(__file__).parent.parent / 'faulty_server.py')!r}, run_name='__main__')"
    how = deployment("max_restarts: 0", program(tmp_path, family))
    async with borrow(tmp_path, how):
        running = room_of(tmp_path, how).running()
        worker, server = int((tmp_path / "worker").read_text()), running.servers[0].pid
        guard = psutil.Process(server).ppid()
        for pid in (running.keeper_pid, guard):
            os.kill(pid, signal.SIGSTOP)  # both at once: neither may see the other die
        for pid in (guard, running.keeper_pid):
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not is_alive(server))
    assert is_alive(worker)
    assert reconcile(tmp_path / "leases").killed == {worker: room_of(tmp_path, how, model()).folder.name}
    await until(lambda: not is_alive(worker))


def test_logs_are_kept_for_thirty_days_after_their_last_use(tmp_path) -> None:
    old = room(tmp_path)
    old.log().write_text("loading")
    assert not reconcile(tmp_path / "leases", now=time.time() + 29 * 86400)
    assert old.log().exists()
    assert reconcile(tmp_path / "leases", now=time.time() + 31 * 86400).removed == ("mock-a-1",)
    assert not old.folder.exists()


def test_the_note_of_a_holder_that_died_is_taken_away(tmp_path) -> None:
    its = room(tmp_path)
    dead = its.folder / "holders" / "99-dead.json"
    dead.write_text('{"pid": 99, "who": "run 1", "since": "2026-01-01T00:00:00"}')
    alive = Hold(its, "run 2")
    assert alive.try_acquire()
    assert [holder.who for holder in its.holders()] == ["run 2"]
    assert not dead.exists()
    alive.release()
    assert its.holders() == []
