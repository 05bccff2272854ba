"""Servers that die, multiply, and compete for GPUs: real processes, real locks."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.report import AskReport
from eval_pipelines.config import Config, Machine
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import ConfigError, StartError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.records import Request
from eval_pipelines.serving.lease import lease, server_id
from eval_pipelines.serving.room import Room

SERVER = Path(__file__).parent.parent / "faulty_server.py"
ARGV = [sys.executable, str(SERVER), "--port", "{port}", "--model", "{model_key}"]
pytestmark = pytest.mark.slow


def model(name: str = "mock") -> Model:
    return Model(ModelKey(name, "a"), "one", "f00d", Path(__file__))


def deployment(text: str = "keep_warm_s: 0.5", argv: list[str] = ARGV):
    config = Config.parse(
        f"deployments: {{one: {{backend: command, argv: {argv!r}, {text}}}}}", path=Path("/nowhere/evals.yaml")
    )
    return config.deployment("one")


def program(tmp_path: Path, text: str, *args: str) -> list[str]:
    """The command line of a server written for one test."""
    script = tmp_path / "server.py"
    script.write_text(text)
    return [sys.executable, str(script), *args, *ARGV[2:]]


def borrow(
    tmp_path: Path, how, *, of: Model | None = None, gpus: tuple[str, ...] = (), on_wait=lambda _: None, environ=None
):
    machine = Machine(gpus=gpus, folder=tmp_path / "machine")
    return lease(
        of or model(),
        how,
        needs=("chat",),
        leases=tmp_path / "leases",
        secrets_=environ or {},
        machine=machine,
        on_wait=on_wait,
    )


def room_of(tmp_path: Path, how, of: Model | None = None) -> Room:
    return Room(tmp_path / "leases" / server_id(of or model(), how))


def is_alive(pid: int) -> bool:
    # a zombie counts as gone: PID 1 reaps when it likes
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until(is_so, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that in time"
        await asyncio.sleep(0.05)


def questions(n: int) -> list[Request]:
    return [
        Request(
            sample_id=f"s/{i}", subtask="s", operation="chat", messages=({"role": "user", "content": f"question {i}"},),
            params={"max_tokens": 4},
        )
        for i in range(n)
    ]  # fmt: skip


async def ask_all(
    tmp_path: Path, endpoint: Endpoint, n: int, *, on_outcome=lambda request, response: None
) -> AskReport:
    journal = Journal(tmp_path / f"{n}.jsonl")
    journal.open()
    try:
        return await ask(questions(n), n, endpoint, journal=journal, limits=Limits(8, 3, 0.0), on_outcome=on_outcome)
    finally:
        journal.close()


def pids(tmp_path: Path, how) -> list[int]:
    running = room_of(tmp_path, how).running()
    assert running is not None
    return [server.pid for server in running.servers if server.pid]


# a server that dies while it is asked


async def test_a_server_that_dies_while_it_is_asked_comes_back_and_every_question_is_answered(tmp_path) -> None:
    how = deployment("keep_warm_s: 0.5")
    async with borrow(tmp_path, how) as endpoint:
        [first] = pids(tmp_path, how)
        n_seen = 0

        def kill_once(_request, _response) -> None:
            nonlocal n_seen
            n_seen += 1
            if n_seen == 50:
                os.kill(first, signal.SIGKILL)

        report = await ask_all(tmp_path, endpoint, 400, on_outcome=kill_once)
        assert (report.n_answered, report.n_failed) == (400, 0)
        assert pids(tmp_path, how) != [first]
        assert room_of(tmp_path, how).running().n_restarts == 1


async def test_a_server_that_keeps_dying_fails_the_lease_with_its_last_words_and_keeps_what_was_answered(
    tmp_path,
) -> None:
    # it dies at the tenth question of each life
    dies = textwrap.dedent(f"""
        import os, runpy, sys, threading, time, urllib.request, json
        port = sys.argv[sys.argv.index("--port") + 1]
        def watch():
            while True:
                time.sleep(0.02)
                try:
                    seen = json.load(urllib.request.urlopen(f"http://127.0.0.1:{{port}}/stats"))["n_prompts"]
                except OSError:
                    continue
                if seen > 10:
                    print("CUDA error: out of memory", flush=True)
                    os._exit(9)
        threading.Thread(target=watch, daemon=True).start()
        sys.argv = [{str(SERVER)!r}, *sys.argv[1:]]
        runpy.run_path({str(SERVER)!r}, run_name="__main__")
    """)
    how = deployment("max_restarts: 1", program(tmp_path, dies))
    with pytest.raises(StartError) as caught:
        async with borrow(tmp_path, how) as endpoint:
            await ask_all(tmp_path, endpoint, 5000)
    assert "ended with status 9 while it was asked, after 1 restarts (max_restarts)" in str(caught.value)
    assert "not enough memory" in str(caught.value)
    journal = Journal(tmp_path / "5000.jsonl")
    journal.open()
    try:
        assert len(journal.answers()) > 10
    finally:
        journal.close()


# nothing stays behind

_FAMILY = """
import subprocess, sys, runpy
# a worker in a session of its own, as engines start them
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[1], "w").write(str(worker.pid))
sys.argv = [{server!r}, *sys.argv[2:]]
runpy.run_path({server!r}, run_name="__main__")
"""


@pytest.mark.parametrize("victim", ["keeper", "server", "guard"])
async def test_whoever_is_killed_the_whole_tree_of_the_server_goes(tmp_path, victim: str) -> None:
    note = tmp_path / "worker"
    how = deployment("max_restarts: 0", program(tmp_path, _FAMILY.format(server=str(SERVER)), str(note)))
    async with borrow(tmp_path, how):
        running = room_of(tmp_path, how).running()
        server, worker = running.servers[0].pid, int(note.read_text())
        guard = psutil.Process(server).ppid()
        assert len({running.keeper_pid, guard, server, worker}) == 4
        os.kill({"keeper": running.keeper_pid, "server": server, "guard": guard}[victim], signal.SIGKILL)
        await until(lambda: not any(map(is_alive, (running.keeper_pid, guard, server, worker))))


async def test_where_a_guard_is_killed_its_workers_go_before_the_server_is_started_again(tmp_path) -> None:
    note = tmp_path / "worker"
    how = deployment("max_restarts: 1", program(tmp_path, _FAMILY.format(server=str(SERVER)), str(note)))
    async with borrow(tmp_path, how) as endpoint:
        server, worker = pids(tmp_path, how)[0], int(note.read_text())
        os.kill(psutil.Process(server).ppid(), signal.SIGKILL)
        await until(lambda: not is_alive(server) and not is_alive(worker))
        assert (await ask_all(tmp_path, endpoint, 20)).n_answered == 20
        assert room_of(tmp_path, how).running().n_restarts == 1


async def test_a_keeper_whose_order_was_written_anew_makes_way(tmp_path) -> None:
    how = deployment("keep_warm_s: 60")
    async with borrow(tmp_path, how):
        room = room_of(tmp_path, how)
        keeper = room.running().keeper_pid
        # as a lease does that finds no server running, because the keeper has not said yet that one does
        room.write(room.order().model_copy(update={"generation": "another"}))
        await until(lambda: not is_alive(keeper))


async def test_a_server_that_ignores_term_is_killed_after_a_grace_period(tmp_path) -> None:
    stubborn = (
        f"import signal, runpy, sys; sys.argv = [{str(SERVER)!r}, *sys.argv[1:]]; signal.signal = lambda *a: None\n"
    )
    stubborn += "import ctypes; ctypes.CDLL(None).signal(15, ctypes.c_void_p(1))\n"
    stubborn += f"runpy.run_path({str(SERVER)!r}, run_name='__main__')"
    how = deployment("keep_warm_s: 0", program(tmp_path, stubborn))
    async with borrow(tmp_path, how):
        [server] = pids(tmp_path, how)
    await until(lambda: not is_alive(server), timeout_s=25)


# replicas


async def test_replicas_share_the_requests_and_a_dead_one_hands_over_and_comes_back(tmp_path) -> None:
    how = deployment("replicas: 2")
    async with borrow(tmp_path, how) as endpoint:
        assert len({one.url for one in endpoint.addresses}) == 2
        first, second = pids(tmp_path, how)
        n_seen = 0

        def kill_once(_request, _response) -> None:
            nonlocal n_seen
            n_seen += 1
            if n_seen == 100:
                os.kill(first, signal.SIGKILL)

        report = await ask_all(tmp_path, endpoint, 1000, on_outcome=kill_once)
        assert (report.n_answered, report.n_failed) == (1000, 0)
        await until(lambda: len(pids(tmp_path, how)) == 2)
        assert first not in pids(tmp_path, how)
        assert second in pids(tmp_path, how)


async def test_a_replica_that_is_dead_for_good_is_not_waited_for(tmp_path) -> None:
    how = deployment("replicas: 2, max_restarts: 0, keep_warm_s: 30")
    async with borrow(tmp_path, how) as endpoint:
        first, second = pids(tmp_path, how)
        os.kill(first, signal.SIGKILL)
        await until(lambda: pids(tmp_path, how) == [second])
        async with asyncio.timeout(15), borrow(tmp_path, how) as later:
            assert [one.url for one in later.addresses] == [endpoint.addresses[1].url]
            assert (await ask_all(tmp_path, later, 20)).n_answered == 20
    os.kill(room_of(tmp_path, how).running().keeper_pid, signal.SIGTERM)
    await until(lambda: not room_of(tmp_path, how).has_keeper())


async def test_replicas_of_which_one_cannot_start_are_told_with_its_reason_and_not_started_again(tmp_path) -> None:
    fails_second = f"""
import os, runpy, sys
starts = {str(tmp_path / "starts")!r}
open(starts, "a").write("x")
if len(open(starts).read()) % 2 == 0:
    sys.exit("ModuleNotFoundError: No module named torch")
sys.argv = [{str(SERVER)!r}, *sys.argv[1:]]
runpy.run_path({str(SERVER)!r}, run_name="__main__")
"""
    how = deployment("replicas: 2, keep_warm_s: 0", program(tmp_path, fails_second))
    with pytest.raises(StartError, match="Likely cause: a Python package is missing"):
        async with borrow(tmp_path, how):
            pass
    assert (tmp_path / "starts").read_text() == "xx"


# GPUs


async def test_a_demand_that_can_never_fit_is_refused_at_once_with_the_arithmetic(tmp_path) -> None:
    how = deployment("gpus: 2, replicas: 3")
    with pytest.raises(
        ConfigError, match=r"needs 2 GPUs, for each of 3 replicas: 6 in all; this machine has 4 \(0, 1, 2, 3\)"
    ):
        async with borrow(tmp_path, how, gpus=("0", "1", "2", "3")):
            pass
    config = Config.parse(
        "deployments: {one: {backend: vllm, tensor_parallel_size: 4, pipeline_parallel_size: 2}}",
        path=Path("/nowhere/evals.yaml"),
    )
    with pytest.raises(
        ConfigError, match=r"8 GPUs \(tensor_parallel_size 4 \* pipeline_parallel_size 2\); this machine has none"
    ):
        async with borrow(tmp_path, config.deployment("one")):
            pass


async def test_each_replica_sees_the_gpus_that_are_its_own(tmp_path) -> None:
    how = deployment("gpus: 2, replicas: 2")
    async with borrow(tmp_path, how, gpus=("0", "1", "2", "3")):
        seen = [psutil.Process(pid).environ()["CUDA_VISIBLE_DEVICES"] for pid in pids(tmp_path, how)]
    assert seen == ["0,1", "2,3"]


async def test_three_models_that_wait_for_one_gpu_are_served_in_turn(tmp_path) -> None:
    script = textwrap.dedent(f"""
        import asyncio, sys, time
        sys.path[:0] = [{str(SERVER.parent.parent)!r}, {str(Path(__file__).parent)!r}]
        from pathlib import Path
        from test_servers import borrow, deployment, model
        async def main():
            how = deployment("gpus: 1, keep_warm_s: 600")   # an idle one goes at once when another waits
            async with borrow(Path({str(tmp_path)!r}), how, of=model(sys.argv[1]), gpus=("0",)):
                began = time.time()
                await asyncio.sleep(1.0)
                print(began, time.time())
        asyncio.run(main())
    """)
    started = []
    for name in ("first", "second", "third"):
        started.append(subprocess.Popen([sys.executable, "-c", script, name], stdout=subprocess.PIPE, text=True))
        await asyncio.sleep(0.7)
    spans = [tuple(map(float, process.communicate(timeout=120)[0].split())) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert spans == sorted(spans), "first come, first served"
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans)), "one at a time"
    rooms = [room_of(tmp_path, deployment("gpus: 1, keep_warm_s: 600"), model(name)) for name in ("first", "second")]
    assert [room.running() for room in rooms] == [None, None]
    last = room_of(tmp_path, deployment("gpus: 1, keep_warm_s: 600"), model("third")).running()
    os.kill(last.keeper_pid, signal.SIGTERM)
    await until(lambda: not is_alive(last.keeper_pid))


async def test_who_waits_for_a_gpu_is_told_why(tmp_path) -> None:
    how, told = deployment("gpus: 1, keep_warm_s: 0"), []
    async with borrow(tmp_path, how, of=model("holder"), gpus=("0",)):
        waiting = asyncio.create_task(
            borrow(tmp_path, how, of=model("waiter"), gpus=("0",), on_wait=told.append).__aenter__()
        )
        await until(lambda: bool(told))
        waiting.cancel()
        await asyncio.wait([waiting])
    assert told == ["waiting for 1 GPU: 0 of 1 are free, 0 wait ahead"]
    assert not list((tmp_path / "machine" / "queue").glob("*.json")), "who gives up leaves no ticket"


async def test_the_ports_of_servers_that_start_at_once_are_different(tmp_path) -> None:
    how = deployment("keep_warm_s: 0")
    leases = [borrow(tmp_path, how, of=model(f"m{i}")) for i in range(6)]
    endpoints = await asyncio.gather(*(one.__aenter__() for one in leases))
    try:
        assert len({endpoint.url for endpoint in endpoints}) == 6
    finally:
        for one in leases:
            await one.__aexit__(None, None, None)
