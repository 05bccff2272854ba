"""What happens when the engine refuses, breaks, dies or is full. A fake engine, in a real process."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("starlette", reason="the extra 'embedded' is not installed")

from eval_pipelines.embedded.app import create_app
from eval_pipelines.embedded.engine import Engine, Stream
from eval_pipelines.embedded.errors import EngineError, StartError
from eval_pipelines.embedded.messages import EngineSettings, Work
from eval_pipelines.embedded.service import Service

from .fake_engine import BREAK, DIE, FOREVER, REFUSE

SCRIPT = str(Path(__file__).parent / "fake_engine.py")


class ByteTokenizer:
    """Token ids are bytes."""

    control_ids = frozenset[int]()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def piece(self, id_: int) -> bytes:
        return bytes([id_])

    def check_ids(self, ids: list[int], *, param: str) -> None:
        pass


def new_engine(threads: int = 0) -> Engine:
    settings = EngineSettings(Path("model.gguf"), max_model_len=100, threads=threads)
    return Engine(settings, command=lambda fd: [sys.executable, SCRIPT, str(fd)])


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = new_engine()
    engine.launch()
    engine.wait_until_ready()
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    service = Service(engine, ByteTokenizer(), "fake", "model.gguf", 100, "fp_0", 0)  # type: ignore[arg-type]
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=10) as client:
        yield client


def ask(client: httpx.AsyncClient, prompt: list[int], **options: object) -> "asyncio.Task[httpx.Response]":
    body = {"model": "fake", "prompt": prompt, "max_tokens": 5} | options
    return asyncio.create_task(client.post("/v1/completions", json=body))


async def test_an_engine_that_cannot_load_says_why() -> None:
    engine = new_engine(threads=99)
    engine.launch()
    with pytest.raises(StartError, match=r"cannot load model\.gguf: no such machine"):
        engine.wait_until_ready()
    engine.stop()


@pytest.mark.parametrize(("trouble", "reason"), [(BREAK, "out of luck"), (DIE, "ended unexpectedly")])
async def test_a_lost_engine_fails_what_was_in_flight_and_is_unhealthy(
    client: httpx.AsyncClient, trouble: int, reason: str
) -> None:
    waiting = ask(client, [FOREVER])
    assert (await ask(client, list(b"abc"))).json()["choices"][0]["text"] == "abc"
    assert (await client.get("/health")).status_code == 200
    for lost in (await ask(client, [trouble]), await waiting):
        assert lost.status_code == 500
        assert reason in lost.json()["error"]["message"]
    assert (await client.get("/health")).status_code == 503
    assert (await ask(client, list(b"abc"))).status_code == 503


async def test_a_lost_engine_ends_a_stream_with_an_error(client: httpx.AsyncClient) -> None:
    text = (await ask(client, [DIE], stream=True)).text
    assert "engine_error" in text
    assert text.endswith("data: [DONE]\n\n")


async def test_one_refused_work_does_not_harm_the_others(client: httpx.AsyncClient) -> None:
    refused, fine = await asyncio.gather(ask(client, [REFUSE]), ask(client, list(b"abc")))
    assert (refused.status_code, fine.status_code) == (500, 200)
    assert "not this one" in refused.json()["error"]["message"]
    assert (await client.get("/health")).status_code == 200


async def test_works_wait_until_there_is_memory_and_cancelling_makes_room(engine: Engine) -> None:
    hogs = [engine.submit(Work(engine.next_id(), (FOREVER,) * 40, 5)) for _ in range(3)]
    await anext(hogs[1].deltas())
    assert (engine.n_running, engine.n_waiting) == (2, 1)
    hogs[0].close()
    async with asyncio.timeout(5):
        await anext(hogs[2].deltas())


async def test_a_stalled_engine_is_unhealthy(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = engine.submit(Work(engine.next_id(), (FOREVER,), 5))
    await anext(stream.deltas())
    assert engine.trouble() is None
    monkeypatch.setattr("eval_pipelines.embedded.engine.STALL_AFTER_S", -1.0)
    assert "has not finished a step" in str(engine.trouble())


async def test_stopping_fails_what_is_left_and_ends_the_process(engine: Engine) -> None:
    stream = engine.submit(Work(engine.next_id(), (FOREVER,), 5))
    engine.stop()
    assert engine._process.returncode is not None
    with pytest.raises(EngineError):
        await asyncio.wait_for(_drain(stream), timeout=5)


async def _drain(stream: Stream) -> None:
    async for _ in stream.deltas():
        pass
