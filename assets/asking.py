"""How any model is asked from an asset: a benchmark's questions, or what it is to judge."""

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from assets.asking_progress import AskingProgress
from assets.partitions import ANSWERED_TAG, BUDGET_TAG
from assets.response_metadata import of_server
from eval_pipelines.errors import SpendingLimitError
from eval_pipelines.keys import cell_name
from eval_pipelines.records import Evaluation, Place, Response, utc_now
from eval_pipelines.retries import budget_begins_at
from resources.endpoints import EndpointsResource
from resources.warehouse import WarehouseResource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
    from datetime import datetime

    from eval_pipelines.client.chain import Chain
    from eval_pipelines.client.interception import Context
    from eval_pipelines.endpoint import Endpoint
    from eval_pipelines.evaluate import Asked
    from eval_pipelines.evaluation_record import Questions
    from eval_pipelines.models import Model
    from eval_pipelines.serving.scraping import Scraper
    from eval_pipelines.stopping import EarlyStop
    from eval_pipelines.warehouse.landing import Landing

_WAITS = "another run is asking this model some of these questions: waiting for it, then taking over its answers"


@dataclass(frozen=True, slots=True)
class Way:
    """How much is asked, and how.

    Attributes:
        limit: Samples per subtask; None for all.
        is_asking: False: only what is landed already; no server is started.
        is_reusing: False: everything is asked anew.
        early: Ends the asking once enough is known.
    """

    limit: int | None
    is_asking: bool = True
    is_reusing: bool = True
    early: "EarlyStop | None" = None


async def ask(
    context: dg.AssetExecutionContext,
    questions: "Questions",
    model: "Model",
    chain: "Chain",
    way: Way,
    endpoints: EndpointsResource,
    warehouse: WarehouseResource,
) -> tuple["Asked", dict[str, dg.MetadataValue]]:
    """Lease an endpoint, ask the model what is not known yet, and land it. Returns what metadata tells of the server."""
    from eval_pipelines.client.canaries import wanted_by
    from eval_pipelines.evaluate import ask_benchmark
    from eval_pipelines.evaluation_record import evaluation_id
    from eval_pipelines.serving.scraping import Scraper

    landing, key = warehouse.landing, evaluation_id(model, questions, way.limit)
    cell = cell_name(questions.name, questions.judged_model)
    watched: list[Scraper] = []

    @asynccontextmanager
    async def open_endpoint() -> "AsyncIterator[Endpoint]":
        who, wants = f"run {context.run.run_id[:8]}, {questions.name}", wanted_by(questions.requests())
        async with endpoints.lease(
            model, needs=questions.needs, wants=wants, who=who, on_wait=context.log.info, chain=chain
        ) as endpoint:
            context.log.info(f"{model.key} answers at {endpoint.url} ({_server(endpoint)})")
            watched.append(Scraper(endpoint))
            async with watched[0]:
                yield endpoint

    def known() -> "Mapping[str, datetime]":
        if not way.is_reusing:
            return {}
        answered = landing.answered(model.key, model.fingerprint, with_greedy="top_logprobs" in questions.needs)
        unfinished = partial(landing.unfinished, model.key, cell, key)
        return chain.reusable(answered, questions.requests(), utc_now(), unfinished)

    with AskingProgress(context, f"{model.key} {questions.name}") as progress:
        asking = ask_benchmark(
            questions,
            model,
            open_endpoint if way.is_asking else None,
            limit=way.limit,
            run_id=context.run.run_id,
            asked_by=_asked_by(context.run),
            journals=warehouse.config.data_root / "journal",
            known=known,
            land=partial(_land, landing, watched),
            interceptors=chain.attempts(_where(context, model, questions.name, key, warehouse)),
            expected_tokens=lambda wanted: landing.expected_tokens(model.key, cell, wanted),
            untold=partial(landing.untold, model.key, cell, model.fingerprint),
            on_progress=progress,
            on_wait=partial(_wait, context, endpoints),
            early=way.early,
            price=endpoints.price(model),
        )
        asked = await _tagged(context, asking)
    return asked, of_server(asked.endpoint, watched[0].summary if watched else None)


def _land(
    landing: "Landing", watched: "list[Scraper]", evaluation: Evaluation, new: "Iterable[tuple[Place, Response]]"
) -> None:
    landing.land_responses(evaluation, new)
    landing.land_server_metrics(evaluation, watched[0].records if watched else ())
    landing.land_evaluation(evaluation)


def _wait(context: dg.AssetExecutionContext, endpoints: EndpointsResource) -> None:
    context.log.info(_WAITS)
    endpoints.let_go()  # whoever asks the cell may need its GPUs


async def _tagged(context: dg.AssetExecutionContext, asking: "Awaitable[Asked]") -> "Asked":
    """Ask, and tag the run for whoever tries again if it fails."""
    tags: dict[str, str] = {}
    try:
        asked = await asking
        # what is complete may be asked anew by the next try: only what is left over becomes less
        if asked.report.n_answered and not asked.evaluation.is_complete:
            tags[ANSWERED_TAG] = "yes"
        if asked.report.stopped_with is SpendingLimitError:
            tags[BUDGET_TAG] = budget_begins_at(asked.report.stopped_at or utc_now()).isoformat()
    except SpendingLimitError:  # not even a first request was within the budget
        tags[BUDGET_TAG] = budget_begins_at(utc_now()).isoformat()
        raise
    finally:
        if tags:
            context.instance.add_run_tags(context.run.run_id, tags)
    return asked


def _server(endpoint: "Endpoint") -> str:
    return f"{endpoint.backend} {endpoint.server_version or ''}".strip()


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
