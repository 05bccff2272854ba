"""Questions of a new or changed benchmark are landed without anybody asking."""

import dagster as dg

from resources.checkpoints import CheckpointsResource


@dg.sensor(
    name="benchmark_versions",
    target=dg.AssetSelection.groups("samples"),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Lands the questions of each benchmark in evals.yaml once per version. Asks no model.",
)
def benchmark_versions_sensor(
    context: dg.SensorEvaluationContext, checkpoints: CheckpointsResource
) -> dg.SensorResult | dg.SkipReason:
    """One run for all benchmarks that changed since the last look; the cursor holds their versions."""
    seen = dict(part.split("=") for part in (context.cursor or "").split(";") if part)
    versions = {name: spec.asking_version for name, spec in checkpoints.config.benchmarks.items()}
    due = [name for name, version in versions.items() if seen.get(name) != version]
    if not due:
        return dg.SkipReason(f"{len(versions)} benchmarks, none new or changed")
    cursor = ";".join(f"{name}={version}" for name, version in sorted(versions.items()))
    keys = [dg.AssetKey(["samples", name]) for name in due]
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=cursor, asset_selection=keys)], cursor=cursor)
