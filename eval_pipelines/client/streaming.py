"""Answers that come as a stream: put together into the one reply that they amount to, with the times of their tokens.

Server-sent events: lines of `data: …`, an empty line after each event. Servers differ: some leave the empty line or
the end mark out, some tell errors under a name of their own, some send comments to show that they are alive.

Source  HTML Living Standard, "Server-sent events", section 9.2.6
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterable, Callable, Mapping, MutableMapping, Sequence
from types import ModuleType
from typing import Any

import httpx

from eval_pipelines.client import failures
from eval_pipelines.client.dialects._openai_stream import Whole
from eval_pipelines.client.transport import AS_IT_ARRIVES
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.records import Failure, FailureKind, Request

_END = b"[DONE]"
_AFTER_END_S = 1.0  # to see the connection through, so that it can be used again
_MOST_LINES = 100
_LATE_SHARE = (
    0.1  # how much later than told a silence may be cut: moving a timer at each token costs more than reading it
)

# what a value of another type comes to, somewhere in a chunk
_ODD = (TypeError, AttributeError, ValueError, LookupError)

Read = Callable[[httpx.Response], dict[str, Any]]


class Streamed(dict[str, Any]):
    """A reply that came as a stream.

    Attributes:
        ttft_s: Until the first token with text or reasoning; None: there was none.
        inter_token_s: Mean time between tokens after it; None: there were fewer than two.
    """

    ttft_s: float | None = None
    inter_token_s: float | None = None


def asked(spoken: ModuleType, request: Request, body: dict[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """The body, asking for a stream where the endpoint is asked so, the dialect can, and there is something to see."""
    streamed = getattr(spoken, "streamed", None) if endpoint.is_streamed else None
    return body if streamed is None or request.is_likelihood else streamed(body)


def is_asked(body: bytes) -> bool:
    """Whether a request's body asks for a stream. No text in it can look so: its quotes are escaped."""
    return b'"stream":true' in body


def timed(told: Sequence[MutableMapping[str, Any]], reply: Mapping[str, Any] | None) -> None:
    """Add to the Response fields what the stream's clock says; nothing if it was none."""
    if isinstance(reply, Streamed):
        for answer_ in told:
            answer_["ttft_s"], answer_["inter_token_s"] = reply.ttft_s, reply.inter_token_s


def is_stream(headers: Mapping[str, str], body: bytes = b"") -> bool:
    """True for a stream by its name, or by its first bytes: some call it plain text."""
    is_named = (headers.get("content-type") or "").lower().startswith("text/event-stream")
    return is_named or body.lstrip().startswith((b"data:", b"event:"))


def put_together(body: bytes) -> dict[str, Any]:
    """The reply that the whole text of a stream amounts to. Raises NoAnswer for one that ends too early."""
    events = _Events(Whole())
    events.read(body)
    return events.reply()


async def answer(
    client: httpx.AsyncClient,
    url: str,
    body: bytes,
    spoken: ModuleType | None,
    headers: Mapping[str, str] | None,
    idle_timeout_s: float,
    read: Read,
) -> dict[str, Any]:
    """One attempt whose reply may be a stream.

    Args:
        spoken: the dialect; its `Whole` puts chunks together.
        idle_timeout_s: how long a stream may say nothing, its waits for headers and first token included.
        read: what a reply holds that is no stream; raises NoAnswer where it holds none.

    Raises:
        NoAnswer: a timeout if the stream falls silent, malformed if it ends too early; whatever `read` raises.
        httpx.HTTPError: the question could not be sent.
    """
    started = time.perf_counter()
    request = client.build_request("POST", url, content=body, headers=headers, extensions={AS_IT_ARRIVES: True})
    try:
        reply = await client.send(request, stream=True)
    except httpx.TimeoutException:
        if idle_timeout_s <= time.perf_counter() - started < (client.timeout.read or math.inf):
            raise _silent(idle_timeout_s, 0) from None
        raise
    try:
        if not (reply.is_success and is_stream(reply.headers)):
            await reply.aread()
            return read(reply)
        events = _Events(getattr(spoken, "Whole", Whole)())
        first, last = await _read(reply, events, idle_timeout_s)
    finally:
        await reply.aclose()
    streamed = Streamed(events.reply())
    if first is not None and last is not None:
        streamed.ttft_s = first - started
        streamed.inter_token_s = (last - first) / events.whole.n_gaps if events.whole.n_gaps else None
    return streamed


async def _read(reply: httpx.Response, events: "_Events", idle_timeout_s: float) -> tuple[float | None, float | None]:
    """When the first token came and when the last."""
    first = last = None
    clock, whole = asyncio.get_running_loop().time, events.whole
    # a hundred parts a second: what each of them passes counts
    parts = reply.aiter_bytes() if "content-encoding" in reply.headers else reply.stream
    assert isinstance(parts, AsyncIterable)
    moves_every_s = idle_timeout_s * _LATE_SHARE
    move_at = clock()
    try:
        async with asyncio.timeout(idle_timeout_s) as patience:
            async for part in parts:
                if events.read(part):
                    last = time.perf_counter()
                    first = first or last
                now = clock()
                if whole.is_done:
                    patience.reschedule(now + _AFTER_END_S)
                elif now >= move_at:
                    move_at = now + moves_every_s
                    patience.reschedule(move_at + idle_timeout_s)
    except TimeoutError:
        if not whole.is_complete:
            raise _silent(idle_timeout_s, whole.n_tokens) from None
    except httpx.HTTPError as error:
        if not whole.is_complete:
            raise events.broken(failures.from_exception(error)) from error
    return first, last


def _silent(idle_timeout_s: float, n_tokens: int) -> failures.NoAnswer:
    message = (
        f"the stream said nothing for idle_timeout_s = {idle_timeout_s:g}, after {n_tokens} tokens. If requests wait "
        f"that long for their turn, raise idle_timeout_s or lower max_in_flight"
    )
    return failures.NoAnswer(failures.failure(FailureKind.TIMEOUT, message))


class _Events:
    """The lines of a stream, read as they come."""

    def __init__(self, whole: Whole) -> None:
        self.whole = whole
        self._rest: list[bytes] = []  # of a line whose end is still to come
        self._data: list[bytes] = []  # of an event that is no JSON yet
        self._name = b""

    def read(self, part: bytes) -> bool:
        """Some bytes; True if they say something. Raises NoAnswer for an error that the server tells."""
        if b"\n" not in part:
            self._rest.append(part)
            return False
        *lines, rest = b"".join([*self._rest, part]).split(b"\n")
        self._rest = [rest]
        says_something = False
        for line in lines:
            says_something = self._line(line) or says_something
        return says_something

    def reply(self) -> dict[str, Any]:
        """The reply, once there is no more. Raises NoAnswer for one that ended too early."""
        self._line(b"".join(self._rest))
        if self._data or not self.whole.is_complete:
            message = "the stream ended too early: neither [DONE] nor a finish_reason"
            raise self.broken(failures.failure(FailureKind.MALFORMED, message, status=200))
        try:
            return self.whole.reply()
        except _ODD as error:
            raise self.broken(_odd(error)) from None

    def broken(self, failed: Failure) -> failures.NoAnswer:
        """The failure, and how far the stream had come."""
        message = f"{failed.message} (after {self.whole.n_tokens} tokens of a stream)"
        return failures.NoAnswer(failures.failure(failed.kind, message, status=failed.http_status))

    def _line(self, line: bytes) -> bool:
        if line.startswith(b"data:"):
            return self._add(line[5:].strip())
        line = line.strip()
        name, _, value = line.partition(b":")
        if not line:
            self._name = b""
            if self._data:
                raise self._no_chunk()
        elif name == b"event":
            self._name = value.strip()
        elif name == b"error":  # as older llama-servers have it
            raise self.broken(failures.from_error_object(_json(value) or value.decode(errors="replace")))
        return False

    def _add(self, value: bytes) -> bool:
        if value == _END:
            self.whole.is_done = True
            return False
        chunk = _json(b"\n".join([*self._data, value]) if self._data else value)
        if chunk is None:  # an event may be spread over several lines
            self._data.append(value)
            if len(self._data) > _MOST_LINES:
                raise self._no_chunk()
            return False
        self._data.clear()
        try:
            if self._name == b"error":
                told = chunk.get("error") if isinstance(chunk, dict) else None
                raise failures.NoAnswer(failures.from_error_object(told or chunk))
            return self.whole.add(chunk)
        except failures.NoAnswer as no_answer:
            raise self.broken(no_answer.failure) from None
        except _ODD as error:
            raise self.broken(_odd(error)) from None

    def _no_chunk(self) -> failures.NoAnswer:
        start = b"\n".join(self._data)[:80].decode(errors="replace")
        message = f"a chunk is no JSON (it starts {start!r})"
        return self.broken(failures.failure(FailureKind.MALFORMED, message, status=200))


def _odd(error: Exception) -> Failure:
    message = f"a chunk is not made as the API says ({type(error).__name__}: {error})"
    return failures.failure(FailureKind.MALFORMED, message, status=200)


def _json(text: bytes) -> Any:
    """The value; None where it is none."""
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError):
        return None
