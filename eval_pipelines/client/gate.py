"""What every request of one client passes: it waits while a server asked to be left alone, and for rate limits."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from eval_pipelines.client.failures import Backoff
from eval_pipelines.client.rate import Limiter, PerMinute, Ticket, estimate_tokens, path_of
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.records import Failure, Request


@dataclass(slots=True)
class Turn:
    """One attempt that was let through, and what it holds until it is over."""

    ticket: Ticket | None = None


class Gate:
    """Holds requests back: while a server asked to wait, and until the limits have room."""

    def __init__(self, endpoint: Endpoint) -> None:
        limit = PerMinute(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        urls = {endpoint.url, *(replica.url for replica in endpoint.addresses)} if limit != PerMinute() else set()
        self._limiters: Mapping[str, Limiter] = {
            url: Limiter(limit, path_of(url, endpoint.key_env, endpoint.shared_folder)) for url in urls
        }
        self._held_until: dict[str, float] = {}

    async def turn(self, url: str, request: Request, n_answers: int = 1) -> Turn:
        """Wait until `request` may be sent to `url`; `over` ends what is returned."""
        host = _host(url)
        while (left_s := self._held_until.get(host, 0.0) - time.monotonic()) > 0:  # noqa: ASYNC110 - it may be prolonged
            await asyncio.sleep(left_s * (1 + 0.1 * random.random()))
        for address, limiter in self._limiters.items():
            if url.startswith(f"{address}/"):
                return Turn(await limiter.take(estimate_tokens(request, n_answers)))
        return Turn()

    def over(self, turn: Turn, told: Sequence[Mapping[str, Any]], failed: Failure | None) -> None:
        """An attempt is over: Response fields of its answers, or its failure; neither if it was cancelled."""
        del failed
        counts = [answer.get(name) for answer in told for name in ("prompt_tokens", "completion_tokens")]
        if turn.ticket is not None and any(count is not None for count in counts):
            turn.ticket.limiter.settle(turn.ticket, sum(count or 0 for count in counts))

    def hold(self, url: str, wait_s: float) -> None:
        """The server at `url` asked to be left alone for so many seconds."""
        until = time.monotonic() + min(wait_s, Backoff().retry_after_cap_s)
        self._held_until[_host(url)] = max(until, self._held_until.get(_host(url), 0.0))


async def turn(client: httpx.AsyncClient, url: str, request: Request, n_answers: int = 1) -> Turn:
    """Wait until `request` may be sent; what is returned goes to `over`."""
    gate: Gate | None = getattr(client, "gate", None)
    return Turn() if gate is None else await gate.turn(url, request, n_answers)


def over(client: httpx.AsyncClient, turn: Turn, told: Sequence[Mapping[str, Any]], failed: Failure | None) -> None:
    """An attempt that had its turn is over."""
    gate: Gate | None = getattr(client, "gate", None)
    if gate is not None:
        gate.over(turn, told, failed)


def hold(client: httpx.AsyncClient, url: str, wait_s: float | None) -> None:
    """Keep all requests of this client from the server at `url` as long as it asked for."""
    gate: Gate | None = getattr(client, "gate", None)
    if gate is not None and wait_s:
        gate.hold(url, wait_s)


def _host(url: str) -> str:
    return url.split("/", 3)[2]
