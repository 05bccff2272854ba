"""`eval-pipelines probe MODEL`: what its endpoint can do, tried with tiny requests."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Final

import click

from eval_pipelines.config import Config, load_config
from eval_pipelines.keys import ModelKey

_HANDED_OVER_S: Final = 0.1


@click.command("probe")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Each capability, and why it does not work; for programs.")
@click.pass_obj
def probe(path: Path, model: str, as_json: bool) -> None:
    """Try what the endpoint of MODEL can do, with a dozen tiny requests; its server is started if none runs."""
    found = asyncio.run(_tried(load_config(path), ModelKey.parse(model)))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for capability, why_not in found.items():
            click.echo(f"{capability:<16}{'no   ' + why_not if why_not else 'yes'}")
    # the transport's own thread, which just handed over the last reply, aborts an interpreter that ends under it
    time.sleep(_HANDED_OVER_S)


async def _tried(config: Config, key: ModelKey) -> dict[str, str]:
    # the HTTP stack: only who asks pays for it
    from eval_pipelines.client.probe import try_all
    from eval_pipelines.models import resolve
    from eval_pipelines.serving.lease import lease

    model = resolve(config, key)
    async with lease(
        model, config.deployment(model.deployment), needs=(), leases=config.data_root / "leases",
        secrets_=os.environ, machine=config.machine, who="eval-pipelines probe",
        on_wait=lambda why: click.echo(why, err=True),
    ) as endpoint:  # fmt: skip
        return await try_all(endpoint)
