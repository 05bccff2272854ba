"""Ask one model one benchmark, and account for every request.

Each question is asked once per model version: what earlier runs were answered (`known`) and what a killed run
left in its journal is not asked again.
"""

import asyncio
import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from eval_pipelines.benchmarks.harness import Benchmark
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.interception import Interceptor
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.report import AskReport, Progress
from eval_pipelines.config import InterceptorEntry
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import FailureBudgetError
from eval_pipelines.keys import digest
from eval_pipelines.models import Model
from eval_pipelines.records import Evaluation, Request, Response, utc_now

Known = Callable[[], Mapping[str, Response]]
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
        if self.report.stopped:
            raise FailureBudgetError(
                f"{self.evaluation.model_key} on {self.evaluation.benchmark}: asking was stopped, "
                f"{self.report.n_not_asked} requests have no outcome. {self.report.stopped} "
                f"The {self.evaluation.n_answered} answers are landed: materialize again to ask only the rest."
            )
        if self.evaluation.is_within_budget:
            return
        asked, report = self.evaluation, self.report
        kinds = ", ".join(f"{kind.value} {n}" for kind, n in report.failures.most_common())
        not_asked = f", {report.n_not_asked} were not asked any more" if report.n_not_asked else ""
        raise FailureBudgetError(
            f"{asked.model_key} on {asked.benchmark}: {report.n_failed} of {asked.n_requests} requests failed ({kinds}){not_asked}; "
            f"max_failed_share allows {max_failed_share:.1%}. First failure: {report.first_failure!r}. "
            f"The {asked.n_answered} answers are landed: materialize again to ask only the rest."
        )


def evaluation_id(model: Model, benchmark: Benchmark, limit: int | None) -> str:
    """Digest of what is asked of whom: one model version, one version of the questions, how many."""
    asked = [str(model.key), model.fingerprint, benchmark.name, benchmark.ask_version, limit]
    changes = asked_as(model.interceptors)
    return digest([*asked, changes] if changes else asked, n_bytes=8)


def asked_as(interceptors: Iterable[InterceptorEntry]) -> list[dict[str, Any]]:
    """What a model's interceptors change of what it is asked, as plain JSON; a benchmark's are in its version."""
    return [one.in_words for one in interceptors if one.is_of(("request",))]


async def ask_benchmark(
    benchmark: Benchmark,
    model: Model,
    endpoint: Endpoint,
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
    interceptors: Sequence[Interceptor] = (),
) -> Asked:
    """Ask what is not known yet, land it, and say how it went.

    Args:
        limit: Samples per subtask that the benchmark was loaded with; None for all.
        known: Earlier answers of this model version by request digest. Called once nobody else asks this cell.
        land: Called with the evaluation and its new outcomes, before the journal is removed.
        while_asking: Open while requests are on the wire, and only then: not opened if nothing is asked.
        on_wait: Called once if another process is asking the same cell; this one then waits for it.

    Raises:
        WarehouseError: the disk is full. Every answer so far is in the journal.
    """
    requests = {request.digest: request for request in benchmark.requests()}
    key, spec, outcomes = evaluation_id(model, benchmark, limit), benchmark.spec, dict[str, Response]()
    journal = Journal(journals / f"{key}.jsonl")
    await _open_in_turn(journal, on_wait)
    try:
        earlier = _usable(known(), requests, benchmark)
        # a run that died between landing and removing its journal has landed some already
        recovered = _usable(journal.answers(), requests.keys() - earlier.keys(), benchmark)
        missing = [request for d, request in requests.items() if d not in earlier and d not in recovered]
        # the budget is a share of all requests, those that earlier runs had answered included
        share_of_missing = min(1.0, spec.max_failed_share * len(requests) / max(len(missing), 1))
        async with while_asking if while_asking and missing else nullcontext():
            report = await ask(
                missing,
                len(missing),
                endpoint,
                journal=journal,
                limits=Limits(endpoint.max_in_flight, spec.max_attempts, share_of_missing),
                on_outcome=lambda request, response: outcomes.__setitem__(request.digest, response),
                on_progress=on_progress,
                interceptors=interceptors,
            )
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
    endpoint: Endpoint,
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
    parameters: dict[str, Any] = {
        "task": spec.task,
        "limit": limit,
        "protocol": spec.protocol,
        "num_fewshot": spec.num_fewshot,
        "generation": spec.generation,
        "system_prompt": spec.system_prompt,
    }
    if spec.interceptors or model.interceptors:
        listed = {"benchmark": spec.interceptors, "model": model.interceptors}
        parameters["interceptors"] = {whose: [one.in_words for one in found] for whose, found in listed.items()}
        parameters["asked_as"] = asked_as(model.interceptors)
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
        endpoint=endpoint.url,
        backend=endpoint.backend,
        server_version=endpoint.server_version,
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
