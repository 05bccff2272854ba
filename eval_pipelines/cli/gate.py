"""`eval-pipelines gate`: may this model go on? With an exit code, for CI."""

import json
import os
import sys
import traceback
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from eval_pipelines.config import Config, Gate, load_config
from eval_pipelines.errors import ConfigError, EvalPipelinesError
from eval_pipelines.keys import ModelKey

if TYPE_CHECKING:
    from eval_pipelines.scoring.gate_records import GateVerdict

# 2 is the caller's mistake, as everywhere; what could not be judged must not look like a NO-GO
EXIT_CODES: Final = {"GO": 0, "NO-GO": 1, "INCONCLUSIVE": 3}
_COULD_NOT: Final = 4


@click.command("gate")
@click.option("--model", "model_key", required=True, metavar="KEY", help="family@revision")
@click.option("--gate", "names", multiple=True, metavar="NAME", help="Default: every gate for its family; repeatable.")
@click.option("--baseline", metavar="KEY", help="Compare with this model instead of the gate's own baseline.")
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@click.option("--markdown", "as_markdown", is_flag=True, help="For a pull request.")
@click.pass_obj
def gate(
    path: Path, model_key: str, names: tuple[str, ...], baseline: str | None, as_json: bool, as_markdown: bool
) -> None:
    """Judge a model by the gates of evals.yaml, on the published record. Asks no model.

    Exit code: 0 GO, 1 NO-GO, 3 INCONCLUSIVE (of several gates the worst: 1, then 3), 2 a mistake of yours, 4 nothing
    could be judged.
    """
    try:
        verdicts = _judged(load_config(path), model_key, names, baseline)
        code = min((EXIT_CODES[one.decision] for one in verdicts if one.decision != "GO"), default=0)
        _tell(verdicts, code, as_json=as_json, as_markdown=as_markdown)
    except EvalPipelinesError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else _COULD_NOT)
    except PermissionError:
        raise
    except Exception:  # noqa: BLE001 - as everywhere with a traceback, but 1 would be read as NO-GO
        traceback.print_exc()
        click.echo("error: nothing could be judged, for no reason that was foreseen. Please report the above", err=True)
        sys.exit(_COULD_NOT)
    sys.exit(code)


def _tell(verdicts: "list[GateVerdict]", code: int, *, as_json: bool, as_markdown: bool) -> None:
    try:
        if as_json:
            told = [asdict(one) | {"exit_code": EXIT_CODES[one.decision]} for one in verdicts]
            click.echo(json.dumps(told, indent=2, default=_plain))
            return
        for one in verdicts:
            _print(one, as_markdown=as_markdown)
    except BrokenPipeError:
        # whoever read has enough (`| head`); the verdict is known all the same, and a last flush must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(code)


def _judged(config: Config, model_key: str, names: tuple[str, ...], baseline: str | None) -> "list[GateVerdict]":
    family = ModelKey.parse(model_key).family
    if baseline is not None:
        ModelKey.parse(baseline)
    chosen = {name: config.gate(name) for name in names}
    if not names:
        chosen = {name: one for name, one in config.gates.items() if one.applies_to(family)}
        if not chosen:
            known = f"; there are {', '.join(config.gates)}, for others" if config.gates else ""
            raise ConfigError(f"{config.path} has no gate for {family}: add one under `gates`{known}")
    from eval_pipelines.analysis import names as known_names
    from eval_pipelines.analysis.gating import judge_model
    from eval_pipelines.warehouse.read import open_published

    with closing(open_published(config.data_root)) as connection:
        models = known_names.models(connection)
        for key in (model_key, *([baseline] if baseline else [])):
            known_names.check("model in this record", key, models, add=_evaluate(key, chosen.values()))
        return [
            judge_model(connection, name, one, model_key, baseline=baseline).verdict for name, one in chosen.items()
        ]


def _evaluate(model_key: str, gates: Iterable[Gate]) -> str:
    named = dict.fromkeys(f"--benchmark {benchmark}" for gate in gates for benchmark in gate.benchmarks)
    return f"evaluate it: `eval-pipelines evaluate --model {model_key} {' '.join(named)}`"


def _print(verdict: "GateVerdict", *, as_markdown: bool) -> None:
    from eval_pipelines.analysis import gate_table
    from eval_pipelines.cli.output import note, terminal_width
    from eval_pipelines.formats import to_table

    if as_markdown:
        click.echo(gate_table.markdown(verdict))
        return
    note(gate_table.head(verdict))
    click.echo(to_table(gate_table.COLUMNS, gate_table.rows(verdict), terminal_width()))


def _plain(value: Any) -> Any:
    return value.model_dump(exclude_none=True)
