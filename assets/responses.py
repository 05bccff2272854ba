"""`responses/<benchmark>`, by model: lease an endpoint, ask what is not known yet, land it."""

import asyncio
import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from assets.asking_progress import AskingProgress
from assets.failures import told_plainly
from assets.partitions import models
from assets.response_metadata import asked_in_words, of_asked, of_server
from eval_pipelines.config import BenchmarkSpec
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
    from eval_pipelines.endpoint import Endpoint
    from eval_pipelines.evaluate import Asked
    from eval_pipelines.models import Model


_WAITS = "another run is asking this cell: waiting for it, then taking over its answers"


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
            asked, told = asyncio.run(_ask(context, benchmark, chain, limit, config, endpoints, warehouse))
        context.log.info(asked_in_words(asked))
        metadata = of_asked(asked, benchmark, warehouse) | told
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
        answered = landing.answered(model.key, model.fingerprint, with_greedy="top_logprobs" in benchmark.needs)
        begun = partial(landing.unfinished, model.key, benchmark.name, key)
        return chain.reusable(answered, benchmark.requests(), utc_now(), begun)

    with AskingProgress(context, f"{model.key} {benchmark.name}") as progress:
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
            on_wait=lambda: context.log.info(_WAITS),
        )
    return asked, of_server(asked.endpoint, watched[0].summary if watched else None)


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
