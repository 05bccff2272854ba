"""Evaluate each finished checkpoint; again only if its bytes changed."""

import json

import dagster as dg

from assets.partitions import STEPS, cell_keys, models
from eval_pipelines.checkpoints import what_is_due
from eval_pipelines.keys import digest
from eval_pipelines.models import claims, clash_in_words
from eval_pipelines.records import utc_now
from resources.checkpoints import CheckpointsResource

# Dagster gives a sensor 60 s, and submitting a run takes part of a second
MAX_PER_TICK = 25
FINGERPRINT_TAG = "eval_pipelines/fingerprint"


@dg.sensor(
    name="checkpoints",
    target=dg.AssetSelection.groups(*STEPS),
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds a model for each finished checkpoint in a watched folder and evaluates it; again only if its bytes changed.",
)
def checkpoint_sensor(
    context: dg.SensorEvaluationContext, checkpoints: CheckpointsResource
) -> dg.SensorResult | dg.SkipReason:
    """A thin shell: what is due is decided by `what_is_due`; the cursor holds what was requested before."""
    config = checkpoints.config
    looked = checkpoints.scan()
    if not looked:
        return dg.SkipReason(f"no folder is watched: add one under `watched` in {config.path}")
    seen: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
    clashes = {key: places for key, places in claims(config, looked).items() if len(places) > 1}
    found = [one for _, scan in looked for one in scan.finished if str(one.model_key) not in clashes]
    waiting = [one for _, scan in looked for one in scan.waiting]
    ignored = [f"{one.name} {one.reason}" for _, scan in looked for one in scan.ignored]
    due = what_is_due(seen=seen, found=found, waiting=waiting, limit=MAX_PER_TICK, now=utc_now())
    reason = "; ".join([due.reason, *ignored, *(clash_in_words(key, clashes[key]) for key in sorted(clashes))])
    if not due.due:
        return dg.SkipReason(reason)
    context.log.info(reason)
    suites = {str(checkpoint.model_key): root.suite for root, scan in looked for checkpoint in scan.finished}
    requests = []
    for checkpoint in due.due:
        key = str(checkpoint.model_key)
        names = config.expand([suites[key]])
        plan = digest([[name, config.benchmark(name).code_version] for name in names], n_bytes=6)
        requests.append(
            dg.RunRequest(
                # Dagster remembers run keys for ever: the same bytes and the same plan are evaluated once
                run_key=f"{key}:{checkpoint.fingerprint}:{plan}",
                partition_key=key,
                asset_selection=cell_keys(config, names),
                tags={FINGERPRINT_TAG: checkpoint.fingerprint, "eval_pipelines/suite": suites[key]},
            )
        )
    known = set(context.instance.get_dynamic_partitions(models.name or ""))
    new = [str(checkpoint.model_key) for checkpoint in due.due if str(checkpoint.model_key) not in known]
    return dg.SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=[models.build_add_request(new)] if new else [],
        cursor=json.dumps(due.seen, sort_keys=True),
    )
