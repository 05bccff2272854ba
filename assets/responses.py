"""`responses/<benchmark>`, by model: lease an endpoint, ask what is not known yet, land it."""

import asyncio
import itertools
import os
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import dagster as dg
from pydantic import Field

from assets import course_plot
from assets.failures import told_plainly
from assets.partitions import models
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.config_prices import in_words
from eval_pipelines.errors import ConfigError
from eval_pipelines.records import Evaluation, Place, Response, utc_now
from resources.benchmarks import BenchmarksResource
from resources.endpoints import EndpointsResource
from resources.warehouse import WarehouseResource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from datetime import datetime

    from eval_pipelines.benchmarks.harness import Benchmark
    from eval_pipelines.client.chain import Chain
    from eval_pipelines.client.interception import Context
    from eval_pipelines.client.report import AskReport
    from eval_pipelines.endpoint import Endpoint
    from eval_pipelines.evaluate import Asked
    from eval_pipelines.models import Model
    from eval_pipelines.serving.metrics import ServerSummary

_LOG_EVERY_S = 10.0
_N_PREVIEW = 5


class AskConfig(dg.Config):
    """How much to ask this time."""

    limit: int | None = Field(
        default=None,
        ge=1,
        description="Samples per subtask, instead of the limit in evals.yaml. Empty: as evals.yaml says.",
    )
    reuse: bool = Field(
        default=True, description="Do not ask again what this model version answered before. Off: ask everything anew."
    )
    ask: bool = Field(
        default=True,
        description="Off: replay. Only what was landed before; nothing is asked and no server is started.",
    )


def responses_asset(name: str, spec: BenchmarkSpec) -> dg.AssetsDefinition:
    """The asset of one benchmark's responses, one partition per model."""

    @dg.asset(
        key=["responses", name],
        deps=[["samples", name]],
        partitions_def=models,
        group_name="responses",
        code_version=spec.asking_version,
        kinds={"parquet"},
        description=f"What each model answered to {name}. Answered questions are never asked twice of one model version.",
    )
    def responses(
        context: dg.AssetExecutionContext,
        config: AskConfig,
        endpoints: EndpointsResource,
        benchmarks: BenchmarksResource,
        warehouse: WarehouseResource,
    ) -> dg.MaterializeResult[Any]:
        limit = config.limit or spec.limit
        with told_plainly():
            if not (config.ask or config.reuse):
                raise ConfigError("`ask: false` with `reuse: false` leaves nothing to land: set one of them to true")
            benchmark = benchmarks.load(name, limit=limit, model=context.partition_key)
            chain = benchmarks.chain(name, context.partition_key)
            asked, of_server = asyncio.run(_ask(context, benchmark, chain, limit, config, endpoints, warehouse))
        context.log.info(_in_words(asked))
        metadata = _metadata(asked, benchmark, warehouse) | of_server
        with told_plainly(metadata):
            asked.raise_if_over_budget(spec.max_failed_share)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(f"{asked.evaluation.evaluation_id}-{asked.evaluation.n_answered}"),
            metadata=metadata,
        )

    return responses


async def _ask(
    context: dg.AssetExecutionContext,
    benchmark: "Benchmark",
    chain: "Chain",
    limit: int | None,
    config: AskConfig,
    endpoints: EndpointsResource,
    warehouse: WarehouseResource,
) -> tuple["Asked", dict[str, dg.MetadataValue]]:
    from eval_pipelines.evaluate import ask_benchmark
    from eval_pipelines.evaluation_record import evaluation_id
    from eval_pipelines.serving.scraping import Scraper

    landing = warehouse.landing
    model = endpoints.model(context.partition_key)
    key = evaluation_id(model, benchmark, limit)
    landing.land_samples(benchmark.name, benchmark.ask_version, benchmark.samples())
    watched: list[Scraper] = []

    @asynccontextmanager
    async def open_endpoint() -> "AsyncIterator[Endpoint]":
        who = f"run {context.run.run_id[:8]}, {benchmark.name}"
        async with endpoints.lease(
            model, needs=benchmark.needs, who=who, on_wait=context.log.info, chain=chain
        ) as endpoint:
            server = f"{endpoint.backend} {endpoint.server_version or ''}".strip()
            context.log.info(f"{model.key} answers at {endpoint.url} ({server})")
            watched.append(Scraper(endpoint))
            async with watched[0]:
                yield endpoint

    def land(evaluation: Evaluation, new: "Iterable[tuple[Place, Response]]") -> None:
        landing.land_responses(evaluation, new)
        landing.land_server_metrics(evaluation, watched[0].records if watched else ())
        landing.land_evaluation(evaluation)

    def known() -> "Mapping[str, datetime]":
        if not config.reuse:
            return {}
        with_greedy = "top_logprobs" in benchmark.needs
        answered = landing.answered(model.key, model.fingerprint, with_greedy=with_greedy)
        return chain.reusable(answered, benchmark.requests(), utc_now())

    with _Progress(context, f"{model.key} {benchmark.name}") as progress:
        asked = await ask_benchmark(
            benchmark,
            model,
            open_endpoint if config.ask else None,
            limit=limit,
            run_id=context.run.run_id,
            asked_by=_asked_by(context.run),
            journals=warehouse.config.data_root / "journal",
            known=known,
            land=land,
            interceptors=chain.attempts(_where(context, model, benchmark.name, key, warehouse)),
            expected_tokens=lambda wanted: landing.expected_tokens(model.key, benchmark.name, wanted),
            on_progress=progress,
            on_wait=lambda: context.log.info(
                "another run is asking this cell: waiting for it, then taking over its answers"
            ),
        )
    return asked, _of_server(asked.endpoint, watched[0].summary if watched else None)


def _where(
    context: dg.AssetExecutionContext, model: "Model", benchmark: str, key: str, warehouse: WarehouseResource
) -> "Context":
    """Where the interceptors of an evaluation work."""
    from eval_pipelines.client.interception import Context

    return Context(
        folder=warehouse.config.data_root / "logs" / key,
        evaluation_id=key,
        run_id=context.run.run_id,
        model_key=str(model.key),
        benchmark=benchmark,
        log=context.log.info,
        environment=os.environ,
    )


def _asked_by(run: dg.DagsterRun) -> str:
    for tag in (
        "user",
        "dagster/sensor_name",
        "dagster/schedule_name",
        "dagster/backfill",
        "eval_pipelines/started_by",
    ):
        if tag in run.tags:
            return f"{tag.removeprefix('dagster/')}: {run.tags[tag]}"
    return "user"


class _Progress:
    """A line in the Dagster log now and then, and a bar on a terminal."""

    def __init__(self, context: dg.AssetExecutionContext, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._log, self._title, self._said_at = context.log, title, time.monotonic()
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task(title, total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, report: "AskReport") -> None:
        self._bar.update(self._task, total=report.n_requests, completed=report.n_done)
        if time.monotonic() - self._said_at >= _LOG_EVERY_S:
            self._said_at = time.monotonic()
            failed = f", {report.n_failed} failed" if report.n_failed else ""
            self._log.info(f"{self._title}: {report.n_done} of {report.n_requests} asked{failed}")


def _in_words(asked: "Asked") -> str:
    one, report = asked.evaluation, asked.report
    reused = f", {one.n_reused} known from earlier runs" if one.n_reused else ""
    recovered = f", {asked.n_recovered} recovered from an unfinished run" if asked.n_recovered else ""
    failed = f", {report.n_failed} failed" if report.n_failed else ""
    return f"{one.n_requests} requests: {report.n_answered} answered now{reused}{recovered}{failed} in {report.wall_s:.1f} s"


def _metadata(asked: "Asked", benchmark: "Benchmark", warehouse: WarehouseResource) -> dict[str, dg.MetadataValue]:
    one, report = asked.evaluation, asked.report
    folder = Path(warehouse.landing.folder) / "responses" / f"model={one.model_key}" / f"benchmark={one.benchmark}"
    rate = one.completion_tokens / report.wall_s if report.wall_s else 0.0
    told: dict[str, object] = {
        "n_requests": one.n_requests,
        "n_answered": one.n_answered,
        "coverage": one.n_answered / one.n_requests if one.n_requests else 0.0,
        "n_asked_now": report.n_done,
        "n_reused": one.n_reused + asked.n_recovered,
        "n_failed": report.n_failed,
        "failures_by_kind": dg.MetadataValue.json({kind.value: n for kind, n in report.failures.items()}),
        "prompt_tokens": one.prompt_tokens,
        "completion_tokens": one.completion_tokens,
        "tokens_per_s": round(rate, 1),
        "wall_s": round(report.wall_s, 2),
        "endpoint": dg.MetadataValue.url(one.endpoint) if one.endpoint else "nobody was asked",
        "server": f"{one.backend} {one.server_version or ''}".strip(),
        "fingerprint": one.fingerprint,
        "version": one.ask_version,
        "path": dg.MetadataValue.path(str(folder)),
        "preview": dg.MetadataValue.md(_preview(asked, benchmark, warehouse)),
    }
    if one.cost is not None and one.currency is not None:
        told["cost"] = in_words(one.cost, one.currency)
    if report.n_truncated:
        told["n_truncated"] = report.n_truncated
    if report.course is not None and report.course.points:
        told["in_flight"] = report.course.words
        told["in_flight_plot"] = dg.MetadataValue.md(course_plot.markdown(report.course))
    for name in (*("latency_p50_s", "latency_p95_s", "latency_p99_s"), *report.streamed):
        if (seconds := getattr(one, name)) is not None:
            told[name] = round(seconds, 4)
    if report.told:
        told["interceptors"] = dg.MetadataValue.json(dict(report.told))
    return {key: value if isinstance(value, dg.MetadataValue) else _plain(value) for key, value in told.items()}


def _of_server(endpoint: "Endpoint | None", summary: "ServerSummary | None") -> dict[str, dg.MetadataValue]:
    told: dict[str, dg.MetadataValue] = {}
    if endpoint is None:
        return told
    if summary is not None:
        rows = [f"| {name} | {value:.4g} |" for name, value in summary.model_dump().items() if value is not None]
        told["server_metrics"] = dg.MetadataValue.md("\n".join(["| while it was asked | |", "|---|---|", *rows]))
    if endpoint.log_path is not None:
        told["server_log"] = dg.MetadataValue.path(str(endpoint.log_path))
    if endpoint.watch is not None and endpoint.watch.n_restarts:
        told["server_restarts"] = dg.MetadataValue.int(endpoint.watch.n_restarts)
    return told


def _plain(value: object) -> dg.MetadataValue:
    if isinstance(value, float):
        return dg.MetadataValue.float(value)
    return dg.MetadataValue.int(value) if isinstance(value, int) else dg.MetadataValue.text(str(value))


def _preview(asked: "Asked", benchmark: "Benchmark", warehouse: WarehouseResource) -> str:
    one = asked.evaluation
    first = list(itertools.islice(benchmark.requests(), _N_PREVIEW))
    responses = warehouse.landing.responses_for(one.model_key, one.fingerprint, {request.digest for request in first})
    lines = ["| sample | asked | answered |", "|---|---|---|"]
    for request in first:
        response = responses.get(request.digest)
        if response is None:
            continue
        said = response.failure.kind.value if response.failure else response.text or f"logprob {response.logprob:.2f}"
        question = (
            request.continuation or (request.messages[-1]["content"] if request.messages else request.prompt) or ""
        )
        lines.append(f"| {request.sample_id} | {_cell(question)} | {_cell(said)} |")
    return "\n".join(lines)


def _cell(text: str, n: int = 200) -> str:
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat if len(flat) <= n else f"…{flat[-n:]}"
