"""What evals.yaml asks for goes on record, so that a checkpoint that was never asked is missing, not unknown."""

import dagster as dg

from eval_pipelines.configured import what_is_configured
from resources.checkpoints import CheckpointsResource
from resources.warehouse import WarehouseResource


@dg.sensor(
    name="record_configured",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Records which models and benchmarks evals.yaml configures, as far as that changed: see the table `grid`.",
)
def configured_sensor(checkpoints: CheckpointsResource, warehouse: WarehouseResource) -> dg.SkipReason:
    """It asks for no run: the tables follow what is landed here. Nothing is hashed for it."""
    n_changed = warehouse.record_configured(what_is_configured(checkpoints.config, checkpoints.scan(hash_for_s=0.0)))
    return dg.SkipReason(f"recorded {n_changed} changes" if n_changed else "on record as it is")
