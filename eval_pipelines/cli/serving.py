"""`eval-pipelines serving …`: the servers that this machine runs for evaluations."""

import json
import os
import signal
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import httpx

from eval_pipelines.config import load_config
from eval_pipelines.errors import ConfigError
from eval_pipelines.records import utc_now
from eval_pipelines.serving.locks import is_held
from eval_pipelines.serving.reconcile import reconcile, rooms
from eval_pipelines.serving.room import Order, Room, Running

_STOP_TIMEOUT_S = 60.0


@click.group()
def serving() -> None:
    """Servers that this machine runs for evaluations."""


@serving.command("ps")
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@click.pass_obj
def ps(path: Path, as_json: bool) -> None:
    """List the servers that run: model, address, process, GPUs, who uses them, log."""
    found = [_told(room, running, order) for room, running, order in _running(load_config(path).data_root)]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo("no server runs")
    for told in found:
        again = f", {told['n_restarts']} restarts" if told["n_restarts"] else ""
        click.echo(f"{told['model']}  {told['deployment']}  up {told['up']}{again}")
        for server in told["servers"]:
            gpus = f"  GPU {', '.join(server['gpus'])}" if server["gpus"] else ""
            ended = server["returncode"]
            state = f"pid {server['pid']}" if server["pid"] else "starting" if ended is None else f"ended: {ended}"
            click.echo(f"  {server['url']}  {state}{gpus}{_requests(server)}")
            click.echo(f"  log {server['log']}")
        for holder in told["holders"]:
            click.echo(f"  used by {holder['who'] or 'a process'} (pid {holder['pid']}, since {holder['since']})")
        if not told["holders"]:
            click.echo(f"  used by nobody: stops after {told['keep_warm_s']:g} s")


@serving.command("stop")
@click.argument("model", required=False)
@click.pass_obj
def stop(path: Path, model: str | None) -> None:
    """Stop the servers of one MODEL, or all of them, leased or not; and what a crash left."""
    data_root = load_config(path).data_root
    running = _running(data_root)
    meant = [(room, one) for room, one, order in running if model in (None, order.model_key)]
    if model and not meant:
        known = ", ".join(sorted({order.model_key for _, _, order in running}))
        raise ConfigError(f"no server runs for {model!r}. {f'Servers run for: {known}.' if known else 'None runs.'}")
    for room, one in meant:
        try:
            os.kill(one.keeper_pid, signal.SIGTERM)
        except ProcessLookupError:
            continue  # it ended by itself just now
        click.echo(f"stopping {room.folder.name}")
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while any(is_held(room.folder / "keeper.lock") for room, _ in meant) and time.monotonic() < deadline:
        time.sleep(0.1)
    done = reconcile(data_root / "leases")
    for pid, server in done.killed.items():
        click.echo(f"killed process {pid}, which {server} had left behind")
    if not meant and not done:
        click.echo("no server runs")


def _running(data_root: Path) -> list[tuple[Room, Running, Order]]:
    found = []
    for room in rooms(data_root / "leases"):
        running, order = room.running(), room.order()
        if running is not None and order is not None:
            found.append((room, running, order))
    return found


def _told(room: Room, running: Running, order: Order) -> dict[str, Any]:
    up_s = (utc_now() - datetime.fromisoformat(running.started_at)).total_seconds()
    servers = [
        {
            "url": ordered.url,
            "pid": state.pid,
            "returncode": state.returncode,
            "gpus": ordered.gpus,
            "log": str(room.log(index)),
            **_load(order, index),
        }
        for index, (ordered, state) in enumerate(zip(order.servers, running.servers, strict=True))
    ]
    return {
        "model": order.model_key,
        "deployment": order.deployment,
        "up": str(timedelta(seconds=int(up_s))),
        "up_s": up_s,
        "n_restarts": running.n_restarts,
        "keep_warm_s": order.keep_warm_s,
        "servers": servers,
        "holders": [holder.model_dump() for holder in room.holders()],
    }


def _load(order: Order, index: int) -> dict[str, float]:
    """How many requests a server computes and how many wait; nothing if it does not tell."""
    from eval_pipelines.serving.scraping import Wanted

    url = order.servers[index].metrics_url
    if url is None or not order.metric_names:
        return {}
    headers = {"authorization": f"Bearer {order.api_key}"} if order.api_key else {}
    try:
        told = Wanted(order.metric_names).read(httpx.get(url, headers=headers, timeout=2, trust_env=False).text)
    except (httpx.HTTPError, ValueError):
        return {}
    return {name: told[name] for name in ("n_running", "n_waiting") if name in told}


def _requests(server: dict[str, Any]) -> str:
    running, waiting = server.get("n_running"), server.get("n_waiting")
    return "" if running is None else f"  {running:g} requests running, {waiting or 0:g} waiting"
