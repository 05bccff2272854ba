"""A gate before vLLM's API server, through which other weights are loaded: `--middleware eval_pipelines_gate.Gate`.

Runs inside vLLM and imports nothing of this project. Its folder is on vLLM's import path, so nothing else may lie there.

    POST /v1/eval_pipelines/swap
      {"action": "load", "name": …, "weights": …, "adapter": false, "keep": [], "drain_s": 60}   shuts the gate, loads
      {"action": "open"}    the caller has compared what the workers hold with what was to be loaded
      {"action": "shut"}    it was not that: nothing is answered any more

While the gate is not open every other request gets status 503, so nothing is ever computed with weights that nobody
has looked at, and no question meant for one checkpoint meets another.

Source  vLLM 0.32: entrypoints/serve/middleware/register.py, entrypoints/openai/models/serving.py, v1/engine/async_llm.py
"""

# mypy: disable-error-code="import-not-found"

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from types import SimpleNamespace
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ROUTE = "/v1/eval_pipelines/swap"
OPEN, LOADING, UNSEEN, BROKEN = "open", "loading other weights", "weights not compared yet", "weights unknown"
_DRAIN_TICK_S = 0.02


class Refused(Exception):
    """Nothing was changed."""


class Gate:
    """ASGI middleware: counts what is being answered, and shuts while weights are replaced."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._state = OPEN
        self._n_in_flight = 0
        self._loading: asyncio.Task[dict[str, Any]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == ROUTE and scope["method"] == "POST":
            status, told = await self._answer(scope, receive)
            await _send_json(send, status, told)
        elif self._state != OPEN and (self._state == BROKEN or scope["path"] != "/health"):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1013})
            else:
                await _send_json(send, 503, {"error": {"message": f"shut: {self._state}", "code": 503}})
        elif scope["type"] == "http" and scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
        else:
            self._n_in_flight += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._n_in_flight -= 1

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, dict[str, Any]]:
        if not _has_key(scope):
            return 401, {"error": "Unauthorized"}
        try:
            asked = json.loads(await _body(receive))
            return 200, await self._act(scope["app"].state, asked)
        except Refused as refused:
            return 409, {"error": str(refused), "state": self._state}
        except Exception as error:  # noqa: BLE001 - whatever went wrong in vLLM, the caller is told and the gate stays shut
            return 500, {"error": f"{type(error).__name__}: {error}", "state": self._state}

    async def _act(self, state: Any, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["action"] == "load":
            await self._shut(float(asked.get("drain_s", 60.0)))
            # a caller that goes away must not leave half of it
            self._loading = asyncio.create_task(self._load(state, asked))
            return await asyncio.shield(self._loading)
        if asked["action"] == "open" and self._state == UNSEEN:
            self._state = OPEN
        elif asked["action"] == "shut" and self._state != LOADING:
            self._state = BROKEN
        else:
            raise Refused(f"{asked['action']!r} is not possible while the gate is {self._state!r}")
        return {"state": self._state}

    async def _shut(self, drain_s: float) -> None:
        """Let in nothing more, and wait for what is being answered."""
        if self._state not in (OPEN, UNSEEN):
            raise Refused(f"the gate is {self._state!r}")
        before, self._state = self._state, LOADING
        deadline = asyncio.get_running_loop().time() + drain_s
        while self._n_in_flight:
            if asyncio.get_running_loop().time() > deadline:
                self._state = before
                raise Refused(f"{self._n_in_flight} requests were still being answered after {drain_s:g} s")
            await asyncio.sleep(_DRAIN_TICK_S)

    async def _load(self, state: Any, asked: dict[str, Any]) -> dict[str, Any]:
        engine, models = state.engine_client, state.openai_serving_models
        name, weights = str(asked["name"]), str(asked["weights"])
        self._state = BROKEN  # until it went well
        await engine.pause_generation(mode="abort", clear_cache=True)
        if asked.get("adapter"):
            workers = await _load_adapter(engine, models, name, weights, keep=set(asked.get("keep", ())))
        else:
            workers = await engine.collective_rpc("eval_pipelines_load", args=(weights,))
            # its own check of `model` in a request and /v1/models read this list
            known = models.base_model_paths
            known[:] = [type(known[0])(name=name, model_path=weights)]
        is_forgotten = await engine.reset_prefix_cache(reset_running_requests=False, reset_connector=True)
        if not is_forgotten:
            raise RuntimeError("the cache still holds what the old weights computed: reset_prefix_cache failed")
        await engine.resume_generation()
        self._state = UNSEEN
        return {"state": self._state, "workers": workers}


async def _load_adapter(engine: Any, models: Any, name: str, folder: str, *, keep: set[str]) -> list[dict[str, Any]]:
    """Take out the adapters that are not to be kept, then load one."""
    for known in [one for one in models.lora_requests if one not in keep]:
        number = models.lora_requests[known].lora_int_id
        _raise_if_refused(await models.unload_lora_adapter(SimpleNamespace(lora_name=known, lora_int_id=number)))
        await engine.remove_lora(number)
    wanted = SimpleNamespace(lora_name=name, lora_path=folder, load_inplace=False, is_3d_lora_weight=False)
    _raise_if_refused(await models.load_lora_adapter(wanted))
    return [{"adapters": {one.lora_name: one.lora_path for one in models.lora_requests.values()}}]


def _raise_if_refused(told: Any) -> None:
    if not isinstance(told, str):
        raise RuntimeError(told.error.message)


def _has_key(scope: Scope) -> bool:
    """vLLM's own check comes after middlewares, so the key is compared here too. A server without a key has no route."""
    from vllm import envs

    key = envs.VLLM_API_KEY
    sent = dict(scope["headers"]).get(b"authorization", b"")
    return bool(key) and hmac.compare_digest(sent, f"Bearer {key}".encode())


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused("the caller went away")
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def _send_json(send: Send, status: int, told: dict[str, Any]) -> None:
    headers = [(b"content-type", b"application/json"), *([(b"retry-after", b"2")] if status == 503 else [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
