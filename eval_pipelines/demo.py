"""The demo: a training job leaves two checkpoints, the sensor finds them, the grid fills by itself.

Everything below runs as it would for a real team: a Dagster daemon with the sensors of this project; runs of its
own processes; one server per checkpoint. The demo only drops the files and watches.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import click
import dagster as dg

from assets.partitions import models
from eval_pipelines.cells import evaluate_cells
from eval_pipelines.config import Config
from eval_pipelines.errors import ConfigError, EvalPipelinesError, NoSandboxError
from eval_pipelines.keys import ModelKey
from eval_pipelines.records import utc_now
from eval_pipelines.scoring import sandbox
from eval_pipelines.serving.guard import die_with_parent
from eval_pipelines.serving.locks import FileLock
from eval_pipelines.warehouse.publish import unpublished_files

_NOISE = 0.35
_TIMEOUT_S = 900.0
# answers to these are programs: they are run in a sandbox, which not every machine has
_CODE_SUITE = "demo_code"
_ORIGINAL, _DAMAGED = "step-1000", "step-2000-noised"


def run_demo(config: Config, weights: Path) -> None:
    """Drop the checkpoints and wait until every cell is scored and published.

    Raises:
        ConfigError: the small model is not there, or evals.yaml watches no folder.
        EvalPipelinesError: a run failed, or the whole took longer than 15 minutes.
    """
    if not weights.is_file():
        raise ConfigError(
            f"the small model is not at {weights.absolute()}: `make bootstrap` fetches it, or name it with --weights"
        )
    if not config.watched:
        raise ConfigError(f"{config.path} watches no folder: the demo drops its checkpoints into one")
    root = config.watched[0]
    keys = [str(ModelKey(root.family or "demo", name)) for name in (_ORIGINAL, _DAMAGED)]
    started, since = time.monotonic(), utc_now()
    _drop_checkpoints(root.path if root.family else root.path / "demo", weights)
    suite = config.expand([root.suite])
    # its tables are made by whoever comes first, and two who come at once fail: before the daemon starts
    instance = dg.DagsterInstance.get()
    instance.get_runs(limit=1)
    instance.get_dynamic_partitions(models.name or "")
    instance.all_instigator_state()
    with _daemon(config):
        click.echo(f"The daemon runs; its sensor looks into {root.path}")
        _watch(instance, config, keys, [dg.AssetKey(["scores", name]) for name in suite], since)
        _run_code(config, keys)
    click.echo(f"All cells are scored and published: {time.monotonic() - started:.0f} s\n")


def _drop_checkpoints(folder: Path, weights: Path) -> None:
    """The original, and one damaged by noise on every weight matrix; each written aside, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    original, damaged = folder / f"{_ORIGINAL}.gguf", folder / f"{_DAMAGED}.gguf"
    if not original.exists():
        aside = original.with_name(f"{original.name}.part")
        shutil.copyfile(weights, aside)
        aside.rename(original)
    click.echo(f"checkpoint {original} (the original)")
    if not damaged.exists():
        rewrite = [sys.executable, "-m", "eval_pipelines.embedded.cli", "rewrite", str(weights), str(damaged)]
        done = subprocess.run(
            [*rewrite, "--noise", str(_NOISE), "--seed", "1"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ConfigError(f"the damaged checkpoint could not be written: {done.stderr.strip()}")
    click.echo(f"checkpoint {damaged} (noise of {_NOISE:g} standard deviations on every matrix)")


def _run_code(config: Config, keys: list[str]) -> None:
    """The suite whose answers are programs, as `evaluate` asks it. Said to be left out where no sandbox would hold them.

    Raises:
        EvalPipelinesError: a cell failed.
    """
    names = config.suites.get(_CODE_SUITE, ())
    if not names:
        return
    try:
        sandbox.require()
    except NoSandboxError as error:
        click.echo(
            f"  left out: {', '.join(names)}, whose answers are programs, because no sandbox would hold them: {error}"
        )
        return
    for key in keys:
        outcome = evaluate_cells(config.path, key, names)
        if outcome.errors:
            raise EvalPipelinesError(f"{key} on {', '.join(names)}: {' '.join(outcome.errors)}")
        click.echo(f"  {key} {', '.join(names)}: scored, each answer run in a sandbox")


@contextmanager
def _daemon(config: Config) -> Iterator[None]:
    """Dagster's daemon on this project, as `dagster dev` runs it, without the web server."""
    log_path = config.data_root / "dagster" / "demo-daemon.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dagster._daemon", "run", "-m", "eval_pipelines.definitions"]
    with FileLock(log_path.with_suffix(".lock")) as alone, log_path.open("wb") as log:
        if not alone.try_acquire():
            raise ConfigError(f"another demo runs on {config.data_root}: wait for it, or stop it")
        daemon = subprocess.Popen(
            command,
            cwd=config.folder,
            env=os.environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # a script's background job ignores SIGINT, and Dagster copies that to SIGTERM: it could not be stopped
            preexec_fn=_as_a_child,
        )
        try:
            yield
            if daemon.poll() is not None:
                raise EvalPipelinesError(
                    f"the Dagster daemon ended with status {daemon.returncode}; its log: {log_path}"
                )
        except KeyboardInterrupt:
            click.echo("Interrupted. Runs that were started go on, and what they are answered is kept.", err=True)
            raise
        finally:
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()


def _as_a_child() -> None:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    # a demo killed with kill -9 must not leave a daemon behind that fights the next one's
    die_with_parent(signal.SIGTERM)


def _watch(
    instance: dg.DagsterInstance, config: Config, keys: list[str], scores: list[dg.AssetKey], since: datetime
) -> None:
    """Print what happens until all cells are scored and published. Raises EvalPipelinesError on a failed run."""
    said: set[str] = set()
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        n_left = len(keys) * len(scores) - _say_news(instance, keys, scores, said)
        _raise_if_failed(instance, keys, since)
        if not n_left and not unpublished_files(config.data_root):
            return
        if time.monotonic() > deadline:
            raise EvalPipelinesError(f"{n_left} cells were not scored within {_TIMEOUT_S:g} s; see `make ui`")
        time.sleep(1.0)


def _say_news(instance: dg.DagsterInstance, keys: list[str], scores: list[dg.AssetKey], said: set[str]) -> int:
    """Print cells that were asked or scored since the last look; returns how many are scored."""
    n_scored = 0
    for asset in scores:
        answered = instance.get_materialized_partitions(dg.AssetKey(["responses", asset.path[-1]])) & set(keys)
        for cell in sorted(f"{key} {asset.path[-1]}: all questions asked" for key in answered):
            if cell not in said:
                said.add(cell)
                click.echo(f"  {cell}")
        for key in instance.get_materialized_partitions(asset) & set(keys):
            n_scored += 1
            if (cell := f"{key} {asset.path[-1]}") not in said:
                said.add(cell)
                click.echo(f"  {cell}: {_score(instance, asset, key)}")
    return n_scored


def _score(instance: dg.DagsterInstance, asset: dg.AssetKey, key: str) -> str:
    records = instance.fetch_materializations(dg.AssetRecordsFilter(asset, asset_partitions=[key]), limit=1).records
    metadata = records[0].asset_materialization.metadata if records and records[0].asset_materialization else {}
    return str(metadata["score"].value) if "score" in metadata else "scored"


def _raise_if_failed(instance: dg.DagsterInstance, keys: list[str], since: datetime) -> None:
    """Only what this demo started counts: an older failure, or another model's, is no news."""
    failures = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], created_after=since)
    for run in instance.get_runs(failures):
        if run.tags.get("dagster/partition") not in keys:
            continue
        told = [_why(event.get_dagster_event()) for event in instance.all_logs(run.run_id) if event.is_dagster_event]
        reasons = list(dict.fromkeys(why for why in told if why))
        raise EvalPipelinesError(f"run {run.run_id} failed: {' '.join(reasons) or 'see `make ui`'}")


def _why(event: dg.DagsterEvent) -> str:
    if not event.is_step_failure:
        return ""
    told = event.step_failure_data.user_failure_data
    return told.description or "" if told else event.message or ""
