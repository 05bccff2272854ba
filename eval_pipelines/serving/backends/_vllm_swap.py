"""Load the next checkpoint into a warm vLLM instead of starting another, and see that it answers with it.

What runs inside vLLM is in servers/vllm_swap/. Here is what stays outside: which checkpoints can share a server, what
is asked of it, and the comparison of what it then holds with what lies in the files. Whatever cannot be seen to be
right is an error, and the caller starts a server anew.
"""

import asyncio
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_pipelines.errors import ServingError
from eval_pipelines.keys import digest
from eval_pipelines.serving.backends import Model
from eval_pipelines.serving.backends._vllm_seen import differences
from eval_pipelines.serving.safetensors import UnreadableError, tensors
from eval_pipelines.serving.weights import is_adapter

if TYPE_CHECKING:
    import httpx

# on vLLM's import path, so the folder holds nothing else
FOLDER = Path(__file__).parent.parent / "servers" / "vllm_swap"
FLAGS = ("--middleware", "eval_pipelines_gate.Gate", "--worker-extension-cls", "eval_pipelines_weights.Weights")
# arguments of `vllm serve` that a server must not have whose weights are replaced
BARRED = ("--worker-extension-cls", "--api-server-count", "-asc", "--quantization-config", "--weight-transfer-config")

_ROUTE = "/eval_pipelines/swap"
_UNTOUCHED = 409
_TIMEOUT_S = 1800.0
_ASK_TIMEOUT_S = 120.0
# what makes the answers besides the weights; a trainer's states, logs and READMEs do not
_SHARED = re.compile(
    r".*config\.json|tokenizer.*|chat_template.*|.+\.(jinja|model|tiktoken|py)"
    r"|(special_tokens_map|added_tokens|vocab)\.json|(vocab|merges)\.txt"
)
# unlike enough that weights which differ a little answer at least one of them differently
_TEXTS = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "def area(width, height):\n    return width * height\n\n\nprint(area(3, 4))",
    "Question: A train leaves at 7:45 and takes 95 minutes. When does it arrive? Answer: 9:20.",
)

# of the texts themselves; of what is written after them: with an adapter, vLLM 0.32 on a CPU dies of `echo`
_READ = {"echo": True, "max_tokens": 1}
_WRITTEN = {"echo": False, "max_tokens": 8, "ignore_eos": True}


def swap_key(spec: Any, model: Model) -> str | None:
    """What a warm server must share with a model to take over its weights; None if it cannot.

    Everything but the weights counts: the family, the options, config.json, tokenizer, chat template, and the names,
    types and shapes of all tensors.
    """
    folder = model.weights
    if not spec.hot_swap or folder is None or not folder.is_dir():
        return None
    options = spec.model_dump(mode="json")
    try:
        if spec.lora_base is not None:
            base = _shared_files(Path(spec.lora_base))
            return digest([model.key.family, options, base]) if is_adapter(folder) else None
        if is_adapter(folder) or "quantization_config" in json.loads((folder / "config.json").read_bytes()):
            return None
        shapes = sorted((name, one.dtype, one.shape) for name, one in tensors(folder).items())
        return digest([model.key.family, options, _shared_files(folder), shapes])
    except (OSError, ValueError, UnreadableError):
        return None  # starting a server will say what is wrong


async def swap(spec: Any, model: Model, *, client: "httpx.AsyncClient", url: str) -> None:
    """Load a model's weights into the warm server at `url` (with `/v1`), and see that it answers with them.

    The server must have been started with `hot_swap` for a model of the same `swap_key`. It answers nothing while the
    weights are replaced, and afterwards to the new model key only.

    Args:
        client: Sends the server's key.

    Raises:
        ServingError: not loaded, or not seen to be right. The server answers nothing then, or for the model before:
            stop it.
    """
    import httpx  # every run reads the configuration and so this file; few swap

    server = _Server(client, url, str(model.key))
    try:
        if spec.lora_base is not None:
            await _swap_adapter(server, model, keep=list(spec.lora_modules))
        else:
            await _swap_weights(server, model)
    except ServingError:
        await server.shut()
        raise
    except (httpx.HTTPError, KeyError, TypeError, ValueError, AttributeError) as error:
        await server.shut()
        raise ServingError(f"{model.key}: the warm server gave no usable answer: {error!r}") from error


async def _swap_weights(server: "_Server", model: Model) -> None:
    assert model.weights is not None
    try:
        files = await asyncio.to_thread(tensors, model.weights)
    except (UnreadableError, OSError) as error:
        raise ServingError(f"{model.key}: not loaded into the warm server: {error}") from error
    before = await server.canary(await server.names(), **_READ)
    told = await server.act("load", name=str(model.key), weights=str(model.weights))
    found = await asyncio.to_thread(differences, files, told["workers"])
    if found:
        raise server.mistaken(
            f"{len(found)} parts of it are not those in {model.weights}, such as: {'; '.join(found[:3])}"
        )
    await server.act("open")
    names = await server.names()
    if names != {str(model.key): str(model.weights)}:
        raise server.mistaken(f"it says that it serves {names}")
    after = await server.canary(names, **_READ)
    is_same = not any(worker["n_changed"] for worker in told["workers"])
    if before and not is_same and not _differ(before[0], after[0], noise=_noise(before, after)):
        raise server.mistaken("its weights changed, its answers did not")


async def _swap_adapter(server: "_Server", model: Model, *, keep: Sequence[str]) -> None:
    assert model.weights is not None
    key, folder = str(model.key), str(model.weights)
    old = await server.names()
    base = {name: root for name, root in old.items() if name not in await server.adapters()}
    others = {name: root for name, root in old.items() if name not in base and name not in keep}
    before = await server.canary(others, **_WRITTEN)
    await server.act("load", name=key, weights=folder, adapter=True, keep=list(keep))
    await server.act("open")
    names = await server.names()
    if names.get(key) != folder or {*names} != {key, *base, *keep}:
        raise server.mistaken(f"it says that it serves {names}")
    after = await server.canary({key: folder}, **_WRITTEN)
    plain = await server.canary(base, **_WRITTEN)
    if not _differ(plain[0], after[0], noise=_noise(plain, after)):
        raise server.mistaken("it answers as its base does: the adapter has no effect")
    if before and not _differ(before[0], after[0], noise=_noise(before, after)):
        raise server.mistaken("it answers as with the adapter before")


class _Server:
    """What is asked of one warm server. Raises ServingError for whatever is not answered as it should be."""

    def __init__(self, client: "httpx.AsyncClient", url: str, key: str) -> None:
        self._client, self._url, self._key = client, url, key
        self._has_begun = False

    async def act(self, action: str, **more: Any) -> dict[str, Any]:
        """Speak to the gate."""
        import httpx

        wait = httpx.Timeout(None, read=_TIMEOUT_S)
        self._has_begun = True
        reply = await self._client.post(self._url + _ROUTE, json={"action": action, **more}, timeout=wait)
        told: dict[str, Any] = reply.json() if reply.headers.get("content-type") == "application/json" else {}
        if not reply.is_success:
            self._has_begun = reply.status_code != _UNTOUCHED
            raise ServingError(
                f"{self._key}: not loaded into the warm server ({action}: HTTP {reply.status_code}): "
                f"{told.get('error', reply.text[:200])}"
            )
        return told

    def mistaken(self, reason: str) -> ServingError:
        """What to raise where it was loaded and is not right."""
        return ServingError(f"{self._key}: loaded into the warm server, but {reason}")

    async def shut(self) -> None:
        """Let it answer nothing any more, unless its weights were not touched."""
        if self._has_begun:
            import httpx

            with suppress(httpx.HTTPError, ServingError):
                await self.act("shut")

    async def names(self) -> dict[str, str]:
        """Names the server answers to → where it says their weights come from; empty while its gate is shut."""
        return {one["id"]: one["root"] for one in await self._cards()}

    async def adapters(self) -> set[str]:
        """Those of the names that are adapters."""
        return {one["id"] for one in await self._cards() if one.get("parent")}

    async def canary(self, names: Mapping[str, str], **how: Any) -> list[list[float]]:
        """Log-likelihoods of a few texts, asked twice, so that the second shows how much they vary by themselves."""
        if not names:
            return []
        return [await self._likelihoods(next(iter(names)), how) for _ in range(2)]

    async def _cards(self) -> list[dict[str, Any]]:
        reply = await self._client.get(f"{self._url}/models", timeout=_ASK_TIMEOUT_S)
        if reply.status_code == 503:
            return []
        cards: list[dict[str, Any]] = reply.raise_for_status().json()["data"]
        return cards

    async def _likelihoods(self, name: str, how: Mapping[str, Any]) -> list[float]:
        body = {"model": name, "prompt": _TEXTS, "logprobs": 1, "temperature": 0, **how}
        reply = await self._client.post(f"{self._url}/completions", json=body, timeout=_ASK_TIMEOUT_S)
        choices = sorted(reply.raise_for_status().json()["choices"], key=lambda one: int(one["index"]))
        told = [[one for one in choice["logprobs"]["token_logprobs"] if one is not None] for choice in choices]
        if len(told) != len(_TEXTS) or not all(values and all(map(math.isfinite, values)) for values in told):
            raise ServingError(f"{self._key}: the warm server tells no finite log-probabilities")
        return [math.fsum(values) for values in told]


def _noise(*asked_twice: Sequence[Sequence[float]]) -> float:
    return max(abs(a - b) for first, second in asked_twice for a, b in zip(first, second, strict=True))


def _differ(some: Sequence[float], others: Sequence[float], *, noise: float) -> bool:
    return any(abs(a - b) > noise for a, b in zip(some, others, strict=True))


def _shared_files(folder: Path) -> list[tuple[str, str]]:
    """Name and hash of every file that makes the answers, but the weights."""
    files = [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]
    counted = sorted(one for one in files if _SHARED.fullmatch(one.name) and one.is_file())
    if not counted:
        raise FileNotFoundError(folder)
    return [(one.relative_to(folder).as_posix(), hashlib.sha256(one.read_bytes()).hexdigest()) for one in counted]
