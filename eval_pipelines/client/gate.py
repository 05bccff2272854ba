"""What every request of one client passes.

It waits while a server asked to be left alone, while enough are in flight, and until the rate limits have room.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from eval_pipelines.client import rate, slots
from eval_pipelines.client.course import Course
from eval_pipelines.client.failures import Backoff
from eval_pipelines.client.interception import StopAsking
from eval_pipelines.client.pace_state import Bounds
from eval_pipelines.client.rate import Limiter, PerMinute, Ticket, estimate_tokens, most_tokens
from eval_pipelines.client.slots import Slots
from eval_pipelines.client.spending import spending_of
from eval_pipelines.client.spent import Reservation
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.records import Failure, Request

_NO_LIMIT = (
    "The deployment has a daily budget or tokens_per_minute, and nothing limits how long an answer may become: "
    "what it may take cannot be counted. Let requests carry `max_tokens` (by `generation` of the benchmark; see that no "
    "`drop_params`, `payload` or `renames: {max_tokens: null}` takes it away), or take the limit on tokens out. Where the "
    "server calls it otherwise, say `renames: {max_tokens: ITS_NAME}`."
)


@dataclass(slots=True)
class Turn:
    """One attempt that was let through, and what it holds until it is over."""

    ticket: Ticket | None = None
    reservation: Reservation | None = None
    started_at: float = 0.0
    n_slots: int = 0


class Gate:
    """Holds requests back: while a server asked to wait, while enough are in flight, and until the limits have room."""

    def __init__(self, endpoint: Endpoint) -> None:
        limit = PerMinute(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        urls = {endpoint.url, *(replica.url for replica in endpoint.addresses)} if limit != PerMinute() else set()
        self._limiters: Mapping[str, Limiter] = {
            url: Limiter(limit, rate.path_of(url, endpoint.key_env, endpoint.shared_folder)) for url in urls
        }
        self._spending = spending_of(endpoint)
        self._counts_tokens = endpoint.tokens_per_minute is not None or self._spending is not None
        self._limits_of_answers = rate.limits_of_answers(endpoint.renames)
        self._is_limited = bool(urls) or self._spending is not None
        self._slots: Slots | None = None
        self.course: Course | None = None
        """How many were in flight; None where that does not adapt."""
        bounds = Bounds(endpoint.min_in_flight, endpoint.max_in_flight)
        path = slots.path_of(endpoint.url, endpoint.key_env, endpoint.shared_folder)
        adapts = bounds.floor < bounds.ceiling
        # also where nothing adapts: others share it, and with several answers to a request so many workers have more
        if adapts or path is not None or endpoint.n_per_request > 1:
            self._slots = Slots(bounds, path)
            self.course = self._slots.course if adapts else None
        self._held_until: dict[str, float] = {}

    async def turn(self, url: str, request: Request, n_answers: int = 1, *, is_again: bool = False) -> Turn:
        """Wait until `request` may be sent to `url`; `over` ends what is returned.

        Raises:
            StopAsking: a daily budget is used up, or tokens are counted and nothing limits the answer.
            ConfigError: what processes count together cannot be kept.
        """
        if self._counts_tokens and most_tokens(request, self._limits_of_answers) is None:
            raise StopAsking(_NO_LIMIT)
        host = _host(url)
        while True:
            await self._until_not_held(host)
            turn = Turn()
            try:
                if self._slots is not None:
                    turn.n_slots = await self._slots.take(n_answers, is_again=is_again)
                if self._is_limited and self._held_s(host) <= 0:
                    # first what may end the asking: nobody waits for a ticket in vain
                    if self._spending is not None:
                        turn.reservation = await self._spending.reserve(request, n_answers)
                    turn.ticket = await self._ticket(url, request, n_answers)
            except BaseException:
                self._give_back(turn)
                raise
            if self._held_s(host) <= 0:
                turn.started_at = time.monotonic()
                return turn
            self._give_back(turn)  # it was told so while this one waited

    def _give_back(self, turn: Turn) -> None:
        """Nothing was sent."""
        if self._slots is not None and turn.n_slots:
            self._slots.give(turn.n_slots)
        if self._spending is not None and turn.reservation is not None:
            self._spending.give_back(turn.reservation)
        if turn.ticket is not None:
            turn.ticket.limiter.give_back(turn.ticket)

    def over(self, turn: Turn, told: Sequence[Mapping[str, Any]], failed: Failure | None) -> None:
        """An attempt is over: Response fields of its answers, or its failure; neither if it was cancelled."""
        if self._slots is not None:
            self._slots.saw(turn.started_at, told, failed)
            self._slots.give(turn.n_slots)
        if self._spending is not None and turn.reservation is not None:
            self._spending.settle(turn.reservation, told, failed)
        if turn.ticket is None:
            return
        counts = [answer.get(name) for answer in told for name in ("prompt_tokens", "completion_tokens")]
        if any(count is not None for count in counts):
            turn.ticket.limiter.settle(turn.ticket, sum(count or 0 for count in counts))

    def hold(self, url: str, wait_s: float) -> None:
        """The server at `url` asked to be left alone for so many seconds."""
        host, until = _host(url), time.monotonic() + min(wait_s, Backoff().retry_after_cap_s)
        self._held_until[host] = max(until, self._held_until.get(host, 0.0))
        if self._slots is not None:
            self._slots.hold(host, until)

    def is_held(self, url: str) -> bool:
        """Whether the server at `url` asked to be left alone for now."""
        return self._held_s(_host(url)) > 0

    def close(self) -> None:
        """Let go of what all clients of the endpoint share."""
        if self._slots is not None:
            self._slots.close()

    async def _ticket(self, url: str, request: Request, n_answers: int) -> Ticket | None:
        for address, limiter in self._limiters.items():
            if url.startswith(f"{address}/"):
                return await limiter.take(estimate_tokens(request, n_answers, self._limits_of_answers))
        return None

    def _held_s(self, host: str) -> float:
        until = self._held_until.get(host, 0.0)
        return (max(until, self._slots.held_until(host)) if self._slots else until) - time.monotonic()

    async def _until_not_held(self, host: str) -> None:
        while (left_s := self._held_s(host)) > 0:  # noqa: ASYNC110 - it may be prolonged
            await asyncio.sleep(left_s * (1 + 0.1 * random.random()))


async def turn(
    client: httpx.AsyncClient, url: str, request: Request, n_answers: int = 1, *, is_again: bool = False
) -> Turn:
    """Wait until `request` may be sent; what is returned goes to `over`. What was asked before goes first."""
    gate: Gate | None = getattr(client, "gate", None)
    return Turn() if gate is None else await gate.turn(url, request, n_answers, is_again=is_again)


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
