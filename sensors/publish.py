"""Publish whenever something landed that the published database does not hold.

Compares what is there with what is published, so that no landing is ever missed: not one that came in while a
publication ran, not one from another machine.
"""

import dagster as dg

from eval_pipelines.warehouse.publish import unpublished_files
from eval_pipelines.warehouse.read import published_path, query
from resources.warehouse import WarehouseResource


@dg.sensor(
    name="publish_landed",
    target=dg.AssetSelection.groups("staging", "marts"),
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Rebuilds the published tables when landed files are not in them yet.",
)
def publish_sensor(context: dg.SensorEvaluationContext, warehouse: WarehouseResource) -> dg.RunRequest | dg.SkipReason:
    """One run per state of the landing: a run that failed is not repeated until something new lands."""
    root = warehouse.config.data_root
    n_new = unpublished_files(root)
    if not n_new:
        return dg.SkipReason("everything that landed is published")
    generation = query(root, "SELECT generation FROM meta")[0]["generation"] if published_path(root).exists() else 0
    context.log.info(f"{n_new} landed files are not in generation {generation}")
    return dg.RunRequest(run_key=f"publish:{generation}:{n_new}")
