"""See what an endpoint can do before anything is asked of it.

A health route that answers proves little: a capability counts when one tiny request of its kind was answered.
"""

import asyncio
from typing import Any

import httpx

from eval_pipelines.client import failures, gate, streaming
from eval_pipelines.client.dialects import dialect, renamed
from eval_pipelines.client.exchange import post
from eval_pipelines.client.interception import StopAsking
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import UnsupportedError
from eval_pipelines.records import Failure, FailureKind, Request

# an unlikely text: a server that tells the best token at each position names others than these
_UNLIKELY = (" zebra purple", " ontology seventeen of")
_N_ATTEMPTS = 4


async def served_names(client: httpx.AsyncClient, endpoint: Endpoint) -> list[str] | None:
    """The model names the server says it serves; None if it does not say, or not of this model."""
    if not endpoint.lists_models:
        return None
    named: list[str] | None = await dialect(endpoint.protocol, "chat").served_names(
        client, endpoint.url, endpoint.served_name
    )
    return named


async def try_capability(client: httpx.AsyncClient, endpoint: Endpoint, capability: str) -> Failure | None:
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


async def _try_once(client: httpx.AsyncClient, endpoint: Endpoint, capability: str) -> Failure | None:
    request = _canary(capability)
    spoken = dialect(endpoint.protocol, request.operation)
    try:
        said = spoken.body(renamed(request, endpoint), endpoint.served_name)
        body = httpx.Request("POST", endpoint.url, json=streaming.asked(spoken, request, said, endpoint))
    except UnsupportedError as error:  # it cannot even be said: nothing is sent
        return failures.failure(FailureKind.UNSUPPORTED, str(error))
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
        return failed
    finally:
        gate.over(client, turn, [told] if told else (), failed)
    if capability == "top_logprobs" and told.get("is_greedy") is not False:
        return failures.failure(FailureKind.UNSUPPORTED, "only the chosen token's log-probability is told")
    return None


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
    context, continuation = _UNLIKELY
    return Request(
        sample_id="canary", subtask="canary", operation="loglikelihood", prompt=context, continuation=continuation
    )
