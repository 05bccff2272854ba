"""Leased servers in containers, by a stand-in for docker whose containers outlive their client."""

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from eval_pipelines.config import Config, Machine
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.lease import lease, server_id
from eval_pipelines.serving.room import Room
from tests.serving.test_container import DOCKER
from tests.serving.test_servers import ask_all, is_alive, until

pytestmark = pytest.mark.slow
MODEL = Model(ModelKey("mock", "a"), "one", "f00d", Path(__file__))
# NVIDIA's images take everything by variable, and bring their own entrypoint
NIM = DOCKER.replace(
    "[sys.executable, SERVER, *run.rest]",
    "[sys.executable, SERVER, '--port', inside['NIM_SERVER_PORT'], '--model', inside['NIM_SERVED_MODEL_NAME']]",
).replace('assert run.entrypoint == "stand-in" and run.image == "image:1"', "assert run.publish and not run.entrypoint")
COMMAND = {
    "backend": "command",
    "argv": ["stand-in", "--port", "{port}", "--model", "{model_key}"],
    "key_env": "FAULTY_API_KEY",
    "container": {"image": "image:1"},
}


@pytest.fixture
def state(tmp_path, monkeypatch) -> Path:
    """Where the stand-in notes its containers, by their names."""
    folder = tmp_path / "state"
    folder.mkdir()
    monkeypatch.setenv("STATE", str(folder))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return folder


def install(tmp_path: Path, docker: str) -> None:
    (tmp_path / "docker").write_text(docker)
    (tmp_path / "docker").chmod(0o755)


def deployment(**fields: object):
    text = f"deployments: {{one: {json.dumps({'keep_warm_s': 0.5, **fields})}}}"
    return Config.parse(text, path=Path("/nowhere/evals.yaml")).deployment("one")


def borrow(tmp_path: Path, how, model: Model = MODEL):
    machine = Machine(folder=tmp_path / "machine")
    return lease(model, how, needs=("chat",), leases=tmp_path / "leases", secrets_={}, machine=machine)


def inside(state: Path) -> list[int]:
    return [int(note.read_text()) for note in state.iterdir() if note.suffix != ".tmp"]


async def test_a_leased_container_is_gone_when_nobody_needs_it(tmp_path, state) -> None:
    install(tmp_path, DOCKER)
    async with borrow(tmp_path, deployment(**COMMAND)) as endpoint:
        assert (await ask_all(tmp_path, endpoint, 20)).n_answered == 20
        [server] = inside(state)
    await until(lambda: not is_alive(server))


@pytest.mark.parametrize("victim", ["keeper", "guard", "client"])
async def test_whoever_is_killed_the_container_goes(tmp_path, state, victim: str) -> None:
    install(tmp_path, DOCKER)
    how = deployment(max_restarts=0, **COMMAND)
    async with borrow(tmp_path, how):
        [server] = inside(state)
        running = Room(tmp_path / "leases" / server_id(MODEL, how)).running()
        client = running.servers[0].pid
        pids = {"keeper": running.keeper_pid, "guard": psutil.Process(client).ppid(), "client": client}
        os.kill(pids[victim], signal.SIGKILL)
        await until(lambda: not is_alive(server), timeout_s=40)


async def test_a_container_that_dies_while_it_is_asked_comes_back(tmp_path, state) -> None:
    install(tmp_path, DOCKER)
    async with borrow(tmp_path, deployment(**COMMAND)) as endpoint:
        [server] = inside(state)
        os.kill(server, signal.SIGKILL)
        report = await ask_all(tmp_path, endpoint, 50)
        assert (report.n_answered, report.n_failed) == (50, 0)
        assert inside(state) != [server]


async def test_nims_variables_fit_its_routes_and_name(tmp_path, state) -> None:
    install(tmp_path, NIM)
    how = deployment(backend="nim", gpus=0, ngc_key_env=None, container={"image": "nim:1", "network": "loopback"})
    model = Model(ModelKey("llama-3.1-8b", "nim-1.8"), "one", "f00d")
    async with borrow(tmp_path, how, model) as endpoint:
        assert endpoint.served_name == "llama-3.1-8b@nim-1.8"
        [server] = inside(state)
    await until(lambda: not is_alive(server))
