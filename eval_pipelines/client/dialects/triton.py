"""Triton's own HTTP, for the model that eval_pipelines/serving/servers/pytriton_server.py serves.

The route is `generate`, not `infer`: one flat JSON object each way, text as a plain string, floats in full, and a reply
that holds only the tensors that were answered; `infer` wraps each in name, shape and type, and wants all of them.
Sampling parameters travel as one JSON tensor, so that no new one changes the model's signature; and every request
has the same tensors, which Triton's batcher wants of those it puts together.

Source  Triton Inference Server, "Generate Extension", "Model Configuration Extension" (2.51)
"""

import json
import math
from typing import Any

import httpx

from eval_pipelines.client.dialects.openai_chat import storable
from eval_pipelines.client.failures import NoAnswer, failure
from eval_pipelines.records import FailureKind, Request

_AT = "-AT-"  # PyTriton takes letters, digits and ._- in a name; a model key has no capital letters


VERSION_PATH = "/v2"


def model_name(served_name: str) -> str:
    """The name as Triton has it: `family@revision` → `family-AT-revision`; any other stays as it is."""
    return served_name.replace("@", _AT)


def path(served_name: str) -> str:
    """The route of one model."""
    return f"/v2/models/{model_name(served_name)}/generate"


def body(request: Request, _served_name: str) -> dict[str, Any]:
    """The tensors of one request, as flat JSON."""
    told: dict[str, Any] = {
        "text_input": json.dumps(request.messages or ()) if request.operation == "chat" else request.prompt,
        "apply_chat_template": request.operation == "chat",
        "sampling_parameters": json.dumps(request.params),
    }
    return told | ({"continuation": request.continuation} if request.operation == "loglikelihood" else {})


def read(request: Request, reply: dict[str, Any]) -> dict[str, Any]:
    """Response fields of one reply. Raises NoAnswer for a reply that holds none."""
    counts = {ours: _count(reply.get(theirs)) for ours, theirs in _COUNTS.items()}
    if request.operation == "loglikelihood":
        value, is_greedy = reply.get("log_likelihood"), reply.get("is_greedy")
        if value is None:
            message = "the model tells no log_likelihood for a continuation"
            raise NoAnswer(failure(FailureKind.UNSUPPORTED, message, status=200))
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise NoAnswer(failure(FailureKind.MALFORMED, f"log_likelihood is no number: {value!r}", status=200))
        is_greedy = is_greedy if isinstance(is_greedy, bool) else None
        return {"logprob": float(value), "is_greedy": is_greedy, "finish_reason": None, **counts}
    text, reason = reply.get("text_output"), reply.get("finish_reason")
    if text is None:
        raise NoAnswer(failure(FailureKind.EMPTY, "the reply has no text_output", status=200))
    if not isinstance(text, str):
        raise NoAnswer(failure(FailureKind.MALFORMED, f"text_output is {type(text).__name__}, not text", status=200))
    return {"text": storable(text), "finish_reason": reason if isinstance(reason, str) else None, **counts}


async def served_names(client: httpx.AsyncClient, url: str, served_name: str) -> list[str] | None:
    """The name in the model's configuration; none if the server does not know it; None if it does not answer.

    Triton lists its models only to who has its access token, so each is asked for by its name.
    """
    try:
        reply = await client.get(f"{url}/v2/models/{model_name(served_name)}/config")
        if reply.status_code in (400, 404):
            return []
        told = str(reply.json()["name"]) if reply.is_success else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
    return None if told is None else [served_name if told == model_name(served_name) else told]


_COUNTS = {"prompt_tokens": "num_input_tokens", "completion_tokens": "num_output_tokens"}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
