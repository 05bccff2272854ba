"""Judge each checkpoint once its numbers are published, and again when what it was judged by changed."""

import json
from contextlib import closing

import dagster as dg

from assets.partitions import models
from eval_pipelines.keys import digest
from eval_pipelines.records import utc_now
from resources.warehouse import WarehouseResource

MAX_PER_TICK = 20


@dg.sensor(
    name="gates",
    target=dg.AssetSelection.groups("gates"),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Judges every checkpoint by the gates of evals.yaml, as soon as what they require is published.",
)
def gates_sensor(context: dg.SensorEvaluationContext, warehouse: WarehouseResource) -> dg.SensorResult | dg.SkipReason:
    """A thin shell over `gates_due`: compares the evidence there is with the evidence of the recorded verdicts.

    The cursor holds what was published when nothing was due: with thousands of checkpoints a look takes seconds.
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
        state = digest([meta["generation"], policies, sorted(keys)], n_bytes=8)
        if seen.get("state") == state and now.timestamp() - seen["at"] < SETTLED_AFTER.total_seconds():
            return dg.SkipReason("nothing was published since every verdict was seen to rest on the evidence there is")
        due = gates_due(connection, config.gates, keys, now=now)
    if not due:
        context.update_cursor(json.dumps({"state": state, "at": now.timestamp()}))
        return dg.SkipReason("every verdict rests on the evidence there is")
    requests = [
        dg.RunRequest(
            # until its verdict is published, the same evidence is due at each tick
            run_key=f"{one.gate}:{one.model_key}:{one.evidence}",
            partition_key=one.model_key,
            asset_selection=[dg.AssetKey(["gates", one.gate])],
        )
        for one in due[:MAX_PER_TICK]
    ]
    return dg.SensorResult(run_requests=requests)
