"""See what an endpoint can do before anything is asked of it.

A health route that answers proves little: a capability counts when one tiny request of its kind was answered.
"""

import asyncio
from typing import Any

import httpx

from eval_pipelines.client import failures, gate, streaming
from eval_pipelines.client.dialects import as_sent, dialect
from eval_pipelines.client.exchange import post
from eval_pipelines.client.interception import StopAsking
from eval_pipelines.client.transport import Client
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import UnsupportedError
from eval_pipelines.records import Failure, FailureKind, Request

# an unlikely text: a server that tells the best token at each position names others than these
_UNLIKELY = (" zebra purple", " ontology seventeen of")
_N_ATTEMPTS = 4


async def served_names(client: Client, endpoint: Endpoint) -> list[str] | None:
    """The model names the server says it serves; None if it does not say, or not of this model."""
    if not endpoint.lists_models:
        return None
    named: list[str] | None = await dialect(endpoint.protocol, "chat").served_names(
        client, endpoint.url, endpoint.served_name
    )
    return named


async def try_capability(client: Client, endpoint: Endpoint, capability: str) -> Failure | None:
    """Ask one tiny request of the capability's kind. None if it was answered, else what went wrong.

    An endpoint that is merely busy gets a few attempts: refusing it would be a verdict on the moment.
    """
    failed = None
    for n_attempts in range(1, _N_ATTEMPTS + 1):
        failed = await _try_once(client, endpoint, capability)
        if failed is None or failed.kind not in failures.RETRYABLE:
            return failed
        if n_attempts < _N_ATTEMPTS:
            await asyncio.sleep(failures.Backoff().wait_s(n_attempts, None, 0.0))
    return failed


async def text_start(client: Client, endpoint: Endpoint) -> str:
    """The text of the token that begins texts there; empty if the server puts it before each text itself.

    Empty, too, where nobody tells: then `try_capability` for `start_logprobs` says so.
    """
    if endpoint.text_start is not None:
        return endpoint.text_start
    if await try_capability(client, endpoint, "start_logprobs") is None:
        return ""
    try:
        reply = await client.get(f"{endpoint.url.removesuffix('/v1')}/tokenizer_info")
        told = reply.json() if reply.is_success else {}
        found = told.get("bos_token") or told.get("eos_token")
    except (httpx.HTTPError, ValueError, AttributeError):
        return ""
    # transformers' own tokenizers tell some as objects
    found = found.get("content") if isinstance(found, dict) else found
    return found if isinstance(found, str) else ""


async def _try_once(client: Client, endpoint: Endpoint, capability: str) -> Failure | None:
    if capability == "start_logprobs":
        return await _try_start(client, endpoint)
    failed, told = await _asked(client, endpoint, _canary(capability))
    if failed is not None:
        return failed
    if capability == "top_logprobs" and told.get("is_greedy") is not False:
        return failures.failure(FailureKind.UNSUPPORTED, "only the chosen token's log-probability is told")
    return None


async def _try_start(client: Client, endpoint: Endpoint) -> Failure | None:
    words = "".join(_UNLIKELY)
    first = words.index(" ", 1)
    values = []
    for context in ("", words[:first]):
        failed, told = await _asked(client, endpoint, _likelihood(context, words[len(context) :]))
        if failed is not None and failed.kind not in (FailureKind.MALFORMED, FailureKind.EMPTY):
            return failed
        values.append(told.get("logprob"))
    whole, rest = values
    # some tell that the first token was certain
    if whole is None or rest is None or whole > rest - 0.01:
        message = (
            "the first token of a text has no log-probability there. Say with `text_start` of the deployment what begins "
            "texts (such as <|endoftext|>), or let the server tell (vLLM: --enable-tokenizer-info-endpoint)"
        )
        return failures.failure(FailureKind.UNSUPPORTED, message)
    return None


async def _asked(client: Client, endpoint: Endpoint, request: Request) -> tuple[Failure | None, dict[str, Any]]:
    """One attempt at a canary: what went wrong, or the Response fields of its answer."""
    request = as_sent(request, endpoint)
    spoken = dialect(endpoint.protocol, request.operation)
    try:
        said = spoken.body(request, endpoint.served_name)
        body = httpx.Request("POST", endpoint.url, json=streaming.asked(spoken, request, said, endpoint))
    except UnsupportedError as error:  # it cannot even be said: nothing is sent
        return failures.failure(FailureKind.UNSUPPORTED, str(error)), {}
    url = f"{endpoint.url}{spoken.path(endpoint.served_name)}{endpoint.path_suffix}"
    try:
        turn = await gate.turn(client, url, request)  # waits as long as the server asked for in its last reply
    except StopAsking as stop:
        raise (stop.error or UnsupportedError)(
            f"{stop} Nothing was asked, not even a first request; materializing again asks then."
        ) from None
    told: dict[str, Any] = {}
    failed: Failure | None = None
    try:
        told = spoken.read(request, await post(client, url, body.content, spoken))
    except failures.NoAnswer as no_answer:
        failed = no_answer.failure
    finally:
        gate.over(client, turn, [told] if told else (), failed)
    return failed, told


def _canary(capability: str) -> Request:
    params = {"max_tokens": 1, "temperature": 0.0}
    if capability == "chat":
        return Request(
            sample_id="canary",
            subtask="canary",
            operation="chat",
            messages=({"role": "user", "content": "Hi"},),
            params=params,
        )
    if capability == "completions":
        return Request(sample_id="canary", subtask="canary", operation="completion", prompt="Hi", params=params)
    return _likelihood(*_UNLIKELY)


def _likelihood(context: str, continuation: str) -> Request:
    return Request(
        sample_id="canary", subtask="canary", operation="loglikelihood", prompt=context, continuation=continuation
    )
