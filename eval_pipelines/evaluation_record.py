"""What is recorded of one try at an evaluation."""

import json
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from eval_pipelines.client.report import AskReport
from eval_pipelines.config import BenchmarkSpec, InterceptorEntry
from eval_pipelines.config.prices import UNITS, Price
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.keys import digest
from eval_pipelines.models import Model
from eval_pipelines.records import Evaluation, Request, Response, Sample, utc_now


class Questions(Protocol):
    """What one model is asked: a benchmark, or the answers of another model, which it judges."""

    @property
    def name(self) -> str:
        """Of the benchmark."""

    @property
    def judged_model(self) -> str | None:
        """The model whose answers are judged; None for a benchmark."""

    @property
    def spec(self) -> BenchmarkSpec:
        """How it is asked."""

    @property
    def ask_version(self) -> str:
        """Changes with what is asked."""

    @property
    def needs(self) -> frozenset[str]:
        """The endpoint capabilities without which it cannot be asked."""

    def requests(self) -> Iterator[Request]:
        """Every request, in the order they are asked."""

    def samples(self) -> Iterator[Sample]:
        """Every sample."""


# where an evaluation's parameters tell that asking ended early
STOPPED = "stop_early"


@dataclass(slots=True)
class Plan:
    """Which requests of a benchmark have an answer, by their digests: the three never overlap.

    Attributes:
        earlier: landed by earlier runs.
        recovered: in the journal of a run that did not finish.
        missing: to be asked; empties while they are.
        since: when the oldest of the earlier answers was asked for; now if there are none.
        stopped: that and why asking ended early, as plain JSON; empty: it did not.
        n_untold: answers, recovered and landed, that killed runs could not tell the cost of; wanted now or not.
        prompt_tokens, completion_tokens, cached_prompt_tokens: of those.
    """

    earlier: set[str] = field(default_factory=set)
    recovered: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    n_requests: int = 0
    since: datetime = field(default_factory=utc_now)
    stopped: dict[str, Any] = field(default_factory=dict)
    n_untold: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0

    def count(self, untold: Iterable[Response], *, without: AbstractSet[str] = frozenset()) -> None:
        """Add answers of killed runs, each once, without those to some requests."""
        seen = {*without}
        for response in untold:
            if response.request_digest not in seen:
                seen.add(response.request_digest)
                self.n_untold += 1
                self.prompt_tokens += response.prompt_tokens or 0
                self.completion_tokens += response.completion_tokens or 0
                self.cached_prompt_tokens += response.cached_prompt_tokens or 0


def evaluation_id(model: Model, benchmark: Questions, limit: int | None) -> str:
    """Digest of what is asked of whom: one model version, one version of the questions, how many."""
    asked: list[Any] = [str(model.key), model.fingerprint, benchmark.name, benchmark.ask_version, limit]
    if (benchmark.spec.repeats or 1) > 1:
        asked.append(benchmark.spec.repeats)
    if changes := asked_as(model.interceptors):
        asked.append(changes)
    return digest(asked, n_bytes=8)


def version_of(model: Model) -> str:
    """What names a model version in the journals' folder."""
    return digest([str(model.key), model.fingerprint], n_bytes=6)


def line_of(model: Model, benchmark: Questions) -> str:
    """Where to stand in line: one line for a model version, and one for each model that it judges.

    Two checkpoints often share an answer, and a judge is then asked the same of both: in one line, judging many of them
    would take as long as one after another.
    """
    judged = benchmark.judged_model
    # the dot: files of the one line are not taken for the other's, whose names go on with a dash
    return version_of(model) if judged is None else f"{version_of(model)}.{digest([judged], n_bytes=6)}"


def asked_as(interceptors: Iterable[InterceptorEntry]) -> list[dict[str, Any]]:
    """What a model's interceptors change of what it is asked, as plain JSON; a benchmark's are in its version."""
    return [one.in_words for one in interceptors if one.is_of(("request",))]


def evaluation_of(
    benchmark: Questions,
    model: Model,
    endpoint: Endpoint | None,
    report: AskReport,
    plan: Plan,
    price: tuple[Price | None, str],
    *,
    key: str,
    limit: int | None,
    run_id: str,
    asked_by: str,
) -> Evaluation:
    """The record of one try, from what was planned and what asking came to.

    `endpoint` is None if nobody was asked; then what a killed run was answered cost `price`, in the currency beside it.
    """
    spec, n_requests = benchmark.spec, plan.n_requests
    n_answered = len(plan.earlier) + len(plan.recovered) + report.n_answered
    # a verdict on a sample is an outcome: it lowers the coverage, and says nothing of the rest
    n_lacking = n_requests - n_answered - (report.n_failed - report.n_failed_of_server)
    return Evaluation(
        evaluation_id=key,
        run_id=run_id,
        model_key=str(model.key),
        family=model.key.family,
        revision=model.key.revision,
        step=model.key.step,
        fingerprint=model.fingerprint,
        benchmark=benchmark.name,
        judged_model=benchmark.judged_model,
        ask_version=benchmark.ask_version,
        parameters=json.dumps(
            _parameters(spec, model, limit) | ({STOPPED: plan.stopped} if plan.stopped else {}), sort_keys=True
        ),
        endpoint=endpoint.url if endpoint else "",
        backend=endpoint.backend if endpoint else "",
        server_version=endpoint.server_version if endpoint else None,
        n_samples=sum(1 for _ in benchmark.samples()),
        n_requests=n_requests,
        n_answered=n_answered,
        n_reused=len(plan.earlier),
        answers_since=plan.since,
        n_failed=report.n_failed,
        failures=json.dumps({kind.value: n for kind, n in report.failures.items()}, sort_keys=True),
        is_within_budget=n_lacking <= 0 or n_lacking / n_requests <= spec.max_failed_share,
        prompt_tokens=report.prompt_tokens,
        completion_tokens=report.completion_tokens,
        **_cost(endpoint, report, plan, price),
        wall_s=report.wall_s,
        latency_p50_s=report.percentile_s(0.50),
        latency_p95_s=report.percentile_s(0.95),
        latency_p99_s=report.percentile_s(0.99),
        **report.streamed,
        n_truncated=report.n_truncated,
        asked_by=asked_by,
        project_version=project_version(),
        recorded_at=utc_now(),
    )


def _parameters(spec: BenchmarkSpec, model: Model, limit: int | None) -> dict[str, Any]:
    """How it was asked, as plain JSON."""
    parameters: dict[str, Any] = {
        "task": spec.task,
        "limit": limit,
        "protocol": spec.protocol,
        "num_fewshot": spec.num_fewshot,
        "repeats": spec.repeats,
        "generation": spec.generation,
        "system_prompt": spec.system_prompt,
    }
    if spec.interceptors or model.interceptors:
        listed = {"benchmark": spec.interceptors, "model": model.interceptors}
        parameters["interceptors"] = {whose: [one.in_words for one in found] for whose, found in listed.items()}
        parameters["asked_as"] = asked_as(model.interceptors)
    return parameters


def _cost(endpoint: Endpoint | None, report: AskReport, plan: Plan, known: tuple[Price | None, str]) -> dict[str, Any]:
    """What this run's answers cost, and those of one that was killed before it could tell.

    Nothing where nobody knows a price, or where the server counted no tokens.
    """
    price, currency = (endpoint.price, endpoint.currency) if endpoint else known if plan.n_untold else (None, "")
    prompt = report.prompt_tokens + plan.prompt_tokens
    completion = report.completion_tokens + plan.completion_tokens
    cached = report.cached_prompt_tokens + plan.cached_prompt_tokens
    is_uncounted = bool(report.n_answered or plan.n_untold) and not prompt + completion
    if price is None or is_uncounted:
        return {}
    return {"cost": price.cost(prompt, completion, cached) / UNITS, "currency": currency}


def project_version() -> str:
    """Of the installed project; `source` when it runs uninstalled."""
    try:
        return version("eval-pipelines")
    except PackageNotFoundError:
        return "source"
