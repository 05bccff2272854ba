"""The published tables: every file of dbt_like_sql/ is an asset, every SQL test an asset check."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.failures import told_plainly
from dbt_like_sql import SOURCES, SqlModel, SqlProject, SqlTestResult
from resources.warehouse import WarehouseResource

if TYPE_CHECKING:
    from eval_pipelines.warehouse.publish import PublishReport
    from eval_pipelines.warehouse.read import Reader

_N_PREVIEW = 10
_SEVERITY = {"warn": dg.AssetCheckSeverity.WARN}


def marts_assets(project: SqlProject, benchmarks: list[str]) -> dg.AssetsDefinition:
    """All SQL models as one step: they are built together, into one file, or not at all."""
    specs = [_spec(model, project, benchmarks) for model in project.models]
    checks = [
        dg.AssetCheckSpec(test.name, asset=_key(_checked(project, test.model)), description=test.meaning)
        for test in project.tests
    ]

    @dg.multi_asset(name="publish", specs=specs, check_specs=checks, pool="publish")
    def publish(context: dg.AssetExecutionContext, warehouse: WarehouseResource) -> Iterator[dg.MaterializeResult[Any]]:
        from eval_pipelines.warehouse.read import Reader

        with told_plainly():
            report = warehouse.publish()
        context.log.info(
            f"published generation {report.generation} with {report.n_new_files} new files in {report.wall_s:.2f} s: {report.path}"
        )
        results: dict[str, list[SqlTestResult]] = {}
        for result in report.tests:
            results.setdefault(_checked(project, result.model).name, []).append(result)
        with Reader(warehouse.config.data_root) as reader:
            for model in project.models:
                yield dg.MaterializeResult(
                    asset_key=_key(model),
                    metadata=_metadata(model, report, reader),
                    check_results=[_check(model, result) for result in results.get(model.name, [])],
                )

    return publish


def _checked(project: SqlProject, name: str) -> SqlModel:
    """The model whose asset shows a test: the tested one, or the first that reads a tested landed table."""
    readers = [model for model in project.models if name in (model.name, *model.depends_on)]
    return next((model for model in readers if model.name == name), readers[0] if readers else project.models[0])


def _key(model: SqlModel) -> dg.AssetKey:
    return dg.AssetKey([model.layer, model.name])


def _spec(model: SqlModel, project: SqlProject, benchmarks: list[str]) -> dg.AssetSpec:
    layers = {other.name: other.layer for other in project.models}
    deps = [dg.AssetKey([layers[name], name]) for name in model.depends_on if name in layers]
    if SOURCES & set(model.depends_on):
        deps += [dg.AssetKey(["scores", name]) for name in benchmarks]
    told = [model.description, *(f"---\n\n{macro.description}" for macro in project.macros_of(model))]
    return dg.AssetSpec(
        _key(model), deps=deps, group_name=model.layer, description="\n\n".join(told), kinds={"duckdb", "sql"}
    )


def _metadata(model: SqlModel, report: "PublishReport", reader: "Reader") -> dict[str, dg.MetadataValue]:
    told: dict[str, dg.MetadataValue] = {
        "generation": dg.MetadataValue.int(report.generation),
        "database": dg.MetadataValue.path(str(report.path)),
        "sql": dg.MetadataValue.md(f"```sql\n{model.sql.strip()}\n```"),
    }
    # a view is computed when it is read: a preview of one over all answers would read them all
    if model.name in report.n_rows:
        rows = reader.query(f"SELECT * FROM {model.name} LIMIT {_N_PREVIEW}")
        told["preview"] = dg.MetadataValue.md(_table(rows))
        told["dagster/row_count"] = dg.MetadataValue.int(report.n_rows[model.name])
    return told


def _check(model: SqlModel, result: SqlTestResult) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=_key(model),
        check_name=result.name,
        passed=result.is_passed,
        severity=_SEVERITY.get(result.severity, dg.AssetCheckSeverity.ERROR),
        description=result.meaning,
        metadata={"n_failing": result.n_failing, "violations": dg.MetadataValue.md(_table(result.rows))},
    )


def _table(rows: list[dict[str, object]]) -> str:
    if not rows:
        return "no rows"
    names = list(rows[0])
    body = ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *body])


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
    return (text if len(text) <= 80 else f"{text[:79]}…").replace("|", "\\|")
