"""The one partition dimension: models. A cell of the grid is (benchmark asset, model partition)."""

import dagster as dg

from eval_pipelines.keys import ModelKey

models = dg.DynamicPartitionsDefinition(name="models")


def add_models(instance: dg.DagsterInstance, keys: list[str]) -> list[str]:
    """Add partitions that are not there yet; returns the new ones. Raises ModelKeyError for a key Dagster would drop."""
    for key in keys:
        ModelKey.parse(key)
    known = set(instance.get_dynamic_partitions(models.name or ""))
    new = [key for key in keys if key not in known]
    if new:
        instance.add_dynamic_partitions(models.name or "", new)
    return new
