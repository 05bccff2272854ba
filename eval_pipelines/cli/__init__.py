"""`eval-pipelines`: everything the UI does that one may want without it."""

import errno
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
from dotenv import load_dotenv

from eval_pipelines.benchmarks.checking import check_benchmarks
from eval_pipelines.benchmarks.origins import origins
from eval_pipelines.cli.answers import answers
from eval_pipelines.cli.benchmarks import benchmarks
from eval_pipelines.cli.export import export
from eval_pipelines.cli.gate import gate
from eval_pipelines.cli.probe import probe
from eval_pipelines.cli.report import report
from eval_pipelines.cli.scores import compare, history, leaderboard, print_leaderboard, print_metrics
from eval_pipelines.cli.serving import serving
from eval_pipelines.cli.spending import spent
from eval_pipelines.config import Config, Deployment, load_config
from eval_pipelines.config.schema import config_schema
from eval_pipelines.errors import ConfigError, EvalPipelinesError
from eval_pipelines.home import enter_home
from eval_pipelines.keys import ModelKey

_MAY_NOT: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


class _Group(click.Group):
    """Prints our own errors in one piece, without a traceback: 2 for what the caller can mend, 1 for the rest."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EvalPipelinesError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2 if isinstance(error, ConfigError) else 1)
        except OSError as error:
            if error.errno not in _MAY_NOT:
                raise
            click.echo(
                f"error: {error.filename}: {error.strerror}. Servers, locks and the record lie below the `data_root` of "
                f"{ctx.params['config_file']}: it must be writable.",
                err=True,
            )
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("interrupted: what was answered is kept; the same command asks only the rest", err=True)
            sys.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    envvar="EVALS_CONFIG",
    default="evals.yaml",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The operator's file.",
)
@click.pass_context
def main(ctx: click.Context, config_file: Path) -> None:
    """LLM evaluations as Dagster assets."""
    ctx.obj = config_file.absolute()
    # as `dagster dev` does, so that a key works the same with and without the UI; what is set already wins
    load_dotenv(ctx.obj.parent / ".env")


@main.group("config")
def config_group() -> None:
    """The operator's file, evals.yaml."""


@config_group.command("check")
@click.pass_obj
def config_check(path: Path) -> None:
    """Print what was understood, or what is wrong and where."""
    config = load_config(path)
    check_benchmarks(config.benchmarks, cache=config.data_root / "cache")
    click.echo(f"{config.path}: correct")
    click.echo(f"data root    {config.data_root}")
    for name, deployment in config.deployments.items():
        budget = "".join(f", {one}" for one in _budgets(config, deployment))
        click.echo(f"deployment   {name}: {deployment.backend}, at most {deployment.max_in_flight} in flight{budget}")
    for name, price in config.prices.per_million_tokens.items():
        cached = "" if price.cached_prompt is None else f" (cached {price.cached_prompt:g})"
        click.echo(
            f"price        {name}: prompt {price.prompt:g}{cached}, completion {price.completion:g} "
            f"{config.prices.currency} per million tokens"
        )
    for key, model in config.models.items():
        click.echo(f"model        {key}: {model.weights or model.served_name or 'hosted'} on {_where(config, key)}")
    for root in config.watched:
        family = root.family or "one family per folder"
        click.echo(f"watched      {root.path}: {family}, suite {root.suite} on {' or '.join(root.deployment)}")
    whose = origins(config.benchmarks, cache=config.data_root / "cache", folder=config.folder)
    for name, spec in config.benchmarks.items():
        source = "its own source" if spec.data is None else spec.data.in_words
        judged = f", judged by {', '.join(spec.judge.models)}" if spec.judge else ""
        click.echo(
            f"benchmark    {name}: task {spec.task} ({whose[name].in_words}), {spec.protocol}, limit {spec.limit or 'none'}, "
            f"data from {source}{judged}"
        )
        for told in whose[name].notes:
            click.echo(f"             note: {told}")
    for name, members in config.suites.items():
        click.echo(f"suite        {name}: {', '.join(members)}")


def _budgets(config: Config, deployment: Deployment) -> Iterator[str]:
    if deployment.daily_tokens is not None:
        yield f"{deployment.daily_tokens:,} tokens a day"
    if deployment.daily_cost is not None:
        yield f"{deployment.daily_cost:g} {config.prices.currency} a day"


def _where(config: Config, key: str) -> str:
    """The deployment that serves a model named by hand; all it may be, and why, while its weights are not there."""
    from eval_pipelines.models import route

    entry = config.models[key]
    if entry.weights is not None and not entry.weights.exists():
        return f"{' or '.join(entry.deployment)} (the weights are not there yet)"
    return route(config, ModelKey.parse(key), entry.deployment, entry.weights)


@config_group.command("schema")
def config_schema_command() -> None:
    """Print the JSON schema of evals.yaml, for editors."""
    click.echo(json.dumps(config_schema(), indent=2))


@main.command()
@click.option("--model", required=True, metavar="KEY", help="family@revision")
@click.option(
    "--benchmark", "names", required=True, multiple=True, metavar="NAME", help="Benchmark or suite; repeatable."
)
@click.option("--limit", type=click.IntRange(min=1), help="Samples per subtask, instead of evals.yaml's.")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
@click.option("--verbose", is_flag=True, help="Show Dagster's own log.")
@click.pass_obj
def evaluate(path: Path, model: str, names: tuple[str, ...], limit: int | None, as_json: bool, verbose: bool) -> None:
    """Ask, grade and publish cells of one model, through the same assets as the UI."""
    config = load_config(path)
    enter_home(config)
    from eval_pipelines.cells import evaluate_cells

    outcome = evaluate_cells(path, model, names, limit=limit, is_verbose=verbose)
    rows = _metrics_of(config.data_root, model, outcome.scored)
    if as_json:
        click.echo(
            json.dumps({"run_id": outcome.run_id, "metrics": rows, "errors": outcome.errors}, default=str, indent=2)
        )
    elif rows:
        print_metrics(rows)
    for error in outcome.errors:
        click.echo(f"error: {error}", err=True)
    sys.exit(0 if not outcome.errors else 2 if outcome.is_operators else 1)


@main.command()
@click.pass_obj
def publish(path: Path) -> None:
    """Bring the published DuckDB file up to date with what landed, here and elsewhere, and with what evals.yaml asks for."""
    from eval_pipelines.configured import what_is_configured
    from resources.checkpoints import CheckpointsResource
    from resources.warehouse import WarehouseResource

    config = load_config(path)
    warehouse = WarehouseResource(config_path=str(path))
    looked = CheckpointsResource(config_path=str(path)).scan(hash_for_s=0.0)
    warehouse.record_configured(what_is_configured(config, looked))
    report = warehouse.publish()
    click.echo(f"{report.path}: generation {report.generation}, {report.n_new_files} new files, {report.wall_s:.2f} s")
    for test in report.failing:
        click.echo(f"{test.severity}: {test.name}: {test.n_failing} rows: {test.meaning}", err=True)


@main.command()
@click.pass_obj
def sync(path: Path) -> None:
    """Fetch what other machines landed, and keep in the store what only this one has."""
    from resources.warehouse import WarehouseResource

    config = load_config(path)
    if config.store is None:
        raise ConfigError(f"{config.path} names no `store`: the record is kept on this machine only")
    done = WarehouseResource(config_path=str(path)).sync()
    click.echo(
        f"{done.n_fetched} files fetched, {done.n_kept} kept. `eval-pipelines publish` brings them into the tables."
    )


for command in (leaderboard, compare, history, answers, report, export, gate):
    main.add_command(command)
main.add_command(benchmarks)
main.add_command(probe)
main.add_command(serving)
main.add_command(spent)


@main.command()
@click.option("--port", default=3000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.pass_obj
def ui(path: Path, port: int, host: str) -> None:
    """Open the Dagster UI on this record, with its sensors running."""
    config = load_config(path)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind((host, port))
        except OSError as error:
            raise ConfigError(f"{host}:{port} cannot be used: {error.strerror}. Choose another with --port.") from None
    enter_home(config)
    click.echo(f"http://{host}:{port} (stop with Ctrl-C)")
    command = [sys.executable, "-m", "dagster", "dev", "-m", "eval_pipelines.definitions", "-h", host, "-p", str(port)]
    sys.exit(subprocess.run(command, cwd=config.folder, check=False).returncode)


@main.command()
@click.option(
    "--weights",
    default=".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The small model, as a GGUF file.",
)
@click.pass_obj
def demo(path: Path, weights: Path) -> None:
    """Drop two checkpoints of a small model, let the sensor find them, show the leaderboard."""
    from eval_pipelines.demo import run_demo

    config = load_config(path)
    enter_home(config)
    run_demo(config, weights)
    print_leaderboard(config.data_root)
    _print_next_steps(config.data_root)


def _metrics_of(data_root: Path, model: str, benchmarks: Sequence[str]) -> list[dict[str, Any]]:
    """The newest grading of each cell: this run's, or that of another run that graded the same answers since."""
    from eval_pipelines.warehouse.read import published_path, query

    if not published_path(data_root).exists():
        return []  # nothing could be published, and the run's own errors say why
    return query(
        data_root,
        "SELECT * FROM metric_history WHERE model_key = ? AND list_contains(?, benchmark) "
        "QUALIFY recorded_at = max(recorded_at) OVER (PARTITION BY benchmark) "
        "ORDER BY benchmark, subtask, metric, filter",
        [model, list(benchmarks)],
    )


def _print_next_steps(data_root: Path) -> None:
    database = data_root / "scores.duckdb"
    click.echo(f"""
The record is in {database}. Open it at any time, also while evaluations run:
  import duckdb; db = duckdb.connect("{database}", read_only=True)
  db.sql("FROM leaderboard")
  db.sql("SELECT benchmark, model_key, value, ci_low, ci_high, n, coverage FROM latest_metrics WHERE is_headline")
  db.sql("SELECT model_key, filter, question, answer, value FROM sample_scores WHERE benchmark = 'gsm8k'")
The Dagster UI on the same data:  make ui""")
