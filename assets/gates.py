"""`gates/<name>`, by model: judge a checkpoint by a policy over several benchmarks, as an asset check with reasons."""

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, get_args

import dagster as dg

from assets.failures import told_plainly
from assets.partitions import models
from eval_pipelines.config import Gate
from eval_pipelines.keys import digest
from eval_pipelines.records import utc_now
from eval_pipelines.scoring.gate_records import JUDGING_VERSION
from resources.warehouse import WarehouseResource

if TYPE_CHECKING:
    from eval_pipelines.scoring.gate_records import GateVerdict

CHECK = "verdict"
_BASELINES = {"previous": "the checkpoint before", "best": "on each the best checkpoint before"}


def gate_asset(name: str, gate: Gate) -> dg.AssetsDefinition:
    """The asset of one gate's verdicts, one partition per model."""
    key = dg.AssetKey(["gates", name])
    benchmarks, baseline = ", ".join(gate.benchmarks), _BASELINES.get(gate.baseline, gate.baseline)

    @dg.asset(
        key=key,
        deps=[*([dg.AssetKey(["scores", one]) for one in gate.benchmarks]), dg.AssetKey(["marts", "latest_metrics"])],
        partitions_def=models,
        group_name="gates",
        code_version=digest([gate.model_dump(mode="json"), JUDGING_VERSION], n_bytes=6),
        kinds={"parquet"},
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=key,
                description=f"GO, NO-GO or INCONCLUSIVE for a model, by the gate {name!r} of evals.yaml.",
            )
        ],
        description=f"Whether a model may go on, by {benchmarks}, against {baseline}. Reads the published record; asks no model.",
    )
    def verdict(context: dg.AssetExecutionContext, warehouse: WarehouseResource) -> Iterator[dg.MaterializeResult[Any]]:
        from eval_pipelines.analysis.gating import judge_model
        from eval_pipelines.warehouse.read import open_published

        with told_plainly():
            with closing(open_published(warehouse.config.data_root)) as connection:
                judged = judge_model(connection, name, gate, context.partition_key)
            rows = judged.rows(run_id=context.run.run_id, recorded_at=utc_now())
            path = warehouse.landing.land_gate_verdict(name, context.partition_key, context.run.run_id, rows)
        context.log.info(f"{name}: {judged.verdict.decision} for {context.partition_key}")
        metadata = _metadata(judged.verdict)
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(f"{judged.evidence}-{JUDGING_VERSION}"),
            metadata={**metadata, "path": dg.MetadataValue.path(str(path))},
            check_results=[_check(judged.verdict, metadata)],
        )

    return verdict


def _check(verdict: "GateVerdict", metadata: dict[str, dg.MetadataValue]) -> dg.AssetCheckResult:
    is_no = verdict.decision == "NO-GO"
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=verdict.decision == "GO",
        severity=dg.AssetCheckSeverity.ERROR if is_no else dg.AssetCheckSeverity.WARN,
        description=f"{verdict.decision} for {verdict.model_key}: {'; '.join(verdict.reasons)}",
        metadata=metadata,
    )


def _metadata(verdict: "GateVerdict") -> dict[str, dg.MetadataValue]:
    from eval_pipelines.analysis import gate_table
    from eval_pipelines.scoring.gate_records import Status

    statuses = [one.status for one in verdict.benchmarks]
    return {
        "verdict": dg.MetadataValue.text(verdict.decision),
        "model": dg.MetadataValue.text(verdict.model_key),
        "reasons": dg.MetadataValue.md(gate_table.markdown(verdict)),
        # zeros too: the UI draws them over time
        **{f"n_{status}": dg.MetadataValue.int(statuses.count(status)) for status in get_args(Status)},
    }
