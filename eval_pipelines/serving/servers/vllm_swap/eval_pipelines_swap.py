"""Loads other weights into a running vLLM. Runs inside vLLM's own processes and imports nothing of this project.

`--middleware eval_pipelines_swap.Gate` puts a gate before the API server, `--worker-extension-cls
eval_pipelines_swap.Weights` gives every worker the method that the gate calls. This folder holds nothing else, because
all of it is on the import path of vLLM.

    POST /v1/eval_pipelines/swap
      {"action": "load", "name": …, "weights": …, "adapter": false, "keep": [], "drain_s": 60}   shuts the gate, loads
      {"action": "open"}    the caller has compared what the workers hold with what was to be loaded
      {"action": "shut"}    it was not that: nothing is answered any more

While the gate is not open every other request gets status 503, so nothing is ever computed with weights that nobody
has looked at, and no question meant for one checkpoint meets another.

Source  vLLM 0.32: entrypoints/serve/middleware/register.py, model_executor/model_loader/reload/, v1/worker/gpu_worker.py
"""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from types import SimpleNamespace
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ROUTE = "/v1/eval_pipelines/swap"
OPEN, LOADING, UNSEEN, BROKEN = "open", "loading other weights", "weights not compared yet", "weights unknown"
_DRAIN_TICK_S = 0.02
_N_ROWS, _N_COLUMNS = 32, 4


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
            raise RuntimeError("what was computed with the old weights could not be forgotten: reset_prefix_cache failed")
        await engine.resume_generation()
        self._state = UNSEEN
        return {"state": self._state, "workers": workers}


class Weights:
    """Mixed into vLLM's worker class: methods of every worker, which `collective_rpc` calls by name."""

    model_runner: Any
    vllm_config: Any
    reload_weights: Callable[..., None]

    def eval_pipelines_load(self, folder: str) -> dict[str, Any]:
        """Replace all weights by those in a folder.

        Returns:
            What this worker holds now, as `_evidence` has it, and `n_changed`: how much of that was different before.
        """
        import torch
        from vllm.config import set_current_vllm_config

        model = self.model_runner.get_model()
        _refuse_what_cannot_be_seen(self.vllm_config, model)
        with torch.inference_mode():
            before = _evidence(model)
            _spoil(model)
        self.reload_weights(weights_path=folder)
        with torch.inference_mode(), set_current_vllm_config(self.vllm_config):
            _pack_again(model)
            after = _evidence(model)
        held = ("vectors", "matrices")
        n_changed = sum(after[kind][name] != before[kind].get(name) for kind in held for name in after[kind])
        return {**after, "n_changed": n_changed}


def _refuse_what_cannot_be_seen(config: Any, model: Any) -> None:
    from vllm.config import CompilationMode
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    if config.compilation_config.mode != CompilationMode.NONE:
        raise RuntimeError("on a CPU, compiled code keeps the packed weights it was compiled with: set enforce_eager")
    if any(one.ndim > 2 for one in model.parameters()):
        raise RuntimeError("on a CPU, experts and convolutions keep packed weights that cannot be compared")


def _spoil(model: Any) -> None:
    """Make every weight unusable, so that what is not loaded again cannot go unnoticed.

    vLLM only warns of weights that the new files do not have, and goes on with the old ones.
    """
    for one in model.parameters():
        if one.is_floating_point():
            one.data.fill_(float("nan"))
    for module in model.modules():
        module.__dict__.pop("cpu_linear", None)


def _pack_again(model: Any) -> None:
    """Pack what `reload_weights` forgets: on a CPU, an output layer that shares the embedding's weights has a copy."""
    for module in model.modules():
        quantised = getattr(module, "quant_method", None)
        if hasattr(quantised, "apply") and "cpu_linear" not in module.__dict__ and _is_matrix(module):
            quantised.process_weights_after_loading(module)


def _is_matrix(module: Any) -> bool:
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    return isinstance(module, LinearBase | VocabParallelEmbedding)


def _evidence(model: Any) -> dict[str, Any]:
    """What the worker computes with.

    vectors   name → type, length, SHA-256 of the values as float32 (norms and biases, whole)
    matrices  name → type, shape, values at some rows and columns, seen through the layer's own product with a vector
              that is 1 in one place: the numbers that answers are made of, also where the layer packed a copy
    unset     parameters that were not loaded
    fused     name of a layer → names of those that vLLM stacked to make it
    """
    import torch

    vectors = {}
    names = {id(one): name for name, one in model.named_parameters()}
    for name, one in model.named_parameters():
        if one.ndim == 1 and one.numel():
            values = one.detach().to("cpu", torch.float32).contiguous().numpy()
            digest = hashlib.sha256(values.tobytes()).hexdigest()
            vectors[name] = {"dtype": _dtype(one), "length": one.numel(), "sha256": digest}
    matrices = dict(_matrices(model, names))
    unset = [name for name, one in model.named_parameters() if one.is_floating_point() and bool(one.isnan().any())]
    fused = {name: list(parts) for name, parts in (getattr(model, "packed_modules_mapping", None) or {}).items()}
    return {"vectors": vectors, "matrices": matrices, "unset": unset, "fused": fused}


def _matrices(model: Any, names: dict[int, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    import torch
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    for path, module in model.named_modules():
        if not _is_matrix(module):
            continue
        name = names.get(id(module.weight), f"{path}.weight") if module.weight.numel() else f"{path}.weight"
        is_embedding = isinstance(module, VocabParallelEmbedding)
        if is_embedding:
            n_rows, n_columns = module.num_embeddings_per_partition, module.embedding_dim
        else:
            n_columns = getattr(module, "input_size_per_partition", module.input_size)
            n_rows = getattr(module, "output_size_per_partition", module.output_size)
        rows, columns = _spread(n_rows, _N_ROWS), _spread(n_columns, _N_COLUMNS)
        device = next(one.device for one in model.parameters())
        at = torch.tensor(rows, device=device)
        if is_embedding and not isinstance(module, ParallelLMHead):
            seen = module.quant_method.embedding(module, at)[:, columns]
        else:
            dtype = module.weight.dtype
            ones = torch.zeros(len(columns), n_columns, dtype=dtype, device=device)
            ones[range(len(columns)), columns] = 1
            seen = module.quant_method.apply(module, ones, None)[:, at].T
        values = [None if value != value else value for value in seen.float().flatten().tolist()]
        told = {"tensor": name, "dtype": _dtype(seen), "shape": [n_rows, n_columns]}
        yield path, {**told, "rows": rows, "columns": columns, "values": values}


def _spread(n: int, n_wanted: int) -> list[int]:
    """Indices from the first to the last of n, evenly spread."""
    if n <= n_wanted:
        return list(range(n))
    return [i * (n - 1) // (n_wanted - 1) for i in range(n_wanted)]


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _send_json(send: Send, status: int, told: dict[str, Any]) -> None:
    headers = [(b"content-type", b"application/json"), *([(b"retry-after", b"2")] if status == 503 else [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
