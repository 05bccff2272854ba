"""The reports: every file of eval_pipelines/reports/ is an asset, made of what is published."""

import base64
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.failures import told_plainly
from eval_pipelines import plugins
from resources.warehouse import WarehouseResource

if TYPE_CHECKING:
    from eval_pipelines.reports import Written

GROUP = "reports"
# they are kept in Dagster's event log with each materialization
_MAX_PICTURES_BYTES = 400_000
_N_FINDINGS = 8


def reports_asset(tables: list[str]) -> dg.AssetsDefinition:
    """All reports as one step, which holds nothing up: it reads what is published, and runs beside everything else."""
    specs = [
        dg.AssetSpec(
            dg.AssetKey([GROUP, name]),
            deps=[dg.AssetKey(["marts", table]) for table in tables],
            group_name=GROUP,
            description=f"`reports/{name}/` below the data root: self-contained pages, from `eval_pipelines/reports/{name}.py`.",
            kinds={"html"},
        )
        for name in plugins.names("reports")
    ]

    @dg.multi_asset(name="reports", specs=specs, pool="reports", can_subset=True)
    def reports(context: dg.AssetExecutionContext, warehouse: WarehouseResource) -> Any:
        from eval_pipelines.reports import write_all, write_index

        written = {}
        for key in sorted(context.selected_asset_keys):
            name = key.path[-1]
            with told_plainly():
                written[name] = write_all(warehouse.config.data_root, name)
            yield dg.MaterializeResult(asset_key=key, metadata=_metadata(written[name]))
        if len(written) == len(specs):
            with told_plainly():
                write_index(warehouse.config.data_root, written)

    return reports


def _metadata(written: "list[Written]") -> dict[str, Any]:
    told: dict[str, Any] = {"n_pages": len(written)}
    if not written:
        return told
    findings = [said for one in written for said in one.page.findings[:3]]
    pages = [f"- {one.page.title}: `{one.html}`" for one in written]
    return told | {
        "page": dg.MetadataValue.path(str(written[0].html)),
        "pages": dg.MetadataValue.md("\n".join(pages[:100])),
        "preview": dg.MetadataValue.md(_previews(written)),
        # text is shown at once, Markdown after a click
        "findings": dg.MetadataValue.text(" ".join(findings[:_N_FINDINGS]) or "Nothing stands out."),
    }


def _previews(written: "list[Written]") -> str:
    """The pictures as Markdown, as many as the event log should hold."""
    shown: list[str] = []
    for one in written:
        if one.picture is None:
            continue
        kind, data = one.picture
        image = f"![{one.page.title}](data:{kind};base64,{base64.b64encode(data).decode()})"
        if sum(map(len, shown)) + len(image) > _MAX_PICTURES_BYTES:
            break
        shown.append(image)
    return "\n\n".join(shown) or "no picture"
