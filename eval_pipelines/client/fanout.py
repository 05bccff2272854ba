"""Ask an endpoint many requests at once."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from eval_pipelines.client import batches, failures, gate, interception, sending
from eval_pipelines.client.ending import Ending, IsOver
from eval_pipelines.client.interception import Attempt, Interceptor, StopAsking
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.report import AskReport, Progress
from eval_pipelines.client.routing import Router
from eval_pipelines.client.transport import Client, open_client
from eval_pipelines.endpoint import Endpoint, Replica, Watch
from eval_pipelines.errors import EvalPipelinesError
from eval_pipelines.records import Failure, FailureKind, Request, Response, utc_now

_PROGRESS_EVERY_S = 0.5
_MAY_BE_FOR_SEVERAL = (FailureKind.REJECTED, FailureKind.UNSUPPORTED)
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
    """What one attempt came to: Response fields of each request that it asked, or one failure for all of them.

    In a reply to several, one that was left out has its `failure` as its only field. What an interceptor refused never
    was on the wire, and says nothing of a server.
    """

    told: Sequence[dict[str, Any]] = ()
    failure: Failure | None = None
    was_on_wire: bool = False
    retry_after_s: float | None = None
    latency_s: float = 0.0
    asked_at: datetime = field(default_factory=utc_now)


Outcome = Callable[[Request, Response], None]


async def ask(
    requests: Iterable[Request | batches.Pause],
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
        requests: any number, read lazily, in an order that keeps shared prompt prefixes together. Who reads a function
            awaits it, and then reads on: what is on the wire goes on meanwhile.
        n_requests: how many there are: the budget is a share of them.
        on_outcome: called with every final answer or failure, answers after they are in the journal.
        interceptors: see each attempt, in this order on its way out, reversed on its way back.

    Returns:
        Counts by outcome, tokens and latencies. When more than `limits.max_failed_share` of the requests failed, or
        asking was stopped (`stopped`), what is on the wire is awaited, and the rest is not asked, nor asked again
        (`n_not_asked`): the caller decides what that means.

    Cancelling cancels what is in flight; nothing keeps running, and what was answered stays answered.
    """
    report = AskReport(n_requests=n_requests)
    router = Router(endpoint.addresses)
    run = _Run(endpoint, journal, limits, on_outcome, report, router, interceptors)
    started = time.perf_counter()
    n_in_flight = min(limits.max_in_flight, endpoint.max_in_flight)
    # a stream is put together from one choice
    source = batches.of_repeats(requests, 1 if endpoint.is_streamed else min(endpoint.n_per_request, n_in_flight))
    n_workers = min(n_in_flight, max(n_requests, 1))
    try:
        interception.begin(interceptors, report, endpoint)
        async with open_client(endpoint) as client, asyncio.TaskGroup() as group:
            report.course, router.is_held = client.gate.course, client.gate.is_held
            workers = [group.create_task(run.work(client, source)) for _ in range(n_workers)]
            if on_progress:
                group.create_task(_report(report, workers, on_progress))
    except BaseExceptionGroup as several:
        # one worker's full disk or interrupt ends them all: the reader needs that one error, not a group
        raise _first(several) from None
    finally:
        report.wall_s = time.perf_counter() - started
        report.told = await interception.finish(interceptors)
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
    _ending: Ending = field(default_factory=Ending)
    _refuses_several: bool = False

    async def work(self, client: Client, source: Iterator[batches.Batch | batches.Pause]) -> None:
        for batch in source:
            if self._ending.is_over:  # before this one began
                return
            if not isinstance(batch, tuple):
                with self._ending.waits():
                    await batch()
                continue
            parts = [(batch, 0)]
            while parts:
                part, n_before = parts.pop()
                if len(part) > 1 and self._refuses_several:
                    parts += [((one,), n_before) for one in part]
                    continue
                try:
                    part, responses, rest = await self._as_far_as_answered(client, part, n_before)
                except StopAsking as stop:
                    self._stop(stop)
                    self._ending.end()
                    return
                except IsOver:
                    return
                for request, response in zip(part, responses, strict=True):
                    if len(part) > 1 and self._may_be_asked_alone(response):
                        parts.append(((request,), response.n_attempts))
                        continue
                    if response.is_answer:
                        self.journal.append(response, request.place)
                    self.report.count(response, is_of_same_reply=request is not part[0])
                    self.on_outcome(request, response)
                if self.report.stopped or self._budget_is_broken():
                    self._ending.end()
                    return
                if rest:
                    parts.append((rest, 0))

    async def _as_far_as_answered(
        self, client: Client, part: batches.Batch, n_before: int
    ) -> tuple[batches.Batch, list[Response], batches.Batch]:
        """What was asked with its outcomes, and the rest of a batch that the server refused for being several."""
        responses = await self._until_final(client, part, n_before)
        if len(part) > 1 and responses[0].failure and responses[0].failure.kind in _MAY_BE_FOR_SEVERAL:
            alone = await self._until_final(client, part[:1], responses[0].n_attempts)
            if alone[0].is_answer:
                self._refuses_several = True
                return part[:1], alone, part[1:]
        return part, responses, ()

    def _stop(self, stop: StopAsking) -> None:
        """The first reason counts."""
        if not self.report.stopped and not self._ending.is_over:
            self.report.stopped, self.report.stopped_with, self.report.stopped_at = str(stop), stop.error, utc_now()

    def _may_be_asked_alone(self, response: Response) -> bool:
        """A reply to several left this one out."""
        is_worth_it = response.failure is not None and response.failure.kind in failures.RETRYABLE
        return is_worth_it and response.n_attempts < self.limits.max_attempts

    def _budget_is_broken(self) -> bool:
        # a hair more than the product: 0.29 of 100 is 28.999999999999996
        allowed = max(self.limits.max_failed_share * self.report.n_requests + 1e-6, _MIN_FAILURES_TO_STOP)
        return self.report.n_failed > allowed and self.report.n_failed_of_server > allowed

    async def _until_final(self, client: Client, batch: batches.Batch, n_before: int = 0) -> list[Response]:
        first, watch, router = batch[0], self.endpoint.watch, self._router
        sent = sending.sent(batch, self.endpoint)
        tried: set[int] = set()
        n_excused = 0
        for n_attempts in itertools.count(n_before + 1):
            self._ending.raise_if_over()
            n_restarts = watch.n_restarts if watch else 0
            # the choices of one question share its text
            index, replica = router.begin(first.sample_id, tried=tried)
            attempt, outcome = Attempt(first, sent.said, n_attempts), _Outcome()
            try:
                await self._attempt(client, replica, sent, attempt, outcome)
            finally:
                failed = outcome.failure
                policy = failures.POLICIES[failed.kind] if failed else None
                is_gone = failed is not None and failed.kind is FailureKind.CONNECTION
                is_well = bool(outcome.told) or (policy is not None and not policy.counts_against_server)
                was_there, is_fault = outcome.was_on_wire, failed is not None
                router.end(index, is_answer=was_there and is_well, is_gone=is_gone, is_fault=was_there and is_fault)
            if policy and (policy.is_retried or policy.goes_elsewhere):
                tried.add(index)
                may_wait = policy.is_retried and not router.has_other(tried)
                if watch and may_wait and await self._settled(watch) != n_restarts:
                    n_excused += 1  # the server had died: that says nothing of the request
                    tried.clear()
                    continue
                is_worth_it = policy.is_retried or router.has_other(tried)
                if is_worth_it and n_attempts - n_excused < self.limits.max_attempts:
                    if not router.has_other(tried):
                        tried.clear()
                        backoff = self.limits.backoff
                        wait_s = backoff.wait_s(n_attempts - n_excused, outcome.retry_after_s, random.random())
                        with self._ending.waits():
                            await asyncio.sleep(wait_s)
                    continue
            return _responses(batch, outcome, n_attempts)
        raise AssertionError("unreachable: the loop above only ends by returning")

    async def _settled(self, watch: Watch) -> int:
        with self._ending.waits():
            return await watch.settle(time.monotonic())

    async def _attempt(
        self,
        client: Client,
        replica: Replica,
        sent: sending.Sent,
        attempt: Attempt,
        outcome: _Outcome,
    ) -> None:
        if self._interceptors and (refused := interception.send(self._interceptors, attempt)):
            outcome.failure = refused
            interception.receive(self._interceptors, attempt)
            return
        # before the clock starts: waiting is no latency
        with self._ending.waits():
            is_again = attempt.n_attempt > 1
            turn = await gate.turn(
                client, f"{replica.url}{sent.path}", sent.batch[0], n_answers=len(sent.batch), is_again=is_again
            )
        outcome.was_on_wire = True
        outcome.asked_at, started = utc_now(), time.perf_counter()
        try:
            outcome.told = await sending.told(client, self.endpoint, replica, sent, attempt)
        except failures.NoAnswer as no_answer:
            outcome.failure, outcome.retry_after_s = no_answer.failure, no_answer.retry_after_s
        finally:
            outcome.latency_s = time.perf_counter() - started
            gate.over(client, turn, outcome.told, outcome.failure)
        if "top_logprobs" not in self.endpoint.offers:
            for told in outcome.told:
                told.pop("is_greedy", None)
        if self._interceptors:
            attempt.told, attempt.failure, attempt.latency_s = outcome.told, outcome.failure, outcome.latency_s
            try:
                interception.receive(self._interceptors, attempt)
            except StopAsking as stop:
                if not outcome.told:
                    raise
                # the answer that is there is kept, and nothing comes after it
                self._stop(stop)


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
