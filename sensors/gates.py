"""Judge each checkpoint once its numbers are published, and again when what it was judged by changed."""

import json
from contextlib import closing
from datetime import timedelta
from typing import Final

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import PARTITION_NAME_TAG, SENSOR_NAME_TAG

from assets.partitions import models
from eval_pipelines.keys import digest
from eval_pipelines.records import utc_now
from eval_pipelines.scoring.gate_records import JUDGING_VERSION
from resources.warehouse import WarehouseResource

MAX_PER_TICK: Final = 20
# a verdict whose run failed, or is not published yet, is requested again after this
RETRY_AFTER: Final = timedelta(minutes=10)


@dg.sensor(
    name="gates",
    target=dg.AssetSelection.groups("gates"),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Judges every checkpoint by the gates of evals.yaml, as soon as what they require is published.",
)
def gates_sensor(context: dg.SensorEvaluationContext, warehouse: WarehouseResource) -> dg.SensorResult | dg.SkipReason:
    """A thin shell over `gates_due`: compares the evidence and the rules there are with those of the recorded verdicts.

    The cursor holds what was published when nothing was due (with thousands of checkpoints a look takes seconds) and,
    of what is due, the evidence that was requested and when. There is no run key: Dagster remembers those for ever,
    and a policy that is taken back brings the first evidence back.
    """
    from eval_pipelines.analysis.gating import SETTLED_AFTER, gates_due
    from eval_pipelines.warehouse.read import fetch, open_published, published_path

    config, now = warehouse.config, utc_now()
    if not published_path(config.data_root).exists():
        return dg.SkipReason("nothing is published yet")
    keys = context.instance.get_dynamic_partitions(models.name or "")
    seen = json.loads(context.cursor) if context.cursor else {}
    with closing(open_published(config.data_root)) as connection:
        [meta] = fetch(connection, "SELECT generation FROM meta")
        policies = {name: gate.model_dump(mode="json") for name, gate in config.gates.items()}
        state = digest([meta["generation"], policies, sorted(keys), JUDGING_VERSION], n_bytes=8)
        if seen.get("state") == state and now.timestamp() - seen["at"] < SETTLED_AFTER.total_seconds():
            return dg.SkipReason("nothing was published since every verdict was seen to rest on the evidence there is")
        due = gates_due(connection, config.gates, keys, now=now)
    if not due:
        context.update_cursor(json.dumps({"state": state, "at": now.timestamp()}))
        return dg.SkipReason("every verdict rests on the evidence there is")
    names = {one: f"{one.gate}:{one.model_key}" for one in due}
    # only of what is due, so that it does not grow
    requested = {
        names[one]: told
        for one in due
        if (told := seen.get("requested", {}).get(names[one]))
        and told[0] == one.evidence
        and now.timestamp() - told[1] < RETRY_AFTER.total_seconds()
    }
    running = _running(context.instance)
    chosen = [one for one in due if names[one] not in requested and names[one] not in running][:MAX_PER_TICK]
    requested |= {names[one]: [one.evidence, now.timestamp()] for one in chosen}
    context.update_cursor(json.dumps({"requested": requested}))
    if not chosen:
        return dg.SkipReason(f"{len(due)} verdicts are due; runs for them were requested")
    requests = [
        dg.RunRequest(partition_key=one.model_key, asset_selection=[dg.AssetKey(["gates", one.gate])]) for one in chosen
    ]
    return dg.SensorResult(run_requests=requests)


def _running(instance: dg.DagsterInstance) -> set[str]:
    """`gate:model` of the verdicts that this sensor requested and whose runs have not ended."""
    runs = instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES, tags={SENSOR_NAME_TAG: "gates"}))
    return {
        f"{key.path[-1]}:{run.tags.get(PARTITION_NAME_TAG)}"
        for run in runs
        for key in run.asset_selection or frozenset()
    }
