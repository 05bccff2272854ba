"""`judgements/<benchmark>`, by judged model: ask each judge about its answers; land what it says like any answer.

Judges are asked one after another, each over its own lease: none needs room beside another, or beside the judged model.
"""

import asyncio
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from assets.answered import read_answers
from assets.asking import Way, ask
from assets.failures import told_plainly
from assets.judges import check_not_itself, judging_of, read_judges
from assets.partitions import models
from assets.response_metadata import asked_in_words
from assets.scores import in_words
from eval_pipelines.config import BenchmarkSpec, JudgeSpec
from eval_pipelines.config.prices import in_words as price_in_words
from eval_pipelines.errors import ConfigError, FailureBudgetError, ServingError
from resources.benchmarks import BenchmarksResource
from resources.endpoints import EndpointsResource
from resources.warehouse import WarehouseResource

if TYPE_CHECKING:
    from eval_pipelines.benchmarks.judge_scores import Graded
    from eval_pipelines.benchmarks.judged import Judging
    from eval_pipelines.evaluate import Asked
    from eval_pipelines.models import Model

_N_PREVIEW = 5
# what a judge's answer lacks is not mended by asking again
_SAID = ("judge_unparseable", "judge_split")


class JudgeConfig(dg.Config):
    """How judges are asked this time."""

    reuse: bool = Field(
        default=True, description="Do not ask a judge again what this version of it said before. Off: ask anew."
    )
    ask: bool = Field(default=True, description="Off: only what judges said before; nobody is asked.")


def judgements_asset(name: str, spec: BenchmarkSpec, judge: JudgeSpec) -> dg.AssetsDefinition:
    """The asset of what judges say about the answers to one benchmark, one partition per judged model."""
    beside = f" beside those of {judge.baseline}, whose responses must be there" if judge.baseline else ""

    @dg.asset(
        key=["judgements", name],
        deps=[["responses", name]],
        partitions_def=models,
        group_name="judgements",
        code_version=spec.judging_version,
        kinds={"parquet"},
        description=f"What {', '.join(judge.models)} said of each model's answers to {name}{beside}. "
        f"Asked once per version of a judge.",
    )
    def judgements(
        context: dg.AssetExecutionContext,
        config: JudgeConfig,
        endpoints: EndpointsResource,
        benchmarks: BenchmarksResource,
        warehouse: WarehouseResource,
    ) -> dg.MaterializeResult[Any]:
        with told_plainly():
            if not (config.ask or config.reuse):
                raise ConfigError("`ask: false` with `reuse: false` leaves nothing to land: set one of them to true")
            answered = read_answers(name, context.partition_key, benchmarks, warehouse)
            judges = {key: endpoints.model(key) for key in judge.models}
            check_not_itself(judge, answered, {one.fingerprint for one in judges.values()}, benchmark=name)
            judging = judging_of(answered, judge, benchmarks, warehouse)
            way = Way(limit=answered.limit, is_asking=config.ask, is_reusing=config.reuse)
            asked = _ask_each(context, judges, judging, way, endpoints, benchmarks, warehouse)
            graded = _graded(answered.benchmark.headline, judging, judge, benchmarks, warehouse)
        metadata = _metadata(asked, graded)
        with told_plainly(metadata):
            _raise_if_over_budget(context, asked, graded, judging)
        versions = [f"{one.evaluation.evaluation_id}-{one.evaluation.n_answered}" for one in asked]
        return dg.MaterializeResult(data_version=dg.DataVersion("+".join(versions)), metadata=metadata)

    return judgements


def _ask_each(
    context: dg.AssetExecutionContext,
    judges: "dict[str, Model]",
    judging: "Judging",
    way: Way,
    endpoints: EndpointsResource,
    benchmarks: BenchmarksResource,
    warehouse: WarehouseResource,
) -> "list[Asked]":
    """Every judge in turn. One that cannot be leased keeps none of the others from being asked. Raises ServingError."""
    found, failed = [], list[ServingError]()
    for key, model in judges.items():
        chain = benchmarks.judge_chain(key)
        questions = judging.seen_through(chain)
        try:
            asked, _ = asyncio.run(ask(context, questions, model, chain, way, endpoints, warehouse))
        except ServingError as error:
            context.log.error(f"{key} judges nothing: {error}")
            failed.append(error)
            continue
        context.log.info(f"{key} judges {judging.judged_model}: {asked_in_words(asked)}")
        found.append(asked)
    if failed:
        raise failed[0]
    return found


def _graded(
    headline: tuple[str, str],
    judging: "Judging",
    judge: JudgeSpec,
    benchmarks: BenchmarksResource,
    warehouse: WarehouseResource,
) -> "Graded":
    """What the judges' answers come to: told here, landed by the scores."""
    from eval_pipelines.benchmarks.judge_scores import grade_judged

    return grade_judged(read_judges(judging, judge, benchmarks, warehouse), headline)


def _raise_if_over_budget(
    context: dg.AssetExecutionContext, asked: "list[Asked]", graded: "Graded", judging: "Judging"
) -> None:
    """Raise where too many answers have no verdict because judges failed; a judge that the others outvote is told.

    Raises:
        AskingStoppedError, FailureBudgetError: everything that was answered is landed.
    """
    allowed = judging.spec.max_failed_share
    together = [one for one in graded.scores if one.filter == "none"]
    failed = [
        one
        for one in together
        if (reason := one.ungraded_reason) and reason.startswith("judge_") and reason not in _SAID
    ]
    if len(failed) <= allowed * len(together):
        for one in asked:
            if not one.evaluation.is_within_budget:
                context.log.warning(
                    f"{one.evaluation.model_key} failed on {one.report.n_failed} of {one.evaluation.n_requests}; "
                    f"the other judges decide"
                )
        return
    for one in asked:
        one.raise_if_over_budget(allowed)
    raise FailureBudgetError(
        f"{judging.judged_model} on {judging.name}: {len(failed)} of {len(together)} answers have no verdict, because "
        f"half of the judges or more failed on them; max_failed_share allows {allowed:.1%}. What the judges said is "
        f"landed: materialize again to ask only the rest."
    )


def _metadata(asked: "list[Asked]", graded: "Graded") -> dict[str, dg.MetadataValue]:
    evaluations = [one.evaluation for one in asked]
    told: dict[str, dg.MetadataValue] = {
        "judges": dg.MetadataValue.md(_judges(asked)),
        "n_requests": dg.MetadataValue.int(sum(one.n_requests for one in evaluations)),
        "n_answered": dg.MetadataValue.int(sum(one.n_answered for one in evaluations)),
        "n_asked_now": dg.MetadataValue.int(sum(one.report.n_done for one in asked)),
        "n_failed": dg.MetadataValue.int(sum(one.report.n_failed for one in asked)),
        "verdicts": dg.MetadataValue.md("\n\n".join(in_words(one) for one in graded.metrics if not one.subtask)),
        "preview": dg.MetadataValue.md(_preview(graded)),
    }
    costs = {one.currency: 0.0 for one in evaluations if one.cost is not None and one.currency is not None}
    for one in evaluations:
        if one.cost is not None and one.currency is not None:
            costs[one.currency] += one.cost
    if costs:
        told["cost"] = dg.MetadataValue.text(", ".join(price_in_words(n, unit) for unit, n in costs.items() if unit))
    return told


def _judges(asked: "list[Asked]") -> str:
    rows = [
        f"| {one.evaluation.model_key} | {one.evaluation.fingerprint[:12]} | {asked_in_words(one)} | "
        f"{one.evaluation.failures} |"
        for one in asked
    ]
    return "\n".join(["| judge | fingerprint | asked | failures |", "|---|---|---|---|", *rows])


def _preview(graded: "Graded") -> str:
    rows = [
        f"| {one.sample_id} | {one.judge} | {one.verdict or one.no_verdict_reason} "
        f"| {' '.join((one.text or one.no_verdict_why or '').split())[-160:].replace('|', ' ')} |"
        for one in graded.judgements[:_N_PREVIEW]
    ]
    return "\n".join(["| sample | judge | verdict | said |", "|---|---|---|---|", *rows])
