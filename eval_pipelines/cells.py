"""Materialize cells of the grid from a program: the same assets as the UI, in this process."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from assets.partitions import add_models
from eval_pipelines.definitions import assets_of, resources_of
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import resolve
from resources.config import read_config

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How materializing went.

    Attributes:
        run_id: The Dagster run that asked and graded.
        errors: One message for each step that failed.
    """

    run_id: str
    errors: tuple[str, ...]


def evaluate_cells(
    path: Path, model: str, names: Sequence[str], *, limit: int | None = None, is_verbose: bool = False
) -> Outcome:
    """Ask, grade and publish cells of one model.

    Args:
        names: Benchmarks and suites, mixed.
        limit: Samples per subtask, instead of each benchmark's own.

    Raises:
        UnknownNameError, ModelKeyError, ConfigError: before anything is started.
    """
    config = read_config(path)
    benchmarks = config.expand(names)
    resolve(config, ModelKey.parse(model))
    instance = dg.DagsterInstance.get()
    add_models(instance, [model])
    keys = [dg.AssetKey([kind, name]) for name in benchmarks for kind in ("responses", "scores")]
    ops = {f"responses__{name}": {"config": {"limit": limit}} for name in benchmarks} if limit else {}
    first = dg.materialize(
        assets_of(config),
        selection=keys,
        partition_key=model,
        instance=instance,
        resources=resources_of(path),
        run_config={"ops": ops, **({} if is_verbose else _QUIET)},
        tags={"eval_pipelines/started_by": f"{os.environ.get('USER', 'somebody')} on the command line"},
        raise_on_error=False,
    )
    errors = [*_errors(first), *publish_tables(path, instance, is_verbose=is_verbose)]
    return Outcome(first.run_id, tuple(errors))


def publish_tables(path: Path, instance: dg.DagsterInstance, *, is_verbose: bool = False) -> list[str]:
    """Materialize the SQL models. Returns the messages of what failed."""
    result = dg.materialize(
        assets_of(read_config(path)),
        selection=dg.AssetSelection.groups("staging", "marts"),
        instance=instance,
        resources=resources_of(path),
        run_config={} if is_verbose else _QUIET,
        raise_on_error=False,
    )
    return _errors(result)


def _errors(result: dg.ExecuteInProcessResult) -> list[str]:
    messages = []
    for event in result.filter_events(lambda event: event.is_step_failure):
        data = event.step_failure_data
        told = data.user_failure_data.description if data.user_failure_data else None
        error = data.error
        messages.append(f"{event.step_key}: {told or (error.to_string() if error else 'failed')}")
    return messages
