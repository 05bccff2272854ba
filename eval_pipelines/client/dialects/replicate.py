"""Replicate's predictions: a question becomes a prediction, which is looked at until it is done.

One user message, with or without a system message, and plain prompts; no log-likelihoods. `served_name` reads
`OWNER/NAME`, `OWNER/NAME:VERSION` or `deployments/OWNER/NAME`.

Source  Replicate HTTP API reference, "Create a prediction using an official model", "Get a prediction";
        the package `replicate` 1.0 (routes, states, `Prefer: wait`)
"""

import re
from typing import Any

import httpx

from eval_pipelines.client.dialects.openai_chat import storable
from eval_pipelines.client.failures import NoAnswer, failure, from_error_object
from eval_pipelines.errors import UnsupportedError
from eval_pipelines.records import FailureKind, Request

_RUNS = ("starting", "processing")
_LONGEST_WAIT_S = 60  # as long as the server holds a request open
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_ROUTE = re.compile(r"(/models/[^/]+/[^/]+|/deployments/[^/]+/[^/]+)?/predictions/?(\?.*)?$")


def path(served_name: str) -> str:
    """The route that creates a prediction of this model, model version or deployment."""
    name, _, version = served_name.partition(":")
    if version:
        return "/predictions"
    return f"/{name}/predictions" if name.startswith("deployments/") else f"/models/{name}/predictions"


def headers(request_timeout_s: float) -> dict[str, str]:
    """Let the server hold the request open, and answer before we hang up: else nobody knows the prediction's id."""
    return {"prefer": f"wait={max(1, min(_LONGEST_WAIT_S, int(request_timeout_s / 2)))}"}


def body(request: Request, served_name: str) -> dict[str, Any]:
    """The JSON body of one prediction. Raises UnsupportedError for what a prediction cannot hold."""
    version = served_name.partition(":")[2]
    given = {name: value for name, value in request.params.items() if name != "stop"}
    ask = {**_prompt(request), **given, **_stop(request.params.get("stop"))}
    return {"input": ask, **({"version": version} if version else {})}


def look_again(url: str, reply: dict[str, Any]) -> str | None:
    """Where to look for a prediction that still runs; None once it is done.

    Built from the prediction's id, not taken from `urls.get`: the key goes to no address that a reply names.
    """
    if reply.get("status") not in _RUNS:
        return None
    name = reply.get("id")
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise NoAnswer(failure(FailureKind.MALFORMED, f"a running prediction without a usable id: {name!r}"))
    return f"{_ROUTE.sub('', url)}/predictions/{name}"


def read(_request: Request, reply: dict[str, Any]) -> dict[str, Any]:
    """Response fields of a prediction that is done. Raises NoAnswer for one that holds no text."""
    status, output = reply.get("status"), reply.get("output")
    if status == "failed":
        raise NoAnswer(from_error_object(reply.get("error") or "the prediction failed"))
    if status in ("canceled", "aborted"):
        raise NoAnswer(failure(FailureKind.REJECTED, f"the prediction was {status}", status=200))
    if status != "succeeded":
        raise NoAnswer(failure(FailureKind.MALFORMED, f"a prediction in an unknown state: {status!r}", status=200))
    if output is None:
        raise NoAnswer(failure(FailureKind.EMPTY, "the prediction succeeded without output", status=200))
    parts = output if isinstance(output, list) else [output]
    if not all(isinstance(part, str) for part in parts):
        raise NoAnswer(failure(FailureKind.MALFORMED, "the prediction's output is no text", status=200))
    return {"text": storable("".join(parts)), "finish_reason": None, **_tokens(reply)}


async def served_names(client: httpx.AsyncClient, url: str, served_name: str) -> list[str] | None:
    """The model, if the server knows it; none if it says that there is no such model; None if it does not say."""
    name, _, version = served_name.partition(":")
    kind = "" if name.startswith("deployments/") else "models/"
    try:
        reply = await client.get(f"{url}/{kind}{name}{f'/versions/{version}' if version else ''}")
    except httpx.HTTPError:
        return None
    return [served_name] if reply.is_success else [] if reply.status_code == 404 else None


def _prompt(request: Request) -> dict[str, str]:
    if request.operation == "loglikelihood":
        raise UnsupportedError("Replicate tells no log-probabilities")
    if request.operation == "completion":
        return {"prompt": request.prompt or ""}
    messages = request.messages or ()
    roles = [message.get("role") for message in messages]
    if roles not in (["user"], ["system", "user"]):
        raise UnsupportedError(
            f"{request.sample_id}: a prediction takes one user message, with or without a system message before it, "
            f"not {roles}. Ask with `protocol: completions`, or with few-shot examples in one message."
        )
    named = {"system": "system_prompt", "user": "prompt"}
    return {named[message["role"]]: message["content"] for message in messages}


def _stop(stop: Any) -> dict[str, str]:
    stops = [stop] if isinstance(stop, str) else list(stop or ())
    if not stops:
        return {}
    if any("," in one for one in stops):
        raise UnsupportedError(
            f"a stop sequence with a comma cannot be sent to Replicate, where commas separate them: {stops}. "
            f"Leave stop sequences out with `renames: {{stop: null}}`, if the benchmark cuts answers by itself."
        )
    return {"stop_sequences": ",".join(stops)}


def _tokens(reply: dict[str, Any]) -> dict[str, int | None]:
    metrics = reply.get("metrics")
    told = metrics if isinstance(metrics, dict) else {}
    counts = {"prompt_tokens": told.get("input_token_count"), "completion_tokens": told.get("output_token_count")}
    return {name: count if isinstance(count, int) and count >= 0 else None for name, count in counts.items()}
