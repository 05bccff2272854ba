"""See what an endpoint can do before anything is asked of it.

A health route that answers proves little: a capability counts when one tiny request of its kind was answered.
"""

import asyncio
from dataclasses import replace
from typing import Any

import httpx

from eval_pipelines.client import failures, gate, streaming
from eval_pipelines.client.canaries import UNLIKELY, canary, likelihood, text
from eval_pipelines.client.dialects import as_sent, dialect
from eval_pipelines.client.exchange import encoded, post
from eval_pipelines.client.interception import StopAsking
from eval_pipelines.client.transport import Client, open_client
from eval_pipelines.endpoint import CAPABILITIES, Endpoint
from eval_pipelines.errors import UnsupportedError
from eval_pipelines.records import Failure, FailureKind, Operation, Request

_N_ATTEMPTS = 4


async def served_names(client: Client, endpoint: Endpoint) -> list[str] | None:
    """The model names the server says it serves; None if it does not say, or not of this model."""
    if not endpoint.lists_models:
        return None
    named: list[str] | None = await dialect(endpoint.protocol, "chat").served_names(
        client, endpoint.url, endpoint.served_name
    )
    return named


async def try_capability(
    client: Client, endpoint: Endpoint, capability: str, operation: Operation = "chat"
) -> Failure | None:
    """Ask one tiny request of the capability's kind. None if it was answered, else what went wrong.

    `operation` is how texts are asked for, where the capability does not say it. An endpoint that is merely busy gets a
    few attempts: refusing it would be a verdict on the moment.
    """
    failed = None
    for n_attempts in range(1, _N_ATTEMPTS + 1):
        failed = await _try_once(client, endpoint, capability, operation)
        if failed is None or failed.kind not in failures.RETRYABLE:
            return failed
        if n_attempts < _N_ATTEMPTS:
            await asyncio.sleep(failures.Backoff().wait_s(n_attempts, None, 0.0))
    return failed


async def try_all(endpoint: Endpoint) -> dict[str, str]:
    """Every capability, and what its first request came to: empty if it works, else why not."""
    found: dict[str, str] = {}
    async with open_client(replace(endpoint, is_streamed=True)) as client:
        endpoint = replace(endpoint, text_start=await text_start(client, endpoint))
        for capability in CAPABILITIES:
            operation: Operation = "completion" if found.get("chat") else "chat"
            as_asked = replace(endpoint, is_streamed=capability == "stream")
            failed = await try_capability(client, as_asked, capability, operation)
            found[capability] = failed.message if failed else ""
    return found


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


async def _try_once(client: Client, endpoint: Endpoint, capability: str, operation: Operation) -> Failure | None:
    if capability in _OF_SEVERAL:
        return await _OF_SEVERAL[capability](client, endpoint, operation)
    asked = canary(capability, operation)
    failed, told, reply = await _asked(client, endpoint, asked.request)
    if failed is not None and not (capability == "tools" and reply):  # a call comes without a text
        return failed
    try:
        lacks = asked.lacks(told, reply)
    except (KeyError, TypeError, IndexError, AttributeError):
        lacks = "the reply has another shape"
    return failures.failure(FailureKind.UNSUPPORTED, lacks) if lacks else None


async def _try_seed(client: Client, endpoint: Endpoint, operation: Operation) -> Failure | None:
    texts = []
    for seed in (7, 7):
        drawn = text(operation, max_tokens=12, temperature=1.0, seed=seed)
        failed, told, _ = await _asked(client, endpoint, drawn)
        if failed is not None:
            return failed
        texts.append((told.get("text"), told.get("reasoning")))
    if texts[0] == texts[1]:
        return None
    return failures.failure(FailureKind.UNSUPPORTED, "the same seed drew two different answers")


async def _try_start(client: Client, endpoint: Endpoint, _: Operation) -> Failure | None:
    words = "".join(UNLIKELY)
    first = words.index(" ", 1)
    values = []
    for context in ("", words[:first]):
        failed, told, _reply = await _asked(client, endpoint, likelihood(context, words[len(context) :]))
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


_OF_SEVERAL = {"seed": _try_seed, "start_logprobs": _try_start}


async def _asked(
    client: Client, endpoint: Endpoint, request: Request
) -> tuple[Failure | None, dict[str, Any], dict[str, Any]]:
    """One attempt at a canary: what went wrong, or the Response fields of its answer; and its reply, if there is one."""
    request = as_sent(request, endpoint)
    spoken = dialect(endpoint.protocol, request.operation)
    try:
        said = spoken.body(request, endpoint.served_name)
        body = encoded(streaming.asked(spoken, request, said, endpoint))
    except UnsupportedError as error:  # it cannot even be said: nothing is sent
        return failures.failure(FailureKind.UNSUPPORTED, str(error)), {}, {}
    url = f"{endpoint.url}{spoken.path(endpoint.served_name)}{endpoint.path_suffix}"
    try:
        turn = await gate.turn(client, url, request)  # waits as long as the server asked for in its last reply
    except StopAsking as stop:
        raise (stop.error or UnsupportedError)(
            f"{stop} Nothing was asked, not even a first request; materializing again asks then."
        ) from None
    told: dict[str, Any] = {}
    reply: dict[str, Any] = {}
    failed: Failure | None = None
    try:
        reply = await post(client, url, body, spoken)
        told = spoken.read(request, reply)
    except failures.NoAnswer as no_answer:
        failed = no_answer.failure
    finally:
        gate.over(client, turn, [told] if told else (), failed)
    return failed, told, reply
