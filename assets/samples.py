"""`samples/<benchmark>`: the questions of one benchmark, landed once per version."""

from typing import Any

import dagster as dg

from assets.failures import told_plainly
from eval_pipelines.config import BenchmarkSpec
from resources.benchmarks import BenchmarksResource
from resources.warehouse import WarehouseResource

_N_PREVIEW = 5


def samples_asset(name: str, spec: BenchmarkSpec) -> dg.AssetsDefinition:
    """The asset of one benchmark's questions."""

    @dg.asset(
        key=["samples", name],
        group_name="samples",
        code_version=spec.asking_version,
        kinds={"parquet"},
        description=f"Questions and gold answers of {name} (lm-eval task `{spec.task}`), one version per wording and data.",
    )
    def samples(benchmarks: BenchmarksResource, warehouse: WarehouseResource) -> dg.MaterializeResult[Any]:
        with told_plainly():
            benchmark = benchmarks.load(name, limit=spec.limit)
            found = list(benchmark.samples())
            path = warehouse.landing.land_samples(name, benchmark.ask_version, found)
        rows = [f"| {one.sample_id} | {_cell(one.question)} | {_cell(one.target)} |" for one in found[:_N_PREVIEW]]
        return dg.MaterializeResult(
            data_version=dg.DataVersion(benchmark.ask_version),
            metadata={
                "n_samples": len(found),
                "subtasks": len(benchmark.subtask_names),
                "version": benchmark.ask_version,
                "needs": ", ".join(sorted(benchmark.needs)),
                "path": dg.MetadataValue.path(str(path)) if path else "landed before",
                "preview": dg.MetadataValue.md("\n".join(["| id | question | target |", "|---|---|---|", *rows])),
            },
        )

    return samples


def _cell(text: str, n: int = 160) -> str:
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat if len(flat) <= n else f"{flat[: n - 1]}…"
