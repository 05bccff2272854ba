"""Have a keeper start the servers of one model: claims first, then the order, then the keeper."""

import asyncio
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType

from eval_pipelines.config import Deployment, Machine
from eval_pipelines.errors import ConfigError, StartError
from eval_pipelines.models import Model
from eval_pipelines.serving import gpus, ports
from eval_pipelines.serving.backends import ServerCommand
from eval_pipelines.serving.container import contain
from eval_pipelines.serving.locks import FileLock
from eval_pipelines.serving.reconcile import end_leftovers
from eval_pipelines.serving.room import Order, Room, ServerOrder

HOST = "127.0.0.1"
_KEEPER_TIMEOUT_S = 75.0
_PORT_TIMEOUT_S = 60.0


async def start(
    room: Room,
    backend: ModuleType,
    model: Model,
    deployment: Deployment,
    *,
    machine: Machine,
    environ: Mapping[str, str],
    on_wait: Callable[[str], None],
) -> None:
    """Write an order and start a keeper on it; returns once it has taken over. Call it with the start lock held.

    Raises:
        ConfigError: the deployment cannot serve this model, needs more GPUs than there are, or its port is taken.
        StartError: the keeper did not take over.
    """
    end_leftovers(room)
    claims: list[FileLock] = []
    try:
        machine.folder.mkdir(parents=True, exist_ok=True)
        n_gpus = deployment.n_gpus
        known = await asyncio.to_thread(gpus.devices, machine, environ) if n_gpus else ()
        gpus.check_demand(n_gpus, deployment.replicas, deployment.spec, known, deployment=model.deployment)
        wanted = n_gpus * deployment.replicas
        held_gpus = await gpus.claim(wanted, known, folder=machine.folder, who=str(model.key), on_wait=on_wait)
        claims += held_gpus
        servers, api_key, generation = [], secrets.token_urlsafe(24), secrets.token_hex(8)
        for index in range(deployment.replicas):
            held_ports = await _reserve_ports(room, backend, model, deployment, machine, index)
            claims += held_ports
            mine = [gpus.name(lock) for lock in held_gpus[index * n_gpus : (index + 1) * n_gpus]]
            port = ports.number(held_ports[0])
            command = command_of(backend, deployment, model, port)
            name = f"{room.folder.name}-{generation}-{index}"
            if command.key_env:
                api_key = _given_key(environ, command.key_env) or api_key
            servers.append(_server(command, deployment, model, name, port, len(held_ports), mine, api_key))
        order = Order(
            generation=generation,
            model_key=str(model.key),
            fingerprint=model.fingerprint,
            deployment=model.deployment,
            servers=servers,
            api_key=api_key if command.key_env else None,
            keep_warm_s=deployment.keep_warm_s,
            max_restarts=deployment.max_restarts,
            machine=str(machine.folder),
            metric_names=dict(command.metric_names),
        )
        await _hand_over(room, order, claims)
    except PermissionError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}. All who share GPUs must be allowed to write there: let them, or name "
            f"another folder as `machine: {{folder: …}}`."
        ) from error
    finally:
        for lock in claims:  # the keeper inherited them
            lock.release()


def _given_key(environ: Mapping[str, str], name: str) -> str:
    """The operator's own key, without the line end that a mounted secret has; empty if none is given."""
    key = environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the environment variable {name} holds characters that no HTTP header can carry.")
    return key


async def _reserve_ports(
    room: Room, backend: ModuleType, model: Model, deployment: Deployment, machine: Machine, index: int
) -> list[FileLock]:
    n_ports = int(getattr(backend, "N_PORTS", 1))
    chosen = getattr(deployment.spec, "port", None)
    if chosen is not None:
        first, deadline = chosen + index * n_ports, time.monotonic() + _PORT_TIMEOUT_S
        while True:
            try:
                return ports.reserve_fixed(
                    first, n_ports, host=HOST, folder=machine.folder, deployment=model.deployment
                )
            except ConfigError:
                # a server of ours that is just ending gives it back soon
                if time.monotonic() > deadline or not ports.is_reserved(first, n_ports, folder=machine.folder):
                    raise
            await asyncio.sleep(0.2)
    return ports.reserve(n_ports, host=HOST, folder=machine.folder, hint=f"{room.folder.name}-{index}")


def command_of(backend: ModuleType, deployment: Deployment, model: Model, port: int) -> ServerCommand:
    """What to run, with the operator's own variables."""
    host = deployment.container.listen_host if deployment.container else HOST
    command: ServerCommand = backend.command(deployment.spec, model, host=host, port=port)
    env = {**command.env, **deployment.env}
    if command.env.get("PYTHONPATH") and "PYTHONPATH" in deployment.env:  # what we need of our own comes first
        env["PYTHONPATH"] = f"{command.env['PYTHONPATH']}:{deployment.env['PYTHONPATH']}"
    return replace(command, env=env)


def _server(
    command: ServerCommand,
    deployment: Deployment,
    model: Model,
    name: str,
    port: int,
    n_ports: int,
    mine: list[str],
    api_key: str,
) -> ServerOrder:
    root, cleanup = f"http://{HOST}:{port}", []
    if deployment.container:
        contained = contain(
            command, deployment.container, name=name, port=port, n_ports=n_ports, gpus=mine, weights=model.weights
        )
        command, cleanup = contained.command, [list(contained.stop), list(contained.kill)]
    env = {**command.env}
    if command.key_env:
        env[command.key_env] = api_key
    if not deployment.container and (mine or deployment.gpus == 0):
        # by bus, as the driver's tool counts them
        env |= {"CUDA_VISIBLE_DEVICES": ",".join(mine), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    metrics = f"http://{HOST}:{port + command.metrics_port}{command.metrics_path}" if command.metrics_path else None
    return ServerOrder(
        argv=list(command.argv),
        env=env,
        url=root + command.base_path,
        health_url=root + command.health_path,
        metrics_url=metrics,
        gpus=mine,
        cleanup=cleanup,
    )


async def _hand_over(room: Room, order: Order, claims: list[FileLock]) -> None:
    room.forget_servers()
    room.write(order)
    fds = tuple(lock.fd for lock in claims)
    argv = [sys.executable, "-m", "eval_pipelines.serving.keeper", str(room.folder), order.generation]
    argv.append(",".join(map(str, fds)))
    with (room.folder / "keeper.log").open("ab") as log:
        # whoever reads our output must not wait for a process that outlives us
        keeper = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=fds
        )
    if await keeper.wait():  # it detaches at once
        printed = room.folder / "keeper.log"
        lines = printed.read_text(errors="replace").splitlines()[-12:]
        raise StartError(f"{order.model_key}: its keeper cannot start:", log_path=printed, tail=lines)
    # who comes next must find the keeper at work, or it would start another
    deadline = time.monotonic() + _KEEPER_TIMEOUT_S
    while time.monotonic() < deadline:
        notes = (room.running(), room.exited())
        if any(note is not None and note.generation == order.generation for note in notes):
            return
        await asyncio.sleep(0.02)
    raise StartError(
        f"{order.model_key}: its keeper did not start the server within {_KEEPER_TIMEOUT_S:g} s",
        log_path=room.folder / "keeper.log",
    )
