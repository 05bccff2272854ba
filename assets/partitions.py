"""The one partition dimension: models. A cell of the grid is (benchmark asset, model partition)."""

from collections.abc import Iterable

import dagster as dg

from eval_pipelines.config import Config
from eval_pipelines.keys import ModelKey

models = dg.DynamicPartitionsDefinition(name="models")


# what a cell is made by, in this order; only a benchmark with `judge` has judgements
STEPS = ("responses", "judgements", "scores")

# on a run: a cell was answered something and is not complete; when the daily budget that ended it begins anew, as an ISO moment
ANSWERED_TAG, BUDGET_TAG = "eval_pipelines/answered", "eval_pipelines/budget_begins_at"


def cell_keys(config: Config, benchmarks: Iterable[str]) -> list[dg.AssetKey]:
    """The assets that make these cells. Raises UnknownNameError."""
    return [
        dg.AssetKey([step, name])
        for name in benchmarks
        for step in STEPS
        if step != "judgements" or config.benchmark(name).judge is not None
    ]


def add_models(instance: dg.DagsterInstance, keys: list[str]) -> list[str]:
    """Add partitions that are not there yet; returns the new ones. Raises ModelKeyError for a key Dagster would drop."""
    for key in keys:
        ModelKey.parse(key)
    known = set(instance.get_dynamic_partitions(models.name or ""))
    new = [key for key in keys if key not in known]
    if new:
        instance.add_dynamic_partitions(models.name or "", new)
    return new
