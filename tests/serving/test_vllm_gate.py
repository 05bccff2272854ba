"""The gate before vLLM's API, with an application of our own in vLLM's place."""

import asyncio
import sys

import httpx
import pytest

from eval_pipelines.serving.backends._vllm_swap import FOLDER

pytestmark = pytest.mark.unit


class Engine:
    """What the gate asks of vLLM's engine."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.is_broken = is_broken

    async def pause_generation(self, *, mode: str, clear_cache: bool) -> None:
        assert clear_cache

    async def resume_generation(self) -> None: ...

    async def reset_prefix_cache(self, **how: bool) -> bool:
        return True

    async def collective_rpc(self, method: str, *, args: tuple[str, ...]) -> list[dict]:
        if self.is_broken:
            raise RuntimeError("Worker failed with error 'SafetensorError'")
        return [{"loaded": args[0]}]


class Name:
    def __init__(self, name: str, model_path: str) -> None:
        self.name, self.model_path = name, model_path


class Application:
    """An ASGI application in vLLM's place, whose answers wait until they are let go."""

    def __init__(self, engine: Engine) -> None:
        self.go = asyncio.Event()
        self.names = [Name("smol@a", "/a")]
        self.state = type("State", (), {})()
        self.state.engine_client = engine
        self.state.openai_serving_models = type("Models", (), {"base_model_paths": self.names})()

    async def __call__(self, scope, receive, send) -> None:
        if scope["method"] == "POST":
            await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.names[0].name.encode()})


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch):
    """The gate before an application, and a client that has the key."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setitem(sys.modules, "vllm", type(sys)("vllm"))
    sys.modules["vllm"].envs = type("Envs", (), {"VLLM_API_KEY": "k"})
    import eval_pipelines_gate

    def make(engine: Engine) -> tuple[Application, httpx.AsyncClient]:
        app = Application(engine)
        gate = eval_pipelines_gate.Gate(app)

        async def outer(scope, receive, send) -> None:
            await gate(scope | {"app": app}, receive, send)

        headers = {"authorization": "Bearer k"}
        return app, httpx.AsyncClient(
            transport=httpx.ASGITransport(outer), base_url="http://x", headers=headers, timeout=5
        )

    return make


LOAD = {"action": "load", "name": "smol@b", "weights": "/b"}
SWAP = "/v1/eval_pipelines/swap"


async def test_the_gate_answers_what_was_asked_before_and_nothing_until_it_is_opened(gated) -> None:
    app, client = gated(Engine())
    async with client:
        asked = asyncio.create_task(client.post("/v1/completions"))
        await asyncio.sleep(0.01)
        swapping = asyncio.create_task(client.post(SWAP, json=LOAD))
        await asyncio.sleep(0.05)
        assert (await client.post("/v1/completions")).status_code == 503
        assert not swapping.done()
        app.go.set()
        assert (await asked).text == "smol@a"
        assert (await swapping).json()["workers"] == [{"loaded": "/b"}]
        assert (await client.post("/v1/completions")).status_code == 503
        assert (await client.get("/health")).status_code == 200
        assert (await client.post(SWAP, json={"action": "open"})).status_code == 200
        assert (await client.post("/v1/completions")).text == "smol@b"


async def test_a_gate_that_cannot_empty_opens_again_and_nothing_was_changed(gated) -> None:
    app, client = gated(Engine())
    async with client:
        asked = asyncio.create_task(client.post("/v1/completions"))
        await asyncio.sleep(0.01)
        refused = await client.post(SWAP, json=LOAD | {"drain_s": 0.05})
        assert (refused.status_code, refused.json()["state"]) == (409, "open")
        assert "1 requests were still being answered" in refused.json()["error"]
        app.go.set()
        assert (await asked).text == "smol@a"


async def test_a_gate_behind_which_loading_failed_answers_nothing_any_more(gated) -> None:
    app, client = gated(Engine(is_broken=True))
    app.go.set()
    async with client:
        told = await client.post(SWAP, json=LOAD)
        assert (told.status_code, told.json()["state"]) == (500, "weights unknown")
        assert "SafetensorError" in told.json()["error"]
        for route in ("/health", "/v1/models"):
            assert (await client.get(route)).status_code == 503
        for action in ({"action": "open"}, LOAD):
            assert (await client.post(SWAP, json=action)).status_code == 409


async def test_the_gate_wants_the_servers_key(gated) -> None:
    _, client = gated(Engine())
    async with client:
        for headers in ({"authorization": "Bearer other"}, {"authorization": "k"}):
            assert (await client.post(SWAP, json=LOAD, headers=headers)).status_code == 401
