"""Borrow an endpoint that answers for exactly one model version.

The first lease of a (model version, deployment) starts a keeper, which starts the servers; everybody else on this
machine joins it. A lease is a lock that the kernel releases when its holder dies, so a killed run leaves nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from eval_pipelines import plugins
from eval_pipelines.client.transport import open_client
from eval_pipelines.config import Deployment, Machine
from eval_pipelines.endpoint import Endpoint, Replica
from eval_pipelines.errors import StartError
from eval_pipelines.keys import digest, slug
from eval_pipelines.models import Model
from eval_pipelines.serving import swapping
from eval_pipelines.serving.backends import ServerCommand
from eval_pipelines.serving.ready import bound, seen_to_work
from eval_pipelines.serving.room import Hold, Order, Ready, Room
from eval_pipelines.serving.start import command_of, start
from eval_pipelines.serving.watch import ServerWatch

_CANARY_TIMEOUT_S = 30.0


@asynccontextmanager
async def lease(
    model: Model,
    deployment: Deployment,
    *,
    needs: Collection[str],
    wants: Collection[str] = (),
    leases: Path,
    secrets_: Mapping[str, str],
    machine: Machine | None = None,
    who: str = "",
    on_wait: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Endpoint]:
    """Borrow an endpoint that serves `model` and can do what is needed, until the context closes.

    Args:
        needs: CAPABILITIES that were seen to work before the first request is asked.
        wants: Others that are tried: the endpoint tells which work, and why not.
        leases: Folder in which everybody who shares servers meets.
        secrets_: Values of the environment variables that the deployment names.
        machine: Which GPUs there are, and where their use is noted.
        who: Shown to who asks which servers run, and for whom.
        on_wait: Told now and then why it waits for GPUs.

    Raises:
        ConfigError: the deployment cannot serve this model, or needs more than the machine has.
        StartError: the server ended before it was ready; carries its last lines and the likely cause.
        NotReadyError: it runs, but did not answer within `ready_timeout_s`.
        WrongModelError: the address answers for another model.
        UnsupportedError: it answers, but cannot do what is needed.
    """
    backend = plugins.load("serving.backends", deployment.backend, kind="backend")
    if hasattr(backend, "bind"):
        yield await bound(backend.bind(deployment.spec, model), deployment, needs, wants, secrets_, leases)
        return
    machine = machine or Machine()
    room = Room(leases / server_id(model, deployment)).make()
    async with AsyncExitStack() as stack:
        holder = Hold(room, who)
        stack.callback(holder.release)
        while True:
            has_joined = await _enter(room, backend, model, deployment, holder, machine, secrets_, on_wait)
            try:
                endpoint = await _ready(room, backend, model, deployment, needs, wants, stack)
                break
            except StartError:
                holder.release()
                if not has_joined or _has_failed(room):
                    raise
                # it was being stopped when we came: the next one is ours
        yield endpoint


async def _enter(
    room: Room,
    backend: ModuleType,
    model: Model,
    deployment: Deployment,
    holder: Hold,
    machine: Machine,
    environ: Mapping[str, str],
    on_wait: Callable[[str], None],
) -> bool:
    """Hold servers that run for this model, or will soon. Returns whether they ran already."""
    said = ""
    while True:
        with room.lock("start") as turn:
            await turn.acquire()
            is_running, order = room.running() is not None, room.order()
            if is_running and order is None:  # written by another release of this project
                await swapping.stop(room)
                is_running = False
            is_free = True
            if is_running and order is not None and not swapping.serves(order, model):
                with room.lock("holders") as everyone:
                    # never waited for with the start lock: who holds it may want to lease once more
                    is_free = everyone.try_acquire()
                    if is_free:
                        is_running = await swapping.hand_over(room, backend, model, deployment, say=on_wait)
            if is_free:
                if not is_running:
                    await start(room, backend, model, deployment, machine=machine, environ=environ, on_wait=on_wait)
                await holder.acquire()
                return is_running
        if order is not None and said != order.model_key:
            said = order.model_key
            on_wait(f"waiting for the warm server, which {said} uses")
        await asyncio.sleep(0.2)


def hold(model: Model, deployment: Deployment, *, leases: Path, who: str = "") -> Hold:
    """Keep the servers of an open lease beyond it, until this is released or its process dies.

    For who leases the same model several times in a row. Not for an address that someone else runs.
    """
    held = Hold(Room(leases / server_id(model, deployment)).make(), who)
    held.try_acquire()
    return held


def server_id(model: Model, deployment: Deployment) -> str:
    """One server per model version and way of serving it: an overwritten checkpoint never meets its old server.

    Or one for all models that can be loaded into it one after the other: it is told which one it shall serve.
    """
    how = [model.deployment, deployment.model_dump(mode="json")]
    backend = plugins.load("serving.backends", deployment.backend, kind="backend")
    shared = swapping.key_of(backend, deployment, model)
    if shared is not None:
        return f"{slug(model.key.family)}-{digest([shared, *how], n_bytes=6)}"
    return f"{slug(str(model.key))}-{digest([str(model.key), model.fingerprint, *how], n_bytes=6)}"


def _has_failed(room: Room) -> bool:
    order, ended = room.order(), room.exited()
    is_ours = order is not None and ended is not None and ended.generation == order.generation
    return is_ours and ended is not None and not ended.was_stopped


async def _ready(
    room: Room,
    backend: ModuleType,
    model: Model,
    deployment: Deployment,
    needs: Collection[str],
    wants: Collection[str],
    stack: AsyncExitStack,
) -> Endpoint:
    order = room.order()
    assert order is not None, "a lease is only reached after an order"
    command = command_of(backend, deployment, model, port=0)
    endpoint = _endpoint(backend, order, command, model, deployment, room, range(len(order.servers)))
    patience_s = min(_CANARY_TIMEOUT_S, deployment.request_timeout_s)
    client = await stack.enter_async_context(open_client(replace(endpoint, request_timeout_s=patience_s)))
    watch = ServerWatch(
        room,
        order,
        client,
        causes=command.causes,
        ready_timeout_s=deployment.ready_timeout_s,
        weights=model.weights,
    )
    await watch.until_healthy()
    endpoint = _endpoint(backend, order, command, model, deployment, room, watch.alive())
    seen = await seen_to_work(endpoint, needs, wants, where=f"the {deployment.backend} server", log=endpoint.log_path)
    room.write(Ready(generation=order.generation))
    return replace(seen, watch=watch)


def _endpoint(
    backend: ModuleType,
    order: Order,
    command: ServerCommand,
    model: Model,
    deployment: Deployment,
    room: Room,
    alive: Sequence[int],
) -> Endpoint:
    servers = [order.servers[index] for index in alive]
    headers = {"authorization": f"Bearer {order.api_key}"} if order.api_key else {}
    served_name = command.served_name or str(model.key)
    return Endpoint(
        url=servers[0].url,
        served_name=served_name,
        backend=deployment.backend,
        **deployment.asking,
        **deployment.paying(served_name),
        budgets_folder=room.folder.parent,
        headers=headers,
        protocol=command.protocol,
        path_suffix=command.path_suffix,
        replicas=tuple(Replica(server.url, headers, server.metrics_url) for server in servers),
        metric_names=command.metric_names,
        log_path=room.log(alive[0]),
        n_per_request=getattr(backend, "N_PER_REQUEST", 1),
        shared_folder=room.folder,
    )
