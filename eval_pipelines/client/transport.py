"""One HTTP client per event loop. The only file that knows which transport runs beneath httpx.

httpx's own pool walks all connections at every request: above about 50 in flight it spends its time there.
Source: pyreqwest documentation, "HTTPX compatibility"; reqwest documentation, "NoProxy".
"""

from datetime import timedelta
from types import TracebackType

import httpx
from pyreqwest.client import ClientBuilder
from pyreqwest.compatibility.httpx import HttpxTransport
from pyreqwest.proxy import ProxyBuilder

from eval_pipelines.client.dialects import dialect
from eval_pipelines.client.gate import Gate
from eval_pipelines.client.polling import Unfinished
from eval_pipelines.endpoint import Endpoint, Proxy

_CONNECT_TIMEOUT_S = 10.0
_LOOPBACK = "localhost,127.0.0.0/8,::1"


class Client(httpx.AsyncClient):
    """An HTTP client with what its requests share.

    Attributes:
        gate: Holds requests back while a server asked to wait, while enough are in flight, and for rate limits.
        unfinished: Questions that a server has taken and not answered yet.
    """

    gate: Gate
    unfinished: Unfinished

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
        transport=HttpxTransport(builder.build()),
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
