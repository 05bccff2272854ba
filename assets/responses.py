"""`responses/<benchmark>`, by model: lease an endpoint, ask what is not known yet, land it."""

import asyncio
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from assets.asking import Way, ask
from assets.failures import told_plainly
from assets.partitions import models
from assets.response_metadata import asked_in_words, of_asked
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.errors import ConfigError
from resources.benchmarks import BenchmarksResource
from resources.endpoints import EndpointsResource
from resources.warehouse import WarehouseResource


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
        # before any judge of this run is asked: on one GPU each change of models costs a start
        op_tags={"dagster/priority": "1"},
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
        from eval_pipelines.stopping import early_stop

        limit = config.limit or spec.limit
        with told_plainly():
            if not (config.ask or config.reuse):
                raise ConfigError("`ask: false` with `reuse: false` leaves nothing to land: set one of them to true")
            benchmark = benchmarks.load(name, limit=limit, model=context.partition_key)
            chain = benchmarks.chain(name, context.partition_key)
            model = endpoints.model(context.partition_key)
            warehouse.landing.land_samples(name, benchmark.ask_version, benchmark.samples())
            landed = partial(warehouse.landing.responses_for, model.key, model.fingerprint)
            early = early_stop(benchmark, spec.stop_early, landed)
            way = Way(limit=limit, is_asking=config.ask, is_reusing=config.reuse, early=early)
            asked, told = asyncio.run(ask(context, benchmark, model, chain, way, endpoints, warehouse))
        context.log.info(asked_in_words(asked))
        metadata = of_asked(asked, benchmark, warehouse) | told
        if early is not None and early.reason:
            metadata["stopped_early"] = dg.MetadataValue.text(early.reason)
        with told_plainly(metadata):
            asked.raise_if_over_budget(spec.max_failed_share)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(f"{asked.evaluation.evaluation_id}-{asked.evaluation.n_answered}"),
            metadata=metadata,
        )

    return responses
