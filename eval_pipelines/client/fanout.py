"""Ask an endpoint many requests at once."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import ModuleType
from typing import Any

import httpx

from eval_pipelines.client import batches, exchange, failures, gate
from eval_pipelines.client.dialects import dialect, renamed
from eval_pipelines.client.interception import Attempt, Interceptor, StopAsking
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.report import AskReport, Progress
from eval_pipelines.client.routing import Router
from eval_pipelines.client.transport import open_client
from eval_pipelines.endpoint import Endpoint, Replica
from eval_pipelines.errors import EvalPipelinesError
from eval_pipelines.records import Failure, FailureKind, Request, Response, utc_now

_PROGRESS_EVERY_S = 0.5
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
class _Outcome:
    """What one attempt came to: Response fields of each request that it asked, or one failure for all of them."""

    told: Sequence[dict[str, Any]] = ()
    failure: Failure | None = None
    retry_after_s: float | None = None
    latency_s: float = 0.0
    asked_at: datetime = field(default_factory=utc_now)


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
    interceptors: Sequence[Interceptor] = (),
) -> AskReport:
    """Send every request; append each answer to the journal before counting it.

    Args:
        requests: any number, read lazily, in an order that keeps shared prompt prefixes together.
        n_requests: how many there are: the budget is a share of them.
        on_outcome: called with every final answer or failure, answers after they are in the journal.
        interceptors: see each attempt, in this order on its way out, reversed on its way back.

    Returns:
        Counts by outcome, tokens and latencies. When more than `limits.max_failed_share` of the requests failed, or
        asking was stopped (`stopped`), the rest is not asked (`n_not_asked`): the caller decides what that means.

    Cancelling cancels what is in flight; nothing keeps running, and what was answered stays answered.
    """
    report = AskReport(n_requests=n_requests)
    run = _Run(endpoint, journal, limits, on_outcome, report, Router(endpoint.addresses), interceptors)
    started = time.perf_counter()
    source = batches.of_repeats(requests, endpoint.n_per_request)
    n_workers = min(limits.max_in_flight, endpoint.max_in_flight, max(n_requests, 1))
    try:
        async with open_client(endpoint) as client, asyncio.TaskGroup() as group:
            report.course = client.gate.course
            workers = [group.create_task(run.work(client, source)) for _ in range(n_workers)]
            if on_progress:
                group.create_task(_report(report, workers, on_progress))
    except BaseExceptionGroup as several:
        # one worker's full disk or interrupt ends them all: the reader needs that one error, not a group
        raise _first(several) from None
    report.wall_s = time.perf_counter() - started
    report.n_not_asked = n_requests - report.n_done
    if on_progress:
        on_progress(report)
    return report


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
    _interceptors: Sequence[Interceptor] = ()
    _dialects: dict[str, ModuleType] = field(default_factory=dict)

    async def work(self, client: httpx.AsyncClient, source: Iterator[batches.Batch]) -> None:
        for batch in source:
            try:
                responses = await self._until_final(client, batch)
            except StopAsking as stop:
                self.report.stopped = self.report.stopped or str(stop)
                return
            for request, response in zip(batch, responses, strict=True):
                if response.is_answer:
                    self.journal.append(response)
                self.report.count(response)
                self.on_outcome(request, response)
            if self.report.stopped or self._budget_is_broken():
                return

    def _budget_is_broken(self) -> bool:
        # a hair more than the product: 0.29 of 100 is 28.999999999999996
        allowed = self.limits.max_failed_share * self.report.n_requests + 1e-6
        return self.report.n_failed > max(allowed, _MIN_FAILURES_TO_STOP)

    async def _until_final(self, client: httpx.AsyncClient, batch: batches.Batch) -> list[Response]:
        first, watch, router = batch[0], self.endpoint.watch, self._router
        spoken = self._dialect(first.operation)
        said = spoken.body(renamed(first, self.endpoint), self.endpoint.served_name)
        attempt = Attempt(first, said if len(batch) == 1 else batches.for_all(said, batch))
        body = json.dumps(attempt.body, ensure_ascii=False).encode()
        tried: set[int] = set()
        n_excused = 0
        for n_attempts in itertools.count(1):
            n_restarts = watch.n_restarts if watch else 0
            # the choices of one question share its text
            index, replica = router.begin(first.sample_id, tried=tried)
            attempt, outcome = replace(attempt, n_attempt=n_attempts, headers={}), _Outcome()
            try:
                await self._attempt(client, replica, batch, spoken, body, attempt, outcome)
            finally:
                failed = outcome.failure
                is_gone = failed is not None and failed.kind is FailureKind.CONNECTION
                router.end(index, is_answer=bool(outcome.told), is_gone=is_gone)
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
            return _responses(batch, outcome, n_attempts)
        raise AssertionError("unreachable: the loop above only ends by returning")

    async def _attempt(
        self,
        client: httpx.AsyncClient,
        replica: Replica,
        batch: batches.Batch,
        spoken: ModuleType,
        body: bytes,
        attempt: Attempt,
        outcome: _Outcome,
    ) -> None:
        url = f"{replica.url}{spoken.path(self.endpoint.served_name)}{self.endpoint.path_suffix}"
        for interceptor in self._interceptors:
            interceptor.sending(attempt)
        # before the clock starts: waiting is no latency
        turn = await gate.turn(client, url, batch[0], n_answers=len(batch))
        outcome.asked_at, started = utc_now(), time.perf_counter()
        try:
            attempt.reply = await exchange.post(client, url, body, spoken, headers=attempt.headers)
            outcome.told = batches.read(spoken, batch, attempt.reply)
        except failures.NoAnswer as no_answer:
            outcome.failure, outcome.retry_after_s = no_answer.failure, no_answer.retry_after_s
        finally:
            outcome.latency_s = time.perf_counter() - started
            gate.over(client, turn, outcome.told, outcome.failure)
        if "top_logprobs" not in self.endpoint.offers:
            for told in outcome.told:
                told.pop("is_greedy", None)
        if self._interceptors:
            attempt.failure, attempt.latency_s = outcome.failure, outcome.latency_s
            for interceptor in reversed(self._interceptors):
                interceptor.received(attempt)

    def _dialect(self, operation: str) -> ModuleType:
        if operation not in self._dialects:
            self._dialects[operation] = dialect(self.endpoint.protocol, operation)
        return self._dialects[operation]


def _responses(batch: batches.Batch, outcome: _Outcome, n_attempts: int) -> list[Response]:
    fields = outcome.told or [{"failure": outcome.failure}] * len(batch)
    return [
        Response(
            request_digest=request.digest,
            n_attempts=n_attempts,
            latency_s=outcome.latency_s,
            asked_at=outcome.asked_at,
            **told,
        )
        for request, told in zip(batch, fields, strict=True)
    ]


async def _report(report: AskReport, workers: list[asyncio.Task[None]], on_progress: Progress) -> None:
    while not all(worker.done() for worker in workers):
        on_progress(report)
        await asyncio.wait(workers, timeout=_PROGRESS_EVERY_S, return_when=asyncio.ALL_COMPLETED)
