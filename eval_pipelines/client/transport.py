"""One HTTP client per event loop. The only file that knows which transport runs beneath httpx.

httpx's own pool walks all connections at every request: above about 50 in flight it spends its time there.
Source: pyreqwest documentation, "HTTPX compatibility".
"""

from datetime import timedelta

import httpx
from pyreqwest.client import ClientBuilder
from pyreqwest.compatibility.httpx import HttpxTransport

from eval_pipelines.endpoint import Endpoint

_CONNECT_TIMEOUT_S = 10.0


def open_client(endpoint: Endpoint) -> httpx.AsyncClient:
    """A client for one endpoint. Close it with `async with`.

    Redirects are not followed: a proxy that redirects a POST would silently drop the body.
    """
    transport = HttpxTransport(
        ClientBuilder()
        .max_connections(None)  # the caller's limiter decides how many are in flight, never the pool
        .connect_timeout(timedelta(seconds=min(_CONNECT_TIMEOUT_S, endpoint.request_timeout_s)))
        .timeout(timedelta(seconds=endpoint.request_timeout_s))
        .error_for_status(False)
        .follow_redirects(False)
        .no_proxy()
        .build()
    )
    headers = {"content-type": "application/json", **endpoint.headers}
    timeout = httpx.Timeout(endpoint.request_timeout_s, pool=None)
    return httpx.AsyncClient(transport=transport, headers=headers, timeout=timeout, trust_env=False)
