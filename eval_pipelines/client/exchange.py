"""One attempt on the wire: bytes out, one JSON object back, or the failure that it came to."""

import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import httpx
from pydantic_core import from_json, to_json

from eval_pipelines.client import failures, gate, polling, streaming, transport
from eval_pipelines.client.redaction import secrets_in
from eval_pipelines.records import FailureKind


def encoded(said: Mapping[str, Any]) -> bytes:
    """A body as it is sent."""
    return to_json(said, inf_nan_mode="constants")


_REDIRECTS = (301, 302, 303, 307, 308)


async def post(
    client: transport.Client,
    url: str,
    body: bytes,
    spoken: ModuleType | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One attempt. Raises NoAnswer for everything that is no JSON object in a 2xx reply without an error.

    A stream comes back as the one object that it amounts to, as a `streaming.Streamed` with its timings.
    """
    look_again = getattr(spoken, "look_again", None)
    idle_timeout_s = client.idle_timeout_s
    try:
        if look_again:
            return await polling.answer(client, url, body, look_again, _object_of, headers=headers)
        if idle_timeout_s is not None and streaming.is_asked(body):
            return await streaming.answer(client, url, body, spoken, headers, idle_timeout_s, _object_of)
        return _object_in(await client.post_bytes(url, body, headers))
    except httpx.HTTPError as error:
        failed, retry_after_s = failures.from_exception(error), None
    except failures.NoAnswer as no_answer:
        failed, retry_after_s = no_answer.failure, no_answer.retry_after_s
    gate.hold(client, url, retry_after_s)
    secrets = secrets_in(client.headers) | secrets_in(headers or {})
    raise failures.NoAnswer(failures.without(failed, secrets), retry_after_s=retry_after_s)


def _object_of(reply: httpx.Response) -> dict[str, Any]:
    return _object_in(transport.Reply(reply.status_code, reply.headers, reply.content))


def _object_in(reply: transport.Reply) -> dict[str, Any]:
    status = reply.status
    if status in _REDIRECTS and "location" in reply.headers:
        where = reply.headers.get("location", "somewhere else")
        message = f"HTTP {status} redirects to {where}: set base_url to the address that answers"
        raise failures.NoAnswer(failures.failure(FailureKind.DENIED, message, status=status))
    if not 200 <= status < 300:
        failed = failures.from_status(status, reply.content)
        raise failures.NoAnswer(failed, retry_after_s=failures.retry_after_s(reply.headers))
    try:
        data = _json(reply.content)
    except (ValueError, RecursionError) as error:
        if streaming.is_stream(reply.headers, reply.content):  # nobody asked for it, and it says all the same
            return streaming.put_together(reply.content)
        raise failures.NoAnswer(failures.no_json(status, reply.content, reply.headers)) from error
    if not isinstance(data, dict):
        raise failures.NoAnswer(failures.failure(FailureKind.MALFORMED, "the reply is no JSON object", status=status))
    if data.get("error"):
        raise failures.NoAnswer(failures.from_error_object(data["error"], status=status))
    return data


def _json(content: bytes) -> Any:
    """The value. Raises ValueError, RecursionError."""
    try:
        return from_json(content)
    except ValueError:
        return json.loads(content)  # it knows half characters, and other encodings
