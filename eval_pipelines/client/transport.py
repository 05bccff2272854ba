"""One HTTP client per event loop. The only file that knows which transport runs beneath httpx.

httpx's own pool walks all connections at every request: above about 50 in flight it spends its time there.
pyreqwest's own transport for httpx hands a reply over once 64 KiB or all of it is there, so a short stream has no first
token; and what breaks beyond that comes out as an error that is not httpx's. Hence a transport of our own.

Source  pyreqwest 0.15, "HTTPX compatibility", `streamed_read_buffer_limit`; reqwest documentation, "NoProxy"
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

import httpx
from pyreqwest import client as reqwest
from pyreqwest import exceptions
from pyreqwest.client import ClientBuilder
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.response import Response, ResponseBodyReader

from eval_pipelines.client.dialects import dialect
from eval_pipelines.client.gate import Gate
from eval_pipelines.client.polling import Unfinished
from eval_pipelines.endpoint import Endpoint, Proxy

_CONNECT_TIMEOUT_S = 10.0
# a silence amid a stream is told sooner by whoever knows how much came before it
_SILENCE_FACTOR = 1.2
_LOOPBACK = "localhost,127.0.0.0/8,::1"
# no reply to one question is as long: what is longer would fill the memory
_MOST_BYTES = 256 * 2**20
# of a request's extensions: its reply is handed over as it arrives
AS_IT_ARRIVES = "eval_pipelines.as_it_arrives"


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that was read whole. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Client(httpx.AsyncClient):
    """An HTTP client with what its requests share.

    Attributes:
        gate: Holds requests back while a server asked to wait, while enough are in flight, and for rate limits.
        unfinished: Questions that a server has taken and not answered yet.
        idle_timeout_s: Seconds a stream may say nothing; None: nothing is asked for as a stream.
    """

    gate: Gate
    unfinished: Unfinished
    idle_timeout_s: float | None

    async def post_bytes(self, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """`post`, for bytes that are sent as they are and a reply that is wanted whole. Raises httpx.HTTPError.

        httpx looks for cookies, redirects, authentication and the like at every request, and so it does at every reply:
        without them it costs a third.
        """
        assert isinstance(self._transport, _Transport), "made by open_client"
        return await self._transport.whole(url, body, headers)

    async def aclose(self) -> None:
        """Let go of the connections, and of what clients of the endpoint share."""
        self.gate.close()
        await super().aclose()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.gate.close()
        await super().__aexit__(exc_type, exc_value, traceback)


def open_client(endpoint: Endpoint) -> Client:
    """A client for one endpoint. Close it with `async with`.

    Redirects are not followed: a proxy that redirects a POST would silently drop the body.
    """
    timeout_s = endpoint.request_timeout_s
    spoken_headers = getattr(dialect(endpoint.protocol, "chat"), "headers", None)
    headers = {
        "content-type": "application/json",
        "user-agent": "eval-pipelines",
        **(spoken_headers(timeout_s) if spoken_headers else {}),
        **endpoint.headers,
    }
    plain, of_streams = _builder(endpoint).default_headers(headers).build(), None
    if endpoint.is_streamed:
        # not for all: what is no stream says nothing until it is done
        idle_s = endpoint.idle_timeout_s * _SILENCE_FACTOR
        of_streams = _builder(endpoint).read_timeout(timedelta(seconds=idle_s)).build()
    client = Client(
        transport=_Transport(plain, of_streams),
        headers=headers,
        # `read` is all that an attempt may take, its body included
        timeout=httpx.Timeout(None, read=timeout_s),
        trust_env=False,
    )
    client.gate, client.unfinished = Gate(endpoint), Unfinished()
    client.idle_timeout_s = endpoint.idle_timeout_s if endpoint.is_streamed else None
    return client


def _builder(endpoint: Endpoint) -> ClientBuilder:
    timeout_s = endpoint.request_timeout_s
    builder = (
        ClientBuilder()
        .max_connections(None)  # the caller's limiter decides how many are in flight, never the pool
        .connect_timeout(timedelta(seconds=min(_CONNECT_TIMEOUT_S, timeout_s)))
        .timeout(timedelta(seconds=timeout_s))
        .error_for_status(False)
        .follow_redirects(False)
        .no_proxy()
    )
    if endpoint.proxy:
        builder = builder.proxy(_proxy(endpoint.proxy))
    return builder


class _Transport(httpx.AsyncBaseTransport):
    """httpx on pyreqwest. Of httpx's four timeouts `read` counts, for the whole of an attempt.

    Raises httpx's errors only, and lets go of connections without waiting for a collection.

    Args:
        of_streams: for replies that are handed over as they arrive, if not `client`.
    """

    def __init__(self, client: reqwest.Client, of_streams: reqwest.Client | None = None) -> None:
        self._client, self._of_streams = client, of_streams or client

    async def whole(self, url: str, body: bytes, headers: Mapping[str, str] | None) -> Reply:
        """Send a POST, and read all of its reply. Raises httpx.HTTPError."""
        builder = self._client.post(url).body_bytes(body)
        opened = (builder.headers(headers) if headers else builder).build_streamed()
        n_cancels = _n_cancels()
        try:
            async with opened as reply:
                status, told = reply.status, dict(reply.headers.items())
                is_bounded = int(told.get("content-length") or _MOST_BYTES + 1) <= _MOST_BYTES
                content = bytes(await reply.bytes()) if is_bounded else await _no_more(reply.body_reader)
            # of a coding that nobody asked for
            if "content-encoding" in told:
                content = httpx.Response(status, headers=told, content=content).content
        except (exceptions.PyreqwestError, ValueError) as error:
            raise _in_httpx(error) from None
        finally:
            _heed_cancel(n_cancels)
        return Reply(status, told, content)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it; the reply's body is still to be read. Raises httpx.HTTPError."""
        is_to_arrive = AS_IT_ARRIVES in request.extensions
        # no name for the client: the frame of a cancelled request would keep it, and its connections
        builder = (self._of_streams if is_to_arrive else self._client).request(request.method, str(request.url))
        builder = builder.headers(request.headers.multi_items()).body_bytes(request.content)
        if (timeout_s := request.extensions.get("timeout", {}).get("read")) is not None:
            builder = builder.timeout(timedelta(seconds=timeout_s))
        opened = (builder.streamed_read_buffer_limit(0) if is_to_arrive else builder).build_streamed()
        n_cancels = _n_cancels()
        try:
            reply = await opened.__aenter__()
            told = list(reply.headers.items())
        except (exceptions.PyreqwestError, ValueError) as error:
            raise _in_httpx(error) from None
        finally:
            _heed_cancel(n_cancels)
        return httpx.Response(reply.status, headers=told, stream=_Body(reply.body_reader, opened, is_to_arrive))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.close()
        await self._of_streams.close()
        del self._client, self._of_streams  # idle connections live as long as it does


async def _no_more(reader: ResponseBodyReader) -> bytes:
    """A body of unknown length. Raises httpx.DecodingError for one that has no end."""
    parts: list[bytes] = []
    n_bytes = 0
    while (part := await reader.read()) is not None:
        parts.append(bytes(part))
        n_bytes += len(parts[-1])
        if n_bytes > _MOST_BYTES:
            raise httpx.DecodingError(f"the reply is longer than {_MOST_BYTES // 2**20} MiB")
    return b"".join(parts)


class _Body(httpx.AsyncByteStream):
    """What a reply holds: as it arrives, or in parts as large as can be had."""

    def __init__(
        self, reader: ResponseBodyReader, opened: AbstractAsyncContextManager[Response], is_to_arrive: bool
    ) -> None:
        self._read = reader.read_chunk if is_to_arrive else reader.read
        self._opened: AbstractAsyncContextManager[Response] | None = opened

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The parts. Raises httpx.HTTPError where they end too early."""
        n_cancels = _n_cancels()
        try:
            while (part := await self._read()) is not None:
                _heed_cancel(n_cancels)
                yield bytes(part)
        except exceptions.PyreqwestError as error:
            raise _in_httpx(error) from None
        finally:
            _heed_cancel(n_cancels)

    async def aclose(self) -> None:
        """Give the connection back if all was read, else close it; a closed one keeps nothing."""
        if self._opened is not None:
            opened, self._opened = self._opened, None
            del self._read
            await opened.__aexit__(None, None, None)


def _n_cancels() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _heed_cancel(n_before: int) -> None:
    """Pass on a cancel that came together with a reply: the transport beneath forgets it, and its task goes on."""
    if _n_cancels() > n_before:
        raise asyncio.CancelledError


_NO_CONNECTION = "client error (Connect)"
# the first that an error is an instance of counts
_IN_HTTPX: tuple[tuple[type[exceptions.PyreqwestError], type[httpx.RequestError]], ...] = (
    (exceptions.ConnectTimeoutError, httpx.ConnectTimeout),
    (exceptions.ReadTimeoutError, httpx.ReadTimeout),
    (exceptions.WriteTimeoutError, httpx.WriteTimeout),
    (exceptions.PoolTimeoutError, httpx.PoolTimeout),
    (exceptions.RequestTimeoutError, httpx.TimeoutException),
    (exceptions.ConnectError, httpx.ConnectError),
    (exceptions.ReadError, httpx.ReadError),
    (exceptions.WriteError, httpx.WriteError),
    (exceptions.NetworkError, httpx.NetworkError),
    # what is left of the errors of a request: a body that broke off or is none
    (exceptions.PyreqwestError, httpx.DecodingError),
)


def _in_httpx(error: exceptions.PyreqwestError | ValueError) -> httpx.RequestError:
    # a frame beneath keeps the error, whose traceback keeps the frame, which keeps the connections
    error.__traceback__ = None
    if isinstance(error, ValueError):
        return httpx.DecodingError(str(error))  # a header that is no text
    kind, causes = next(theirs for ours, theirs in _IN_HTTPX if isinstance(error, ours)), _causes(error)
    if kind is httpx.ConnectError and _NO_CONNECTION not in causes:
        kind = httpx.ReadError  # there was a connection, and it broke before a reply began
    # a refused port and an unknown certificate share the message: what is at the bottom tells them apart
    return kind(": ".join(dict.fromkeys([error.message, *causes[-1:]])))


def _causes(error: exceptions.PyreqwestError) -> list[str]:
    details = getattr(error, "details", None) or {}
    return [cause["message"] for cause in details.get("causes") or ()]


def _proxy(proxy: Proxy) -> ProxyBuilder:
    builder = ProxyBuilder.all(proxy.url).no_proxy(_LOOPBACK)
    return builder.basic_auth(proxy.username, proxy.password) if proxy.username else builder
