"""One warm server for successive checkpoints of a family, on a real server process that can be told another name.

What a real vLLM does is in test_vllm_swap.py; here is who may have the server, and what happens when it fails.
"""

import asyncio
import os
import signal
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from eval_pipelines import plugins
from eval_pipelines.errors import ServingError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from tests.serving.test_servers import ask_all, borrow, deployment, room_of, until

pytestmark = pytest.mark.slow
FIRST = Model(ModelKey("mock", "step-1"), "one", "f001", Path(__file__))
SECOND = Model(ModelKey("mock", "step-2"), "one", "f002", Path(__file__))
HOW = "keep_warm_s: 30"


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The backend `command`, able to swap; revisions put into the set are not loaded."""
    command, failing = plugins.load("serving.backends", "command", kind="backend"), set()
    able = ModuleType("able")
    able.__dict__.update(command.__dict__)

    async def swap(spec, model, *, client: httpx.AsyncClient, url: str) -> None:
        if model.key.revision in failing:
            raise ServingError(f"{model.key}: not loaded into the warm server")
        (await client.post(f"{url.removesuffix('/v1')}/patch", json={"model": str(model.key)})).raise_for_status()

    able.swap_key = lambda spec, model: model.key.family
    able.swap = swap
    load = plugins.load
    monkeypatch.setattr(plugins, "load", lambda *args, kind: able if kind == "backend" else load(*args, kind=kind))
    return failing


@pytest.fixture
async def room(tmp_path, fails):
    yield (its := room_of(tmp_path, deployment(HOW), FIRST))
    if running := its.running():
        os.kill(running.keeper_pid, signal.SIGTERM)
        await until(lambda: not its.has_keeper())


async def test_the_next_checkpoint_is_loaded_into_the_warm_server(tmp_path, room) -> None:
    async with borrow(tmp_path, deployment(HOW), of=FIRST) as endpoint:
        first, pid = endpoint, room.running().servers[0].pid
    told: list[str] = []
    async with borrow(tmp_path, deployment(HOW), of=SECOND, on_wait=told.append) as endpoint:
        assert room.running().servers[0].pid == pid
        assert (endpoint.url, endpoint.served_name) == (first.url, "mock@step-2")
        assert (await ask_all(tmp_path, endpoint, 20)).n_answered == 20
    assert told[0].startswith("mock@step-2 was loaded into the warm server of mock@step-1 in ")


async def test_nobody_loads_other_weights_while_the_server_is_leased(tmp_path, room) -> None:
    told: list[str] = []
    async with borrow(tmp_path, deployment(HOW), of=FIRST) as endpoint:
        other = borrow(tmp_path, deployment(HOW), of=SECOND, on_wait=told.append)
        waiting = asyncio.create_task(other.__aenter__())
        await until(lambda: bool(told))
        assert told == ["waiting for the warm server, which mock@step-1 uses"]
        # who holds it may lease once more: the one that waits must not stand in its way
        async with asyncio.timeout(10), borrow(tmp_path, deployment(HOW), of=FIRST) as again:
            assert again.served_name == endpoint.served_name == "mock@step-1"
        assert (await ask_all(tmp_path, endpoint, 20)).n_answered == 20
        assert not waiting.done()
    async with asyncio.timeout(20):
        assert (await waiting).served_name == "mock@step-2"
    await other.__aexit__(None, None, None)


async def test_where_loading_fails_a_server_is_started_anew(tmp_path, room, fails) -> None:
    async with borrow(tmp_path, deployment(HOW), of=FIRST):
        pid = room.running().servers[0].pid
    fails.add("step-2")
    told: list[str] = []
    async with borrow(tmp_path, deployment(HOW), of=SECOND, on_wait=told.append) as endpoint:
        assert room.running().servers[0].pid != pid
        assert (await ask_all(tmp_path, endpoint, 20)).n_answered == 20
    assert told == ["mock@step-2: not loaded into the warm server. Starting a server anew."]


async def test_a_server_that_dies_after_a_swap_comes_back_with_the_new_weights(tmp_path, room) -> None:
    async with borrow(tmp_path, deployment(HOW), of=FIRST):
        pass
    async with borrow(tmp_path, deployment(HOW), of=SECOND) as endpoint:
        os.kill(room.running().servers[0].pid, signal.SIGKILL)
        report = await ask_all(tmp_path, endpoint, 50)
        assert (report.n_answered, report.n_failed) == (50, 0)
        assert room.running().n_restarts == 1


async def test_overwritten_weights_of_the_same_name_are_loaded_anew(tmp_path, room) -> None:
    async with borrow(tmp_path, deployment(HOW), of=FIRST):
        pass
    overwritten, told = Model(FIRST.key, "one", "f00b", FIRST.weights), []
    async with borrow(tmp_path, deployment(HOW), of=overwritten, on_wait=told.append):
        assert room.order().fingerprint == "f00b"
    assert len(told) == 1
