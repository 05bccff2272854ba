"""Models that evals.yaml declares become partitions, so that the UI offers their cells."""

import dagster as dg

from assets.partitions import STEPS, models
from resources.checkpoints import CheckpointsResource


@dg.sensor(
    name="declared_models",
    target=dg.AssetSelection.groups(*STEPS),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds a partition for each model named in evals.yaml. Evaluates nothing by itself.",
)
def declared_models_sensor(
    context: dg.SensorEvaluationContext, checkpoints: CheckpointsResource
) -> dg.SensorResult | dg.SkipReason:
    """Never removes a partition: its history stays."""
    declared = list(checkpoints.config.models)
    known = set(context.instance.get_dynamic_partitions(models.name or ""))
    new = [key for key in declared if key not in known]
    if not new:
        return dg.SkipReason(f"{len(declared)} declared, all known")
    return dg.SensorResult(dynamic_partitions_requests=[models.build_add_request(new)])
