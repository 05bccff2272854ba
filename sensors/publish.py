"""Publish whenever something landed that the published database does not hold.

Compares what is there with what is published, so that no landing is ever missed: not one that came in while a
publication ran, not one from another machine, not one whose publication failed.
"""

import json
from datetime import timedelta

import dagster as dg

from eval_pipelines.records import utc_now
from resources.warehouse import WarehouseResource

# a run that failed (a full disk, a killed process) is tried again after this, even if nothing new lands
RETRY_AFTER = timedelta(minutes=10)


@dg.sensor(
    name="publish_landed",
    target=dg.AssetSelection.groups("staging", "marts"),
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Rebuilds the published tables when landed files are not in them yet.",
)
def publish_sensor(context: dg.SensorEvaluationContext, warehouse: WarehouseResource) -> dg.RunRequest | dg.SkipReason:
    """One run per state of the landing.

    The cursor holds the state that was requested, not a run key: those are remembered for ever, and a database that
    was deleted brings the first state back.
    """
    from eval_pipelines.warehouse.publish import unpublished_files
    from eval_pipelines.warehouse.read import published_path, query

    root = warehouse.config.data_root
    n_new = unpublished_files(root)
    if not n_new:
        context.update_cursor("")
        return dg.SkipReason("everything that landed is published")
    generation = query(root, "SELECT generation FROM meta")[0]["generation"] if published_path(root).exists() else 0
    state, now = f"{generation}:{n_new}", utc_now().timestamp()
    requested = json.loads(context.cursor) if context.cursor else {}
    if requested.get("state") == state and now - requested["at"] < RETRY_AFTER.total_seconds():
        return dg.SkipReason(f"{n_new} landed files are not in generation {generation}; a run for them was requested")
    context.update_cursor(json.dumps({"state": state, "at": now}))
    context.log.info(f"{n_new} landed files are not in generation {generation}")
    return dg.RunRequest()
