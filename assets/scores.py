"""`scores/<benchmark>`, by model: read what was answered, grade it, land scores and metrics. Asks nobody."""

import json
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.failures import told_plainly
from assets.partitions import models
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.errors import NothingAskedError
from eval_pipelines.records import Evaluation, Metric, Score, utc_now
from resources.benchmarks import BenchmarksResource
from resources.warehouse import WarehouseResource

if TYPE_CHECKING:
    from eval_pipelines.benchmarks.harness import Benchmark

_N_PREVIEW = 5


def scores_asset(name: str, spec: BenchmarkSpec) -> dg.AssetsDefinition:
    """The asset of one benchmark's scores, one partition per model."""

    @dg.asset(
        key=["scores", name],
        deps=[["responses", name]],
        partitions_def=models,
        group_name="scores",
        code_version=spec.code_version,
        kinds={"parquet"},
        description=f"Verdicts and metrics of each model on {name}, with coverage and intervals. Re-grading asks no model.",
    )
    def scores(
        context: dg.AssetExecutionContext, benchmarks: BenchmarksResource, warehouse: WarehouseResource
    ) -> dg.MaterializeResult[Any]:
        from eval_pipelines.evaluation_record import asked_as

        landing, key = warehouse.landing, context.partition_key
        with told_plainly():
            evaluation = landing.latest_evaluation(key, name)
            if evaluation is None:
                raise NothingAskedError(f"{key} was not asked {name} yet: materialize responses/{name} for it first")
            parameters = json.loads(evaluation.parameters)
            benchmark = benchmarks.load(name, limit=parameters["limit"], model=key)
            chain = benchmarks.chain(name, key)
            _check_asked_so(evaluation, benchmark, asked_as(chain.of_model), parameters)
            digests = {request.digest for request in benchmark.requests()}
            responses = landing.responses_for(key, evaluation.fingerprint, digests, of=evaluation)
            graded, metrics = benchmark.grade(responses)
            path = landing.land_scores(
                evaluation,
                graded,
                metrics,
                score_version=benchmark.score_version,
                run_id=context.run.run_id,
                recorded_at=utc_now(),
                graded_as=json.dumps(chain.graded_as) if chain.reads_answers else None,
            )
        headline = next(metric for metric in metrics if metric.is_headline and metric.subtask == "")
        context.log.info(f"{key} {name}: {in_words(headline)}")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(f"{evaluation.evaluation_id}-{benchmark.score_version}-{headline.n}"),
            metadata=_metadata(headline, metrics, graded, path=str(path), version=benchmark.score_version),
        )

    return scores


def _check_asked_so(
    evaluation: Evaluation, benchmark: "Benchmark", asked_as: list[dict[str, Any]], parameters: dict[str, Any]
) -> None:
    """Raises NothingAskedError where the answers that are landed were asked for otherwise than they would be now."""
    name, key = evaluation.benchmark, evaluation.model_key
    if benchmark.ask_version != evaluation.ask_version:
        raise NothingAskedError(
            f"{name} asks version {benchmark.ask_version} now, and {key} answered {evaluation.ask_version}: "
            f"materialize responses/{name} for it first"
        )
    if asked_as != parameters.get("asked_as", []):
        raise NothingAskedError(
            f"{key} was asked {name} with other interceptors than evals.yaml lists for it now: materialize "
            f"responses/{name} for it first"
        )
    n_now, n_asked = benchmark.spec.repeats or 1, parameters.get("repeats") or 1
    if n_now > n_asked:
        raise NothingAskedError(
            f"{name} asks each question {n_now} times now, and {key} was asked {n_asked} times: "
            f"materialize responses/{name} for it first; only the further repeats are asked"
        )


def in_words(metric: Metric) -> str:
    """`acc 0.621 ± 0.013 (0.594 to 0.647), 1,303 of 1,319 graded; between 0.613 and 0.625 of all`."""
    name = metric.metric if metric.filter == "none" else f"{metric.metric},{metric.filter}"
    if metric.value is None:
        return f"{name}: nothing of {metric.n_asked:,} could be graded"
    error = f" ± {metric.stderr:.3f}" if metric.stderr is not None else ""
    ci = (
        f" ({metric.ci_low:.3f} to {metric.ci_high:.3f})"
        if metric.ci_low is not None and metric.ci_high is not None
        else ""
    )
    text = f"{name} {metric.value:.3f}{error}{ci}, {metric.n:,} of {metric.n_asked:,} graded"
    if metric.n < metric.n_asked and metric.bound_low is not None and metric.bound_high is not None:
        text += f"; between {metric.bound_low:.3f} and {metric.bound_high:.3f} of all"
    return text


def _metadata(
    headline: Metric, metrics: list[Metric], graded: list[Score], *, path: str, version: str
) -> dict[str, dg.MetadataValue]:
    told: dict[str, dg.MetadataValue] = {
        "score": dg.MetadataValue.text(in_words(headline)),
        "n": dg.MetadataValue.int(headline.n),
        "n_asked": dg.MetadataValue.int(headline.n_asked),
        "coverage": dg.MetadataValue.float(headline.coverage),
        "version": dg.MetadataValue.text(version),
        "path": dg.MetadataValue.path(path),
        "metrics": dg.MetadataValue.md(_table(metrics)),
        "preview": dg.MetadataValue.md(_preview(graded)),
    }
    for name in ("value", "stderr", "ci_low", "ci_high", "bound_low", "bound_high"):
        if (number := getattr(headline, name)) is not None:
            told[name] = dg.MetadataValue.float(round(number, 6))
    return told


def _table(metrics: list[Metric]) -> str:
    rows = [f"| {one.subtask or 'all'} | {in_words(one)} |" for one in metrics]
    return "\n".join(["| subtask | metric |", "|---|---|", *rows])


def _preview(graded: list[Score]) -> str:
    rows = [
        f"| {one.sample_id} | {one.metric},{one.filter} | {one.ungraded_reason if one.value is None else one.value} "
        f"| {' '.join((one.extracted or '').split())[:120].replace('|', ' ')} |"
        for one in graded[:_N_PREVIEW]
    ]
    return "\n".join(["| sample | metric | verdict | extracted |", "|---|---|---|---|", *rows])
