"""Ask an endpoint many requests at once."""

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from types import ModuleType
from typing import Any

import httpx

from eval_pipelines.client import failures, gate, polling
from eval_pipelines.client.dialects import dialect, renamed
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.routing import Router
from eval_pipelines.client.transport import open_client
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import EvalPipelinesError
from eval_pipelines.records import FailureKind, Request, Response, utc_now

_PROGRESS_EVERY_S = 0.5
# what every request carries; any other header may hold a key
_PLAIN_HEADERS = frozenset({"accept", "accept-encoding", "connection", "content-type", "user-agent"})
_MIN_SECRET = 5  # shorter parts are words such as "Key"
# below this many failures an unlucky start is not a verdict on the endpoint
_MIN_FAILURES_TO_STOP = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """How hard to ask and when to give up.

    Attributes:
        max_in_flight: Requests on the wire at once.
        max_attempts: HTTP round trips per request, the first included.
        max_failed_share: Asking stops as soon as more than this share of all requests has failed for good.
    """

    max_in_flight: int = 32
    max_attempts: int = 4
    max_failed_share: float = 1.0
    backoff: failures.Backoff = field(default_factory=failures.Backoff)


@dataclass(slots=True)
class AskReport:
    """What asking came to: counts by outcome, tokens, latencies in seconds."""

    n_requests: int = 0
    n_answered: int = 0
    n_failed: int = 0
    n_not_asked: int = 0
    n_attempts: int = 0
    failures: Counter[FailureKind] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    wall_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    first_failure: str = ""

    @property
    def n_done(self) -> int:
        """Requests with a final outcome."""
        return self.n_answered + self.n_failed

    def percentile_s(self, share: float) -> float | None:
        """Latency that `share` of the answers stayed below; None without answers."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    def count(self, response: Response) -> None:
        """Add one final outcome."""
        self.n_attempts += response.n_attempts
        if response.failure:
            self.n_failed += 1
            self.failures[response.failure.kind] += 1
            self.first_failure = self.first_failure or response.failure.message
            return
        self.n_answered += 1
        self.latencies_s.append(response.latency_s)
        self.prompt_tokens += response.prompt_tokens or 0
        self.completion_tokens += response.completion_tokens or 0


@dataclass(slots=True)
class _Outcome:
    """What one attempt came to."""

    told: dict[str, Any] = field(default_factory=dict)
    retry_after_s: float | None = None
    latency_s: float = 0.0
    asked_at: datetime = field(default_factory=utc_now)

    @property
    def is_gone(self) -> bool:
        failed = self.told.get("failure")
        return failed is not None and failed.kind is FailureKind.CONNECTION


Progress = Callable[[AskReport], None]
Outcome = Callable[[Request, Response], None]


async def ask(
    requests: Iterable[Request],
    n_requests: int,
    endpoint: Endpoint,
    *,
    journal: Journal,
    limits: Limits,
    on_outcome: Outcome,
    on_progress: Progress | None = None,
) -> AskReport:
    """Send every request; append each answer to the journal before counting it.

    Args:
        requests: any number, read lazily, in an order that keeps shared prompt prefixes together.
        n_requests: how many there are: the budget is a share of them.
        on_outcome: called with every final answer or failure, answers after they are in the journal.

    Returns:
        Counts by outcome, tokens and latencies. When more than `limits.max_failed_share` of the requests failed,
        the rest is not asked (`n_not_asked`): the caller decides what a broken budget means.

    Cancelling cancels what is in flight; nothing keeps running, and what was answered stays answered.
    """
    run = _Run(endpoint, journal, limits, on_outcome, AskReport(n_requests=n_requests), Router(endpoint.addresses))
    started = time.perf_counter()
    source = iter(requests)
    n_workers = min(limits.max_in_flight, endpoint.max_in_flight, max(n_requests, 1))
    try:
        async with open_client(endpoint) as client, asyncio.TaskGroup() as group:
            workers = [group.create_task(run.work(client, source)) for _ in range(n_workers)]
            if on_progress:
                group.create_task(_report(run.report, workers, on_progress))
    except BaseExceptionGroup as several:
        # one worker's full disk or interrupt ends them all: the reader needs that one error, not a group
        raise _first(several) from None
    run.report.wall_s = time.perf_counter() - started
    run.report.n_not_asked = n_requests - run.report.n_done
    if on_progress:
        on_progress(run.report)
    return run.report


def _first(several: BaseExceptionGroup[BaseException]) -> BaseException:
    stops = [error for error in several.exceptions if not isinstance(error, Exception)]
    ours = [error for error in several.exceptions if isinstance(error, EvalPipelinesError)]
    return [*stops, *ours, *several.exceptions][0]


@dataclass(slots=True)
class _Run:
    endpoint: Endpoint
    journal: Journal
    limits: Limits
    on_outcome: Outcome
    report: AskReport
    _router: Router
    _dialects: dict[str, ModuleType] = field(default_factory=dict)

    async def work(self, client: httpx.AsyncClient, source: Iterator[Request]) -> None:
        for request in source:
            response = await self._until_final(client, request)
            if response.is_answer:
                self.journal.append(response)
            self.report.count(response)
            self.on_outcome(request, response)
            if self._budget_is_broken():
                return

    def _budget_is_broken(self) -> bool:
        # a hair more than the product: 0.29 of 100 is 28.999999999999996
        allowed = self.limits.max_failed_share * self.report.n_requests + 1e-6
        return self.report.n_failed > max(allowed, _MIN_FAILURES_TO_STOP)

    async def _until_final(self, client: httpx.AsyncClient, request: Request) -> Response:
        spoken, watch, router = self._dialect(request.operation), self.endpoint.watch, self._router
        asked = renamed(request, self.endpoint)
        body = json.dumps(spoken.body(asked, self.endpoint.served_name), ensure_ascii=False).encode()
        tried: set[int] = set()
        n_excused = 0
        for n_attempts in itertools.count(1):
            n_restarts = watch.n_restarts if watch else 0
            # the choices of one question share its text
            index, replica = router.begin(request.sample_id, tried=tried)
            outcome = _Outcome()
            try:
                await self._attempt(client, replica.url, request, spoken, body, outcome)
            finally:
                router.end(index, is_answer="failure" not in outcome.told, is_gone=outcome.is_gone)
            failed = outcome.told.get("failure")
            if failed is not None and failed.kind in failures.RETRYABLE:
                tried.add(index)
                if watch and not router.has_other(tried) and await watch.settle(time.monotonic()) != n_restarts:
                    n_excused += 1  # the server had died: that says nothing of the request
                    tried.clear()
                    continue
                if n_attempts - n_excused < self.limits.max_attempts:
                    if not router.has_other(tried):
                        tried.clear()
                        backoff = self.limits.backoff
                        await asyncio.sleep(
                            backoff.wait_s(n_attempts - n_excused, outcome.retry_after_s, random.random())
                        )
                    continue
            return Response(
                request_digest=request.digest,
                n_attempts=n_attempts,
                latency_s=outcome.latency_s,
                asked_at=outcome.asked_at,
                **outcome.told,
            )
        raise AssertionError("unreachable: the loop above only ends by returning")

    async def _attempt(
        self,
        client: httpx.AsyncClient,
        address: str,
        request: Request,
        spoken: ModuleType,
        body: bytes,
        outcome: "_Outcome",
    ) -> None:
        url = f"{address}{spoken.path(self.endpoint.served_name)}{self.endpoint.path_suffix}"
        ticket = await gate.turn(client, url, request)  # before the clock starts: waiting is no latency
        outcome.asked_at, started = utc_now(), time.perf_counter()
        try:
            outcome.told = spoken.read(request, await post(client, url, body, spoken))
            gate.settled(ticket, outcome.told)
        except failures.NoAnswer as no_answer:
            outcome.told, outcome.retry_after_s = {"failure": no_answer.failure}, no_answer.retry_after_s
        if "top_logprobs" not in self.endpoint.offers:
            outcome.told.pop("is_greedy", None)
        outcome.latency_s = time.perf_counter() - started

    def _dialect(self, operation: str) -> ModuleType:
        if operation not in self._dialects:
            self._dialects[operation] = dialect(self.endpoint.protocol, operation)
        return self._dialects[operation]


async def post(client: httpx.AsyncClient, url: str, body: bytes, spoken: ModuleType | None = None) -> dict[str, Any]:
    """One attempt. Raises NoAnswer for everything that is no JSON object in a 2xx reply without an error."""
    look_again = getattr(spoken, "look_again", None)
    try:
        if look_again:
            return await polling.answer(client, url, body, look_again, _object_in)
        return _object_in(await client.post(url, content=body))
    except httpx.HTTPError as error:
        failed, retry_after_s = failures.from_exception(error), None
    except failures.NoAnswer as no_answer:
        failed, retry_after_s = no_answer.failure, no_answer.retry_after_s
    gate.hold(client, url, retry_after_s)
    raise failures.NoAnswer(failures.without(failed, _secrets(client)), retry_after_s=retry_after_s)


def _secrets(client: httpx.AsyncClient) -> Iterator[str]:
    for name, value in client.headers.items():
        if name not in _PLAIN_HEADERS:
            yield from (part for part in {value, *value.split()} if len(part) >= _MIN_SECRET)


def _object_in(reply: httpx.Response) -> dict[str, Any]:
    if reply.is_redirect:
        where = reply.headers.get("location", "somewhere else")
        message = f"HTTP {reply.status_code} redirects to {where}: set base_url to the address that answers"
        raise failures.NoAnswer(failures.failure(FailureKind.REJECTED, message, status=reply.status_code))
    if not reply.is_success:
        failed = failures.from_status(reply.status_code, reply.content)
        raise failures.NoAnswer(failed, retry_after_s=failures.retry_after_s(reply.headers))
    try:
        data = json.loads(reply.content)
    except (ValueError, RecursionError) as error:
        start = reply.content[:80].decode(errors="replace")
        message = f"the reply is no JSON (it starts {start!r})"
        raise failures.NoAnswer(failures.failure(FailureKind.MALFORMED, message, status=reply.status_code)) from error
    if not isinstance(data, dict):
        raise failures.NoAnswer(failures.failure(FailureKind.MALFORMED, "the reply is no JSON object", status=200))
    if data.get("error"):
        raise failures.NoAnswer(failures.from_error_object(data["error"], status=reply.status_code))
    return data


async def _report(report: AskReport, workers: list[asyncio.Task[None]], on_progress: Progress) -> None:
    while not all(worker.done() for worker in workers):
        on_progress(report)
        await asyncio.wait(workers, timeout=_PROGRESS_EVERY_S, return_when=asyncio.ALL_COMPLETED)
