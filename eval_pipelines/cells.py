"""Materialize cells of the grid from a program: the same assets as the UI, in this process."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from assets.partitions import add_models, cell_keys
from eval_pipelines import errors
from eval_pipelines.dagster_record import spare_the_disk
from eval_pipelines.definitions import assets_of, resources_of
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import resolve
from resources.config import read_config

# sqlite says `disk I/O error` where a full disk stops its write-ahead log
_DISK_IS_FULL = ("database or disk is full", "disk I/O error", "No space left")
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How materializing went.

    Attributes:
        run_id: The Dagster run that asked and graded.
        scored: The benchmarks whose scores are there now.
        errors: One message for each mistake, with the steps that failed of it.
        is_operators: Whether every one of them is the operator's to mend, by what evals.yaml or the environment says.
    """

    run_id: str
    scored: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    is_operators: bool = False


@dataclass(frozen=True, slots=True)
class _Failed:
    """One step that failed, and of what."""

    step: str
    message: str
    kind: str


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
    keys = cell_keys(config, benchmarks)
    ops = {f"responses__{name}": {"config": {"limit": limit}} for name in benchmarks} if limit else {}
    grid = assets_of(config)
    spare_the_disk(os.environ["DAGSTER_HOME"])
    with _told_if_disk_is_full(), _interrupted_as_usual(), dg.DagsterInstance.get() as instance:
        add_models(instance, [model])
        first = dg.materialize(
            grid,
            selection=keys,
            partition_key=model,
            instance=instance,
            resources=resources_of(path),
            run_config={"ops": ops, **({} if is_verbose else _QUIET)},
            tags={"eval_pipelines/started_by": f"{os.environ.get('USER', 'somebody')} on the command line"},
            raise_on_error=False,
        )
        _raise_if_interrupted(first)
        failed = [*_failed(first), *_publish(path, grid, instance, is_verbose=is_verbose)]
    paths = [event.asset_key.path for event in first.get_asset_materialization_events() if event.asset_key]
    scored = tuple(path[-1] for path in paths if path[0] == "scores")
    return Outcome(first.run_id, scored, _in_words(failed), bool(failed) and all(map(_is_operators, failed)))


@contextmanager
def _interrupted_as_usual() -> Iterator[None]:
    """Ctrl-C between two steps."""
    try:
        yield
    except dg.DagsterExecutionInterruptedError:
        raise KeyboardInterrupt from None


@contextmanager
def _told_if_disk_is_full() -> Iterator[None]:
    """Dagster's own record lies on the same disk as ours, and says so with a traceback. Raises WarehouseError."""
    try:
        yield
    except Exception as error:
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(cause)
        if not any(sign in str(one) for one in causes for sign in _DISK_IS_FULL):
            raise
        home = Path(os.environ["DAGSTER_HOME"])
        raise errors.WarehouseError(
            f"Dagster could not write its record: the disk is full ({shutil.disk_usage(home).free:,} bytes free at "
            f"{home}). Free some space there, then run the same command again: what was answered is not asked twice."
        ) from error


def _raise_if_interrupted(result: dg.ExecuteInProcessResult) -> None:
    """Ctrl-C is Ctrl-C, whatever Dagster makes of it: within a step, a failure of that step."""
    for event in result.filter_events(lambda event: event.is_step_failure):
        error = event.step_failure_data.error
        if error is not None and error.cls_name == dg.DagsterExecutionInterruptedError.__name__:
            raise KeyboardInterrupt


def _publish(
    path: Path, grid: Sequence[dg.AssetsDefinition], instance: dg.DagsterInstance, *, is_verbose: bool
) -> list[_Failed]:
    result = dg.materialize(
        grid,
        selection=dg.AssetSelection.groups("staging", "marts"),
        instance=instance,
        resources=resources_of(path),
        run_config={} if is_verbose else _QUIET,
        raise_on_error=False,
    )
    return _failed(result)


def _failed(result: dg.ExecuteInProcessResult) -> list[_Failed]:
    found = []
    for event in result.filter_events(lambda event: event.is_step_failure):
        told, error = event.step_failure_data.user_failure_data, event.step_failure_data.error
        message = told.description if told and told.description else error.to_string() if error else "failed"
        kind = told.metadata.get("error") if told else None
        found.append(_Failed(event.step_key or "", message, str(kind.value) if kind else ""))
    return found


def _is_operators(failed: _Failed) -> bool:
    kind = getattr(errors, failed.kind, None)
    return isinstance(kind, type) and issubclass(kind, errors.ConfigError)


def _in_words(failed: Sequence[_Failed]) -> tuple[str, ...]:
    """One mistake often fails every cell of a run: it is told once."""
    steps: dict[str, list[str]] = {}
    for one in failed:
        steps.setdefault(one.message, []).append(one.step)
    return tuple(f"{', '.join(names)}: {message}" for message, names in steps.items())
