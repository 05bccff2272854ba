"""One HTTP client per event loop. The only file that knows which transport runs beneath httpx.

httpx's own pool walks all connections at every request: above about 50 in flight it spends its time there.
Source: pyreqwest documentation, "HTTPX compatibility"; reqwest documentation, "NoProxy".
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
from pyreqwest.client import ClientBuilder
from pyreqwest.compatibility.httpx import HttpxTransport
from pyreqwest.exceptions import NetworkError, PyreqwestError
from pyreqwest.proxy import ProxyBuilder

from eval_pipelines.client.dialects import dialect
from eval_pipelines.client.gate import Gate
from eval_pipelines.client.polling import Unfinished
from eval_pipelines.endpoint import Endpoint, Proxy

_CONNECT_TIMEOUT_S = 10.0
_LOOPBACK = "localhost,127.0.0.0/8,::1"


class _Transport(HttpxTransport):
    """Raises httpx's errors only, with their causes, and lets go of connections without waiting for a collection.

    The one beneath does so without the causes, and only for the part of a reply that it reads ahead (64 KiB).
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        n_cancels = _n_cancels()
        try:
            reply = await super().handle_async_request(request)
        except httpx.RequestError as error:
            beneath, kind = error.__cause__, type(error)
            words = _in_words(beneath) if isinstance(beneath, PyreqwestError) else str(error)
            # a frame beneath keeps the error, whose traceback keeps the frame, which keeps the connections
            for one in (error, beneath):
                if one is not None:
                    one.__traceback__ = None
            raise kind(words) from None
        except PyreqwestError as error:
            raise _as_httpx(error) from None
        except ValueError as error:
            raise httpx.DecodingError(str(error)) from None  # a header that is no text
        finally:
            _heed_cancel(n_cancels)
        reply.extensions.pop("pyreqwest_response", None)
        if isinstance(reply.stream, httpx.AsyncByteStream):
            reply.stream = _Body(reply.stream)
        return reply

    async def aclose(self) -> None:
        await super().aclose()
        del self._client  # idle connections live as long as it does


class _Body(httpx.AsyncByteStream):
    """What of a reply is still to come. A closed one keeps nothing: httpx's replies live until a collection."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream: httpx.AsyncByteStream | None = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert self._stream is not None
        n_cancels = _n_cancels()
        try:
            async for part in self._stream:
                _heed_cancel(n_cancels)
                yield part
        except PyreqwestError as error:
            raise _as_httpx(error) from None
        finally:
            _heed_cancel(n_cancels)

    async def aclose(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.aclose()


def _n_cancels() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _heed_cancel(n_before: int) -> None:
    """Pass on a cancel that came together with a reply: the transport beneath forgets it, and its task goes on."""
    if _n_cancels() > n_before:
        raise asyncio.CancelledError


def _as_httpx(error: PyreqwestError) -> httpx.RequestError:
    kind = httpx.ReadError if isinstance(error, NetworkError) else httpx.DecodingError
    return (httpx.ReadTimeout if isinstance(error, TimeoutError) else kind)(_in_words(error))


def _in_words(error: PyreqwestError) -> str:
    """The message with what is at the bottom of it: a refused port and an unknown certificate share the message."""
    details = getattr(error, "details", None) or {}
    causes = [cause["message"] for cause in details.get("causes") or ()]
    return ": ".join(dict.fromkeys([error.message, *causes[-1:]]))


class Client(httpx.AsyncClient):
    """An HTTP client with what its requests share.

    Attributes:
        gate: Holds requests back while a server asked to wait, and until rate limits have room.
        unfinished: Questions that a server has taken and not answered yet.
    """

    gate: Gate
    unfinished: Unfinished


def open_client(endpoint: Endpoint) -> Client:
    """A client for one endpoint. Close it with `async with`.

    Redirects are not followed: a proxy that redirects a POST would silently drop the body.
    """
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
    spoken_headers = getattr(dialect(endpoint.protocol, "chat"), "headers", None)
    client = Client(
        transport=_Transport(builder.build()),
        headers={
            "content-type": "application/json",
            **(spoken_headers(timeout_s) if spoken_headers else {}),
            **endpoint.headers,
        },
        # the transport adds up connect, read and write: as three equal numbers an attempt would take thrice as long
        timeout=httpx.Timeout(None, read=timeout_s),
        trust_env=False,
    )
    client.gate, client.unfinished = Gate(endpoint), Unfinished()
    return client


def _proxy(proxy: Proxy) -> ProxyBuilder:
    builder = ProxyBuilder.all(proxy.url).no_proxy(_LOOPBACK)
    return builder.basic_auth(proxy.username, proxy.password) if proxy.username else builder
