"""What other machines landed comes here, and what a killed process left here goes there."""

import dagster as dg

from resources.warehouse import WarehouseResource


@dg.sensor(
    name="sync_store",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Where evals.yaml names a store: fetches what other machines landed, and keeps there what only this one has.",
)
def store_sensor(context: dg.SensorEvaluationContext, warehouse: WarehouseResource) -> dg.SkipReason:
    """It asks for no run: the tables follow what is landed here."""
    if warehouse.config.store is None:
        return dg.SkipReason("the record is kept on this machine only: evals.yaml names no `store`")
    done = warehouse.sync()
    words = f"fetched {done.n_fetched} landed files, kept {done.n_kept}"
    if done.n_fetched or done.n_kept:
        context.log.info(words)
    return dg.SkipReason(words)
