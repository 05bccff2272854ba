"""Try again what failed for a reason that may pass: a lost server, a busy GPU, a daily budget."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import dagster as dg
from dagster import RunRecord
from dagster._core.storage.tags import PARTITION_NAME_TAG

from assets.partitions import ANSWERED_TAG, BUDGET_TAG, STEPS
from eval_pipelines.records import utc_now
from eval_pipelines.retries import WAITS, Failed, what_to_retry
from resources.checkpoints import CheckpointsResource
from sensors.checkpoints import FINGERPRINT_TAG, MAX_PER_TICK

TRIES_TAG = "eval_pipelines/tries"
# a run that failed before that has waited out even the longest of its turns
_LOOK_BACK = sum(WAITS, timedelta(days=1))


@dg.sensor(
    name="failed_checkpoints",
    target=dg.AssetSelection.groups(*STEPS),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks the rest of a checkpoint whose run failed: after 1, 10 and 60 minutes, 6 hours and a day, or once a "
    "used-up daily budget begins anew; tries that were answered something are not counted. A cancelled run, or one that "
    "somebody followed by hand, is left alone.",
)
def retry_sensor(
    context: dg.SensorEvaluationContext, checkpoints: CheckpointsResource
) -> dg.SensorResult | dg.SkipReason:
    """A thin shell over `what_to_retry`: a run is tried again while its bytes are still there and no later run is."""
    instance = context.instance
    current = {str(one.model_key): one.fingerprint for _, scan in checkpoints.scan() for one in scan.finished}
    records = {record.dagster_run.run_id: record for record in _failed(instance)}
    failed = [
        _as_failed(record)
        for record in records.values()
        if current.get(record.dagster_run.tags.get(PARTITION_NAME_TAG, "")) == record.dagster_run.tags[FINGERPRINT_TAG]
        and _is_newest(instance, record)
    ]
    told = what_to_retry(failed, now=utc_now(), limit=MAX_PER_TICK)
    if not told.due:
        return dg.SkipReason(told.reason)
    context.log.info(told.reason)
    return dg.SensorResult(run_requests=[_again(one, records[one.run_id]) for one in told.due])


def _failed(instance: dg.DagsterInstance) -> Iterator[RunRecord]:
    wanted = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=utc_now() - _LOOK_BACK)
    return (one for one in instance.get_run_records(wanted) if FINGERPRINT_TAG in one.dagster_run.tags)


def _is_newest(instance: dg.DagsterInstance, record: RunRecord) -> bool:
    """Whether no later run of this partition was started, by a sensor or by hand."""
    wanted = dg.RunsFilter(tags={PARTITION_NAME_TAG: record.dagster_run.tags[PARTITION_NAME_TAG]})
    newest = instance.get_run_records(wanted, limit=1)
    return newest[0].dagster_run.run_id == record.dagster_run.run_id


def _as_failed(record: RunRecord) -> Failed:
    run = record.dagster_run
    return Failed(
        run_id=run.run_id,
        model_key=run.tags[PARTITION_NAME_TAG],
        fingerprint=run.tags[FINGERPRINT_TAG],
        n_tries=int(run.tags.get(TRIES_TAG, "1")),
        ended_at=record.update_timestamp,
        has_answers=ANSWERED_TAG in run.tags,
        budget_begins_at=datetime.fromisoformat(begins) if (begins := run.tags.get(BUDGET_TAG)) else None,
    )


def _again(failed: Failed, record: RunRecord) -> dg.RunRequest:
    run = record.dagster_run
    of_this_run = {ANSWERED_TAG, BUDGET_TAG}
    kept = {
        name: value
        for name, value in run.tags.items()
        if name.startswith("eval_pipelines/") and name not in of_this_run
    }
    return dg.RunRequest(
        run_key=f"again:{failed.run_id}",
        partition_key=failed.model_key,
        asset_selection=sorted(run.asset_selection or ()),
        tags={**kept, TRIES_TAG: str(failed.n_tries_of_next)},
    )
