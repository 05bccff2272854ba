"""See an endpoint work before the first request is asked of it."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import httpx

from eval_pipelines.client import probe
from eval_pipelines.client.dialects import dialect
from eval_pipelines.client.failures import what_to_check
from eval_pipelines.client.transport import Client, open_client
from eval_pipelines.config import Deployment
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import NotReadyError, ServingError, UnsupportedError, WrongModelError
from eval_pipelines.records import FailureKind, Operation
from eval_pipelines.serving.backends import Binding
from eval_pipelines.serving.binding import bound_endpoint

_CAN_ECHO = "embedded, vllm, sglang, transformers and pytriton servers can"
_RIGHT: Mapping[str, str] = {
    "chat": "Set `protocol: completions` of the benchmark, or use a deployment whose model has a chat template.",
    "completions": "Set `protocol: chat` of the benchmark, if its task generates text, or use a deployment that takes "
    "plain prompts.",
    "echo_logprobs": f"The benchmark compares log-likelihoods of given texts: {_CAN_ECHO}, and hardly any provider. "
    f"Or ask a task that generates its answer (`mmlu_generative` instead of `mmlu`).",
    "top_logprobs": "The benchmark needs the best token at each position: vllm, sglang and transformers servers tell it.",
    "start_logprobs": f"The benchmark reads whole documents: {_CAN_ECHO}.",
}


async def bound(
    binding: Binding,
    deployment: Deployment,
    needs: Collection[str],
    wants: Collection[str],
    secrets_: Mapping[str, str],
    leases: Path,
) -> Endpoint:
    """The endpoint at addresses that someone else runs, seen to work. Raises as `seen_to_work` does."""
    endpoint = bound_endpoint(binding, deployment, secrets_, leases)
    return await seen_to_work(endpoint, needs, wants, where=binding.urls[0], key_env=binding.key_env)


async def seen_to_work(
    endpoint: Endpoint,
    needs: Collection[str],
    wants: Collection[str] = (),
    *,
    where: str,
    log: Path | None = None,
    key_env: str | None = None,
) -> Endpoint:
    """The endpoint with the capabilities that were seen to work, at each of its addresses.

    Args:
        wants: Capabilities that it may lack: the endpoint says which, and why.

    Raises:
        WrongModelError: an address answers for another model.
        NotReadyError: it does not answer a first request.
        UnsupportedError: it answers, but cannot do what is needed.
    """
    async with open_client(endpoint) as client:
        if "start_logprobs" in needs:
            endpoint = replace(endpoint, text_start=await probe.text_start(client, endpoint))
        several = len(endpoint.addresses) > 1
        checks = (
            _check(client, replace(endpoint, url=one.url), needs, one.url if several else where, log, key_env)
            for one in endpoint.addresses
        )
        # all of them to their end: none may still ask when the client closes
        for outcome in await asyncio.gather(*checks, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        told = await asyncio.gather(*(_version(client, one.url, endpoint.protocol) for one in endpoint.addresses))
        lacks = await _lacking(client, endpoint, needs, wants)
    versions = sorted({version for version in told if version})
    offers = frozenset(needs) | (frozenset(wants) - lacks.keys())
    return replace(endpoint, offers=offers, lacks=lacks, server_version=", ".join(versions) or None)


async def _lacking(
    client: Client, endpoint: Endpoint, needs: Collection[str], wants: Collection[str]
) -> dict[str, str]:
    operation: Operation = "chat" if "chat" in needs else "completion"
    found = {}
    for capability in sorted({*wants} - {*needs}):
        for one in endpoint.addresses:
            failed = await probe.try_capability(client, replace(endpoint, url=one.url), capability, operation)
            if failed is not None:
                found[capability] = failed.message
    return found


async def _check(
    client: Client,
    endpoint: Endpoint,
    needs: Collection[str],
    where: str,
    log: Path | None,
    key_env: str | None,
) -> None:
    names = await probe.served_names(client, endpoint)
    if names is not None and endpoint.served_name not in names:
        raise WrongModelError(
            f"{where} serves {', '.join(names) or 'no model'}, not {endpoint.served_name!r}. "
            f"Set `served_name` to the name it knows the model by."
        )
    for capability in sorted({*needs}):
        failed = await probe.try_capability(client, endpoint, capability)
        if failed is None:
            continue
        if failed.http_status in (401, 403):
            key = f"the key in {key_env}" if key_env else "a request without a key (name its variable in api_key_env)"
            raise ServingError(f"{where} refused {key}: HTTP {failed.http_status}: {failed.message}")
        if failed.http_status == 404 and endpoint.served_name in failed.message:
            raise WrongModelError(
                f"{where} does not know {endpoint.served_name!r}: {failed.message}. Nothing was asked. Set `served_name` to the name it "
                f"knows the model by, or the address to where its routes start."
            )
        if failed.kind is FailureKind.DENIED and failed.http_status not in (404, 405):  # those may lack but this route
            raise ServingError(f"{where} lets nobody in: {failed.message}. {what_to_check(failed)} Nothing was asked.")
        if failed.kind in (FailureKind.CONNECTION, FailureKind.TIMEOUT, FailureKind.OVERLOADED):
            seen = f"; its log: {log}" if log else ""
            raise NotReadyError(f"{where} did not answer a first {capability} request: {failed.message}{seen}")
        raise UnsupportedError(
            f"{where} cannot do {capability!r}, which is needed here: {failed.message}. Nothing was asked. "
            f"{_RIGHT.get(capability, 'Use a deployment that can.')}"
        )


async def _version(client: Client, url: str, protocol: str) -> str | None:
    path = getattr(dialect(protocol, "chat"), "VERSION_PATH", "/version")
    try:
        reply = await client.get(f"{url.removesuffix('/v1')}{path}")
        told = reply.json() if reply.is_success else {}
        return " ".join(str(told[name]) for name in ("version", "engine") if name in told) or None
    except (httpx.HTTPError, ValueError, TypeError):
        return None
