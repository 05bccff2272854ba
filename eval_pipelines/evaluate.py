"""Ask one model one benchmark, and account for every request.

Each question is asked once per model version: what earlier runs were answered (`known`) and what a killed run
left in its journal is not asked again.
"""

import asyncio
import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from eval_pipelines.benchmarks.harness import Benchmark
from eval_pipelines.client import order
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.report import AskReport, Progress
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import FailureBudgetError
from eval_pipelines.keys import digest
from eval_pipelines.models import Model
from eval_pipelines.records import Evaluation, Request, Response, utc_now

Known = Callable[[], Mapping[str, Response]]
ExpectedTokens = Callable[[Container[str]], Mapping[str, int]]
Land = Callable[[Evaluation, list[tuple[Request, Response]]], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """One evaluation as it was landed.

    Attributes:
        responses: of every request that has an outcome, reused ones included, by request digest.
        report: of what this run itself put on the wire.
        n_recovered: answers found in the journal of a run that did not finish.
    """

    evaluation: Evaluation
    responses: Mapping[str, Response]
    report: AskReport
    n_recovered: int

    def raise_if_over_budget(self, max_failed_share: float) -> None:
        """Raises FailureBudgetError when too many requests have no answer. What was answered is landed by then."""
        if self.evaluation.is_within_budget:
            return
        asked, report = self.evaluation, self.report
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
            f"max_failed_share allows {max_failed_share:.1%}. First failure: {report.first_failure!r}. "
            f"The {asked.n_answered} answers are landed: materialize again to ask only the rest."
        )


def evaluation_id(model: Model, benchmark: Benchmark, limit: int | None) -> str:
    """Digest of what is asked of whom: one model version, one version of the questions, how many."""
    n_repeats = [benchmark.spec.repeats] if (benchmark.spec.repeats or 1) > 1 else []
    return digest(
        [str(model.key), model.fingerprint, benchmark.name, benchmark.ask_version, limit, *n_repeats], n_bytes=8
    )


async def ask_benchmark(
    benchmark: Benchmark,
    model: Model,
    endpoint: Endpoint | None,
    *,
    limit: int | None,
    run_id: str,
    asked_by: str,
    journals: Path,
    known: Known,
    land: Land,
    while_asking: AbstractAsyncContextManager[Any] | None = None,
    on_progress: Progress | None = None,
    on_wait: Callable[[], None] = lambda: None,
    expected_tokens: ExpectedTokens = lambda _: {},
) -> Asked:
    """Ask what is not known yet, land it, and say how it went.

    Args:
        endpoint: None: nothing is asked; what is not known or in the journal stays without an outcome.
        limit: Samples per subtask that the benchmark was loaded with; None for all.
        known: Earlier answers of this model version by request digest. Called once nobody else asks this cell.
        land: Called with the evaluation and its new outcomes, before the journal is removed.
        while_asking: Open while requests are on the wire, and only then: not opened if nothing is asked.
        expected_tokens: Completion tokens by request digest that earlier answers to these requests had.
        on_wait: Called once if another process is asking the same cell; this one then waits for it.

    Raises:
        WarehouseError: the disk is full. Every answer so far is in the journal.
    """
    requests = {request.digest: request for request in benchmark.requests()}
    key = evaluation_id(model, benchmark, limit)
    outcomes: dict[str, Response] = {}
    journal = Journal(journals / f"{key}.jsonl")
    await _open_in_turn(journal, on_wait)
    try:
        earlier = _usable(known(), requests, benchmark)
        # a run that died between landing and removing its journal has landed some already
        recovered = _usable(journal.answers(), requests.keys() - earlier.keys(), benchmark)
        missing = [request for d, request in requests.items() if d not in earlier and d not in recovered]
        report = AskReport(len(missing), n_not_asked=len(missing))
        if endpoint:
            async with while_asking if while_asking and missing else nullcontext():
                report = await ask(
                    _in_order(missing, expected_tokens, endpoint), len(missing), endpoint, journal=journal,
                    limits=_limits(endpoint, benchmark, len(requests), len(missing)),
                    on_outcome=lambda request, response: outcomes.__setitem__(request.digest, response),
                    on_progress=on_progress,
                )  # fmt: skip
        new = recovered | outcomes
        evaluation = _evaluation(
            benchmark, model, endpoint, report, key=key, limit=limit, run_id=run_id, asked_by=asked_by,
            n_requests=len(requests), n_reused=len(earlier), n_answered=len(earlier) + len(recovered) + report.n_answered,
        )  # fmt: skip
        land(evaluation, [(requests[d], response) for d, response in new.items()])
        journal.remove()
    finally:
        journal.close()
    return Asked(evaluation, {**earlier, **new}, report, len(recovered))


def _limits(endpoint: Endpoint, benchmark: Benchmark, n_requests: int, n_missing: int) -> Limits:
    spec = benchmark.spec
    # the budget is a share of all requests, those that earlier runs had answered included
    share_of_missing = min(1.0, spec.max_failed_share * n_requests / max(n_missing, 1))
    return Limits(endpoint.max_in_flight, spec.max_attempts, share_of_missing)


def _in_order(requests: Sequence[Request], expected_tokens: ExpectedTokens, endpoint: Endpoint) -> Iterator[Request]:
    # log-likelihoods have no length to speak of: nothing is read for them
    has_lengths = any(one.operation != "loglikelihood" for one in requests[:1])
    lengths = expected_tokens({one.digest for one in requests}) if has_lengths else {}
    return order.ordered(requests, lengths, endpoint.max_in_flight)


def _usable(responses: Mapping[str, Response], wanted: Container[str], benchmark: Benchmark) -> dict[str, Response]:
    """The answers that say all this benchmark needs: one asked for another may not say what is greedy."""

    def says_enough(response: Response) -> bool:
        lacks_greedy = response.logprob is not None and response.is_greedy is None
        return response.is_answer and not (lacks_greedy and "top_logprobs" in benchmark.needs)

    return {d: response for d, response in responses.items() if d in wanted and says_enough(response)}


async def _open_in_turn(journal: Journal, on_wait: Callable[[], None]) -> None:
    said = False
    while True:
        try:
            journal.open()
            return
        except BlockingIOError:
            if not said:
                on_wait()
                said = True
            await asyncio.sleep(0.2)


def _evaluation(
    benchmark: Benchmark,
    model: Model,
    endpoint: Endpoint | None,
    report: AskReport,
    *,
    key: str,
    limit: int | None,
    run_id: str,
    asked_by: str,
    n_requests: int,
    n_reused: int,
    n_answered: int,
) -> Evaluation:
    spec = benchmark.spec
    parameters = {
        "task": spec.task,
        "limit": limit,
        "protocol": spec.protocol,
        "num_fewshot": spec.num_fewshot,
        "repeats": spec.repeats,
        "generation": spec.generation,
        "system_prompt": spec.system_prompt,
    }
    return Evaluation(
        evaluation_id=key,
        run_id=run_id,
        model_key=str(model.key),
        family=model.key.family,
        revision=model.key.revision,
        step=model.key.step,
        fingerprint=model.fingerprint,
        benchmark=benchmark.name,
        ask_version=benchmark.ask_version,
        parameters=json.dumps(parameters, sort_keys=True),
        endpoint=endpoint.url if endpoint else "",
        backend=endpoint.backend if endpoint else "",
        server_version=endpoint.server_version if endpoint else None,
        n_samples=sum(1 for _ in benchmark.samples()),
        n_requests=n_requests,
        n_answered=n_answered,
        n_reused=n_reused,
        n_failed=report.n_failed,
        failures=json.dumps({kind.value: n for kind, n in report.failures.items()}, sort_keys=True),
        is_within_budget=n_answered == n_requests or (n_requests - n_answered) / n_requests <= spec.max_failed_share,
        prompt_tokens=report.prompt_tokens,
        completion_tokens=report.completion_tokens,
        wall_s=report.wall_s,
        latency_p50_s=report.percentile_s(0.50),
        latency_p95_s=report.percentile_s(0.95),
        latency_p99_s=report.percentile_s(0.99),
        asked_by=asked_by,
        project_version=project_version(),
        recorded_at=utc_now(),
    )


def project_version() -> str:
    """Of the installed project; `source` when it runs uninstalled."""
    try:
        return version("eval-pipelines")
    except PackageNotFoundError:
        return "source"
