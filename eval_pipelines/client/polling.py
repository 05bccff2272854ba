"""Servers that answer before they are done: ask once, then look until it is there.

A question that still runs when an attempt's time is up is remembered: the next attempt looks for its answer and
does not ask, and pay, again.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from eval_pipelines.client import failures, gate
from eval_pipelines.records import FailureKind

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0

LookAgain = Callable[[str, dict[str, Any]], str | None]
Read = Callable[[httpx.Response], dict[str, Any]]


class Unfinished:
    """Where the answers to questions that still run will be, by the very bytes that asked.

    Two equal questions (repeats of a sample) are two predictions, so equality of bytes would mix them up.
    """

    def __init__(self) -> None:
        self._running: dict[int, tuple[bytes, str]] = {}  # the bytes are kept, so their id stays theirs

    def add(self, body: bytes, address: str) -> None:
        """Remember where the answer to `body` will be."""
        self._running[id(body)] = (body, address)

    def pop(self, body: bytes) -> str | None:
        """Where to look for the answer to `body`, once; None if it was not asked."""
        return self._running.pop(id(body), (body, None))[1]


async def answer(
    client: httpx.AsyncClient,
    url: str,
    body: bytes,
    look_again: LookAgain,
    read: Read,
    *,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One attempt: the reply to `body` once the server is done with it.

    Args:
        look_again: the dialect's hook: where to look for the rest of a reply; None once it is done.
        read: what a reply holds; raises NoAnswer where it holds none.

    Raises:
        NoAnswer: a timeout if the server is not done within the client's time; whatever `read` raises.
        httpx.HTTPError: the question could not be sent.
    """
    timeout_s = client.timeout.read or 60.0
    deadline = time.monotonic() + timeout_s
    unfinished: Unfinished = getattr(client, "unfinished", None) or Unfinished()
    address = unfinished.pop(body)
    if address is None:
        reply = read(await client.post(url, content=body, headers=headers))
        address = look_again(url, reply)
    else:
        reply = {}
    pause_s = _FIRST_PAUSE_S
    while address is not None:
        unfinished.add(body, address)
        if time.monotonic() + pause_s > deadline:
            message = f"still running after request_timeout_s = {timeout_s:g}; the next attempt looks for it again"
            raise failures.NoAnswer(failures.failure(FailureKind.TIMEOUT, message))
        await asyncio.sleep(pause_s)
        pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
        found, wait_s = await _look(client, address, deadline - time.monotonic(), read, unfinished, body)
        if found is None:
            pause_s = max(pause_s, wait_s or 0.0)
            continue
        reply, address = found, look_again(url, found)
    unfinished.pop(body)
    return reply


async def _look(
    client: httpx.AsyncClient, address: str, left_s: float, read: Read, unfinished: Unfinished, body: bytes
) -> tuple[dict[str, Any] | None, float | None]:
    """The reply at `address`; None, with the server's Retry-After, if only the looking failed."""
    try:
        reply = await client.get(address, timeout=httpx.Timeout(None, read=max(left_s, 0.1)))
    except httpx.HTTPError:
        return None, None
    try:
        return read(reply), None
    except failures.NoAnswer as no_answer:
        if not reply.is_success and no_answer.failure.kind in failures.RETRYABLE:
            gate.hold(client, address, no_answer.retry_after_s)
            return None, no_answer.retry_after_s
        unfinished.pop(body)
        raise
