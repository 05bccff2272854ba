"""Ask one model one benchmark, or what it is to judge, and account for every request.

Each question is asked once per model version: what earlier runs were answered (`known`) and what a killed run
left in its journal is not asked again. Answers are on disk before they are counted, and are landed from there: memory
holds a digest for each question that is still to be asked, and no answer.
"""

import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from eval_pipelines.client import order
from eval_pipelines.client.batches import Pause
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.interception import Interceptor
from eval_pipelines.client.journal import Journal, entries, unheld
from eval_pipelines.client.report import AskReport, Progress
from eval_pipelines.client.turns import in_turn
from eval_pipelines.config.prices import Price
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import FailureBudgetError
from eval_pipelines.evaluation_record import Plan, Questions, evaluation_id, evaluation_of, line_of, version_of
from eval_pipelines.models import Model
from eval_pipelines.records import Evaluation, Place, Request, Response
from eval_pipelines.stopping import EarlyStop

Known = Callable[[], Mapping[str, datetime]]
ExpectedTokens = Callable[[Container[str]], Mapping[str, int]]
Untold = Callable[[], Iterable[Response]]
Land = Callable[[Evaluation, Iterable[tuple[Place, Response]]], None]
OpenEndpoint = Callable[[], AbstractAsyncContextManager[Endpoint]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One evaluation as it was landed.

    Attributes:
        endpoint: who was asked; None if all was known.
        report: of what this run itself put on the wire.
        n_recovered: answers found in the journal of a run that did not finish.
    """

    evaluation: Evaluation
    endpoint: Endpoint | None
    report: AskReport
    n_recovered: int

    def raise_if_over_budget(self, max_failed_share: float) -> None:
        """Raise where too many requests have no answer. What was answered is landed by then.

        Raises:
            AskingStoppedError: asking was stopped before its end; says by what. SpendingLimitError is one.
            FailureBudgetError: more than `max_failed_share` of the requests failed.
        """
        asked, report = self.evaluation, self.report
        if asked.is_within_budget and not report.stopped:
            return
        landed = f"The {asked.n_answered} answers are landed: materialize again to ask only the rest."
        if report.stopped:
            raise report.stopped_with(
                f"{asked.model_key} on {asked.benchmark}: {report.stopped} "
                f"{report.n_not_asked} of {asked.n_requests} requests were not asked. {landed}"
            )
        if not report.n_done:
            raise FailureBudgetError(
                f"{asked.model_key} on {asked.benchmark}: {asked.n_requests - asked.n_answered} of {asked.n_requests} "
                f"requests have no answer yet, and nothing was asked; max_failed_share allows {max_failed_share:.1%}. "
                f"Materialize with `ask: true` to ask them."
            )
        kinds = ", ".join(f"{kind.value} {n}" for kind, n in report.failures.most_common())
        not_asked = f", {report.n_not_asked} were not asked any more" if report.n_not_asked else ""
        raise FailureBudgetError(
            f"{asked.model_key} on {asked.benchmark}: {report.n_failed} of {asked.n_requests} requests failed ({kinds}){not_asked}; "
            f"max_failed_share allows {max_failed_share:.1%}. First failure: {report.first_failure!r}. {landed}"
        )


async def ask_benchmark(
    benchmark: Questions,
    model: Model,
    open_endpoint: OpenEndpoint | None,
    *,
    limit: int | None,
    run_id: str,
    asked_by: str,
    journals: Path,
    known: Known,
    land: Land,
    interceptors: Sequence[Interceptor] = (),
    expected_tokens: ExpectedTokens = lambda _: {},
    untold: Untold = lambda: (),
    on_progress: Progress | None = None,
    on_wait: Callable[[], None] = lambda: None,
    early: EarlyStop | None = None,
    price: tuple[Price | None, str] = (None, ""),
) -> Asked:
    """Ask what is not known yet, land it, and say how it went. Raises WarehouseError: the disk is full; answers are kept.

    Args:
        open_endpoint: Open while requests are on the wire, and only then: no server is started if all is known.
            None: nobody is asked, what is not known stays so.
        limit: Samples per subtask that the benchmark was loaded with; None for all.
        known: When each earlier answer of this model version was asked for, by request digest. Called once nobody
            else asks what this one does.
        land: Called with the evaluation and its new outcomes, before the journal is removed; must read them all.
        expected_tokens: Completion tokens by request digest that earlier answers to these requests had.
        untold: Landed answers that are in no evaluation's cost.
        on_wait: Called once if another process is asking some of the same questions; this one then waits for it.
        price: What tokens cost in which currency, where nobody is asked now and a killed run's answers are landed.
        early: Ends the asking once enough is known.
    """
    journal, others = journal_of(journals, model, key := evaluation_id(model, benchmark, limit))
    wanted = {request.digest for request in benchmark.requests()}
    async with in_turn(journal, line_of(model, benchmark), wanted, on_wait):
        plan = _plan(benchmark, wanted, known, untold, journal, others)
        n_missing, failed = len(plan.missing), dict[str, tuple[Place, Response]]()
        report, endpoint = AskReport(n_requests=n_missing, n_not_asked=n_missing), None
        if _lacks_answers(early, plan, benchmark, journal, open_endpoint) and open_endpoint is not None:
            async with open_endpoint() as endpoint:
                report = await ask(
                    _in_order(benchmark, plan, expected_tokens, endpoint, early),
                    n_missing,
                    endpoint,
                    journal=journal,
                    limits=_limits(endpoint, benchmark, plan.n_requests, n_missing),
                    on_outcome=partial(_keep, failed, early),
                    on_progress=on_progress,
                    interceptors=interceptors,
                )
        benchmark = _as_asked(benchmark, early, plan, report)
        evaluation = evaluation_of(
            benchmark, model, endpoint, report, plan, price, key=key, limit=limit, run_id=run_id, asked_by=asked_by
        )
        land(evaluation, _outcomes(benchmark, plan.earlier, journal.path, failed))
        journal.remove()
    return Asked(evaluation, endpoint, report, len(plan.recovered))


def _limits(endpoint: Endpoint, benchmark: Questions, n_requests: int, n_missing: int) -> Limits:
    spec = benchmark.spec
    # the budget is a share of all requests, those that earlier runs had answered included
    share_of_missing = min(1.0, spec.max_failed_share * n_requests / n_missing)
    return Limits(endpoint.max_in_flight, spec.max_attempts, share_of_missing)


def _generates(benchmark: Questions) -> bool:
    return any(not request.is_likelihood for request in itertools.islice(benchmark.requests(), 1))


def _lacks_answers(
    early: EarlyStop | None, plan: Plan, benchmark: Questions, journal: Journal, open_endpoint: OpenEndpoint | None
) -> bool:
    recovered = (response for _, response in _usable(benchmark, journal.path))
    is_enough = early is not None and early.knows(plan.earlier, recovered, is_all=open_endpoint is None)
    return not is_enough and bool(plan.missing)


def _in_order(
    benchmark: Questions, plan: Plan, expected_tokens: ExpectedTokens, endpoint: Endpoint, early: EarlyStop | None
) -> Iterator[Request | Pause]:
    if early is not None:
        return early.requests(plan.missing)
    # log-likelihoods have no length to speak of: nothing is read for them
    lengths = expected_tokens(plan.missing) if _generates(benchmark) else {}
    return order.ordered(_each_once(benchmark.requests(), plan.missing), lengths, endpoint.max_in_flight)


def _as_asked(benchmark: Questions, early: EarlyStop | None, plan: Plan, report: AskReport) -> Questions:
    """The questions that count. Where asking ended early, plan and report are reduced to them."""
    if early is None or report.stopped:
        return benchmark
    asked: Questions = early.end()
    if early.reason:
        digests = {request.digest for request in asked.requests()}
        plan.earlier &= digests
        plan.recovered &= digests
        plan.n_requests, plan.missing, plan.stopped = len(digests), set(), early.told()
        report.n_requests, report.n_not_asked = report.n_done, 0
    return asked


def _keep(
    failed: dict[str, tuple[Place, Response]], early: EarlyStop | None, request: Request, response: Response
) -> None:
    if early is not None:
        early.take(request, response)
    if not response.is_answer:  # answers are in the journal
        failed[request.digest] = (request.place, response)


def journal_of(journals: Path, model: Model, key: str) -> tuple[Journal, Callable[[], list[Path]]]:
    """The journal of an evaluation, and how to find the others that hold answers of this model version."""
    version = version_of(model)
    path, by_id_alone = journals / f"{version}-{key}.jsonl", journals / f"{key}.jsonl"  # as earlier releases named it
    return Journal(path), lambda: [by_id_alone, *sorted({*journals.glob(f"{version}-*.jsonl")} - {path})]


def _take_over(
    benchmark: Questions,
    wanted: Container[str],
    known: Container[str],
    journal: Journal,
    left_behind: Sequence[Journal],
) -> None:
    """Move what killed runs were answered into this journal, as far as it is wanted here: the rest stays.

    Their evaluations have other names: `repeats`, `limit` or the questions were changed since.
    """
    if not left_behind:
        return
    needs_greedy = "top_logprobs" in benchmark.needs
    held = {response.request_digest for _, response in _usable(benchmark, journal.path)}

    def wants(response: Response) -> bool | None:
        says_more = response.is_greedy is not None and not needs_greedy
        if not _suffices(response, needs_greedy):
            return None
        if response.request_digest in known or response.request_digest in held:
            return None if says_more else False
        held.add(response.request_digest)
        return True

    for one in left_behind:
        one.move(journal, wanted.__contains__, wants)


def _plan(
    benchmark: Questions,
    wanted: set[str],
    known: Known,
    untold: Untold,
    journal: Journal,
    others: Callable[[], list[Path]],
) -> Plan:
    # held before `known` looks: nobody lands them meanwhile
    with unheld(others()) as left_behind:
        answered = known()
        _take_over(benchmark, wanted, answered, journal, left_behind)
    plan = Plan(missing=wanted, n_requests=len(wanted))
    plan.earlier = {d for d in wanted if d in answered}
    wanted -= plan.earlier
    plan.recovered = wanted & {response.request_digest for _, response in _usable(benchmark, journal.path)}
    wanted -= plan.recovered
    plan.since = min((answered[d] for d in plan.earlier), default=plan.since)
    # all that was landed, wanted or not: once this run has landed its evaluation, nobody looks for them
    plan.count(untold(), without=plan.recovered)
    journaled = (response for _, response in _usable(benchmark, journal.path))
    plan.count(response for response in journaled if response.request_digest in plan.recovered)
    return plan


def _each_once(requests: Iterable[Request], wanted: set[str]) -> Iterator[Request]:
    """Those that are wanted, each once: two samples may ask the same."""
    for request in requests:
        if request.digest in wanted:
            wanted.remove(request.digest)
            yield request


def _outcomes(
    benchmark: Questions, earlier: Container[str], journal: Path, failed: Mapping[str, tuple[Place, Response]]
) -> Iterator[tuple[Place, Response]]:
    """Every new outcome: answers as the journal has them, then failures."""
    places: dict[str, Place] = {}
    for place, response in _usable(benchmark, journal):
        d = response.request_digest
        # a run that died between landing and removing its journal has landed some already
        if d in earlier or d in failed:
            continue
        if place is None:  # written by a release that did not write it
            places = places or {request.digest: request.place for request in benchmark.requests()}
            place = places.get(d)
        if place is not None:
            yield place, response
    yield from failed.values()


def _usable(benchmark: Questions, journal: Path) -> Iterator[tuple[Place | None, Response]]:
    """The journal's answers that say all this benchmark needs: one asked for another may not say what is greedy."""
    needs_greedy = "top_logprobs" in benchmark.needs
    return ((place, response) for place, response in entries(journal) if _suffices(response, needs_greedy))


def _suffices(response: Response, needs_greedy: bool) -> bool:
    lacks_greedy = response.logprob is not None and response.is_greedy is None
    return response.is_answer and not (lacks_greedy and needs_greedy)
