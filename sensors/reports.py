"""Make the reports anew whenever a newer state is published than the one they show."""

from datetime import timedelta

import dagster as dg

from eval_pipelines.records import utc_now
from resources.warehouse import WarehouseResource

# reports cost seconds and are read by people: while publications follow each other, one of them is enough
AT_MOST_EVERY = timedelta(minutes=1)


@dg.sensor(
    name="refresh_reports",
    target=dg.AssetSelection.groups("reports"),
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Makes the reports anew when a newer state of the record is published.",
)
def reports_sensor(context: dg.SensorEvaluationContext, warehouse: WarehouseResource) -> dg.RunRequest | dg.SkipReason:
    """One run for each published state, or for the newest of several. The cursor: `<published at>|<asked for at>`."""
    from eval_pipelines.warehouse.read import published_path, query

    root = warehouse.config.data_root
    if not published_path(root).exists():
        return dg.SkipReason("nothing is published yet")
    published = query(root, "SELECT published_at FROM meta")[0]["published_at"].isoformat()
    seen, _, asked_at = (context.cursor or "").partition("|")
    now = utc_now().timestamp()
    if seen == published:
        return dg.SkipReason(f"the reports of what was published at {published} are made or being made")
    if asked_at and now - float(asked_at) < AT_MOST_EVERY.total_seconds():
        return dg.SkipReason(f"the last reports were asked for less than {AT_MOST_EVERY.total_seconds():g} s ago")
    context.update_cursor(f"{published}|{now}")
    return dg.RunRequest()
