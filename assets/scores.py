"""`scores/<benchmark>`, by model: read what was answered, grade it, land scores and metrics. Asks nobody."""

import json
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.answered import Answered, read_answers
from assets.failures import told_plainly
from assets.partitions import models
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.records import Metric, Score, utc_now
from resources.benchmarks import BenchmarksResource
from resources.warehouse import WarehouseResource

if TYPE_CHECKING:
    from eval_pipelines.benchmarks.judge_scores import Graded

_N_PREVIEW = 5


def scores_asset(name: str, spec: BenchmarkSpec) -> dg.AssetsDefinition:
    """The asset of one benchmark's scores, one partition per model."""

    @dg.asset(
        key=["scores", name],
        deps=[["responses", name], *([["judgements", name]] if spec.judge else [])],
        partitions_def=models,
        group_name="scores",
        code_version=spec.code_version,
        kinds={"parquet"},
        description=f"Verdicts and metrics of each model on {name}, with coverage and intervals. Re-grading asks no model.",
    )
    def scores(
        context: dg.AssetExecutionContext, benchmarks: BenchmarksResource, warehouse: WarehouseResource
    ) -> dg.MaterializeResult[Any]:
        key = context.partition_key
        with told_plainly():
            answered = read_answers(name, key, benchmarks, warehouse)
            graded, version = _grade(answered, benchmarks, warehouse)
            path = warehouse.landing.land_scores(
                answered.evaluation,
                graded.scores,
                graded.metrics,
                score_version=version,
                run_id=context.run.run_id,
                recorded_at=utc_now(),
                graded_as=json.dumps(answered.chain.graded_as) if answered.chain.reads_answers else None,
                judgements=graded.judgements,
                judged_by=graded.judged_by,
            )
        headline = next(metric for metric in graded.metrics if metric.is_headline and metric.subtask == "")
        context.log.info(f"{key} {name}: {in_words(headline)}")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(f"{answered.evaluation.evaluation_id}-{version}-{headline.n}"),
            metadata=_metadata(headline, graded.metrics, graded.scores, path=str(path), version=version),
        )

    return scores


def _grade(answered: Answered, benchmarks: BenchmarksResource, warehouse: WarehouseResource) -> tuple["Graded", str]:
    """Scores and metrics of the task, and of the judges if it has some; and their version."""
    from assets.judges import judging_of, read_judges
    from eval_pipelines.benchmarks.judge_scores import Graded, grade_judged, judged_version
    from eval_pipelines.stopping import with_sequential_interval

    benchmark = answered.benchmark
    scores, metrics = benchmark.grade(answered.responses) if benchmark.has_own_metrics else ([], [])
    parameters = json.loads(answered.evaluation.parameters)
    metrics = with_sequential_interval(metrics, scores, benchmark.headline, parameters)
    if benchmark.spec.judge is None:
        return Graded(scores, metrics), benchmark.score_version
    judging = judging_of(answered, benchmark.spec.judge, benchmarks, warehouse)
    judges = read_judges(judging, benchmark.spec.judge, benchmarks, warehouse)
    judged = grade_judged(judges, benchmark.headline)
    return judged.beside(scores, metrics), judged_version(benchmark.score_version, judges)


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
