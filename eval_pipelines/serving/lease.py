"""Borrow an endpoint that answers for exactly one model version.

The first lease of a (model version, deployment) starts a keeper, which starts the server; everybody else on this
machine joins it. A lease is a lock that the kernel releases when its holder dies, so a killed run leaves nothing.
"""

import asyncio
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx

from eval_pipelines import plugins
from eval_pipelines.client import probe
from eval_pipelines.client.transport import open_client
from eval_pipelines.config import Deployment
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import (
    ConfigError,
    NotReadyError,
    ServingError,
    StartError,
    UnsupportedError,
    WrongModelError,
)
from eval_pipelines.keys import digest, slug
from eval_pipelines.models import Model
from eval_pipelines.records import FailureKind
from eval_pipelines.serving.backends import Binding, ServerCommand, likely_cause
from eval_pipelines.serving.binding import bound_endpoint
from eval_pipelines.serving.locks import FileLock
from eval_pipelines.serving.room import Order, Room

_HOST = "127.0.0.1"
_TAIL_LINES = 12
_CAUSE_LINES = 5000  # every worker of a server adds a traceback below the one that matters
_KEEPER_TIMEOUT_S = 20.0


@asynccontextmanager
async def lease(
    model: Model, deployment: Deployment, *, needs: Collection[str], leases: Path, secrets_: Mapping[str, str]
) -> AsyncIterator[Endpoint]:
    """Borrow an endpoint that serves `model` and can do what is needed, until the context closes.

    Args:
        needs: CAPABILITIES that were seen to work before the first request is asked.
        leases: Folder in which everybody on this machine meets.
        secrets_: Values of the environment variables that the deployment names.

    Raises:
        StartError: the server ended before it was ready; carries its last lines and the likely cause.
        NotReadyError: it runs, but did not answer within `ready_timeout_s`.
        WrongModelError: the address answers for another model.
        UnsupportedError: it answers, but cannot do what is needed.
    """
    backend = plugins.load("serving.backends", deployment.backend, kind="backend")
    if hasattr(backend, "bind"):
        yield await _bound(backend.bind(deployment.spec, model), deployment, needs, secrets_, leases)
        return
    room = Room(leases / server_id(model, deployment)).make()
    with room.lock("holders") as holder:
        async with _turn(room):
            if room.running() is None:
                command = await _order(room, backend, model, deployment)
            else:
                command = backend.command(deployment.spec, model, host=_HOST, port=0)
            await holder.acquire(shared=True)
        yield await _ready(room, command, model, deployment, needs)


def hold(model: Model, deployment: Deployment, *, leases: Path) -> FileLock:
    """Keep the server of an open lease beyond it, until the lock is released or its holder dies.

    For who leases the same model several times in a row. Does nothing for an address that someone else runs.
    """
    lock = Room(leases / server_id(model, deployment)).make().lock("holders")
    lock.try_acquire(shared=True)
    return lock


def server_id(model: Model, deployment: Deployment) -> str:
    """One server per model version and way of serving it: an overwritten checkpoint never meets its old server."""
    version = digest(
        [str(model.key), model.fingerprint, model.deployment, deployment.model_dump(mode="json")], n_bytes=6
    )
    return f"{slug(str(model.key))}-{version}"


@asynccontextmanager
async def _turn(room: Room) -> AsyncIterator[None]:
    with room.lock("start") as start:
        await start.acquire()
        yield


async def _order(room: Room, backend: object, model: Model, deployment: Deployment) -> ServerCommand:
    """Write the order and start a keeper on it; returns once it has taken over. Called with the start lock held."""
    wanted = getattr(deployment.spec, "port", None)
    port = wanted or _free_port()
    if wanted and not _is_free(wanted):
        raise ConfigError(
            f"deployment {model.deployment!r}: port {wanted} on {_HOST} is taken by another program. "
            f"Leave `port` out to get any free one, or stop the other program (`ss -ltnp 'sport = :{wanted}'` names it)."
        )
    command: ServerCommand = backend.command(deployment.spec, model, host=_HOST, port=port)  # type: ignore[attr-defined]
    api_key = secrets.token_urlsafe(24) if command.key_env else None
    root = f"http://{_HOST}:{port}"
    generation = secrets.token_hex(8)
    room.write(
        Order(
            generation=generation,
            model_key=str(model.key),
            deployment=model.deployment,
            argv=list(command.argv),
            env={
                **command.env,
                **deployment.env,
                **({command.key_env: api_key} if command.key_env and api_key else {}),
            },
            url=root + command.base_path,
            health_url=root + command.health_path,
            api_key=api_key,
            keep_warm_s=deployment.keep_warm_s,
        )
    )
    room.forget_server()
    keeper = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "eval_pipelines.serving.keeper", str(room.folder)
    )
    await keeper.wait()  # it detaches at once
    # who comes next must find the keeper at work, or it would start another
    deadline = time.monotonic() + _KEEPER_TIMEOUT_S
    while time.monotonic() < deadline:
        notes = (room.running(), room.exited())
        if any(note is not None and note.generation == generation for note in notes):
            return command
        await asyncio.sleep(0.02)
    raise StartError(
        f"{model.key}: its keeper did not start the server within {_KEEPER_TIMEOUT_S:g} s", log_path=room.log
    )


async def _ready(
    room: Room, command: ServerCommand, model: Model, deployment: Deployment, needs: Collection[str]
) -> Endpoint:
    order = room.order()
    assert order is not None, "a lease is only reached after an order"
    endpoint = Endpoint(
        url=order.url,
        served_name=str(model.key),
        backend=deployment.backend,
        max_in_flight=deployment.max_in_flight,
        request_timeout_s=deployment.request_timeout_s,
        headers={"authorization": f"Bearer {order.api_key}"} if order.api_key else {},
    )
    deadline = time.monotonic() + deployment.ready_timeout_s
    async with open_client(replace(endpoint, request_timeout_s=min(30.0, deployment.request_timeout_s))) as client:
        while not await _is_healthy(client, order.health_url):
            _raise_if_ended(room, order, command, model)
            if time.monotonic() > deadline:
                tail = "".join(f"\n  | {line}" for line in room.log_lines(_TAIL_LINES))
                raise NotReadyError(
                    f"{model.key}: the {deployment.backend} server did not answer {order.health_url} within "
                    f"ready_timeout_s = {deployment.ready_timeout_s:g}. It still runs; its last lines:{tail}\n  whole log: {room.log}"
                )
            await asyncio.sleep(0.1)
    return await _seen_to_work(endpoint, needs, where=f"the {deployment.backend} server", log=room.log)


def _raise_if_ended(room: Room, order: Order, command: ServerCommand, model: Model) -> None:
    ended = room.exited()
    is_ours = ended is not None and ended.generation == order.generation
    if not is_ours and room.has_keeper():
        return
    if not is_ours:
        raise StartError(
            f"{model.key}: the keeper of the server died", log_path=room.log, tail=room.log_lines(_TAIL_LINES)
        )
    assert ended is not None
    lines = room.log_lines(_CAUSE_LINES)
    cause = likely_cause(lines, command.causes)
    advice = f" Likely cause: {cause}." if cause else ""
    raise StartError(
        f"{model.key}: the server ended with status {ended.returncode} before it was ready.{advice} Its last lines:",
        log_path=room.log,
        tail=lines[-_TAIL_LINES:],
    )


async def _bound(
    binding: Binding, deployment: Deployment, needs: Collection[str], secrets_: Mapping[str, str], leases: Path
) -> Endpoint:
    endpoint = bound_endpoint(binding, deployment, secrets_, leases)
    asked = [
        _seen_to_work(replace(endpoint, url=url, replicas=()), needs, where=url, key_env=binding.key_env)
        for url in binding.urls
    ]
    # every address, and all of them to their end: one that serves another model would spoil a share of the answers
    seen = await asyncio.gather(*asked, return_exceptions=True)
    for one in seen:
        if isinstance(one, BaseException):
            raise one
    versions = {one.server_version for one in seen if isinstance(one, Endpoint) and one.server_version}
    return replace(endpoint, offers=frozenset(needs), server_version=", ".join(sorted(versions)) or None)


async def _seen_to_work(
    endpoint: Endpoint, needs: Collection[str], *, where: str, log: Path | None = None, key_env: str | None = None
) -> Endpoint:
    """The endpoint with the capabilities that were seen to work. Raises when a needed one is not there."""
    async with open_client(endpoint) as client:
        names = await probe.served_names(client, endpoint)
        if names is not None and endpoint.served_name not in names:
            raise WrongModelError(
                f"{where} serves {', '.join(names) or 'no model'}, not {endpoint.served_name!r}. "
                f"Set `served_name` to the name it knows the model by."
            )
        for capability in sorted({*needs}):
            failed = await probe.try_capability(client, endpoint, capability)
            if failed is None:
                continue
            if failed.http_status in (401, 403):
                key = (
                    f"the key in {key_env}" if key_env else "a request without a key (name its variable in api_key_env)"
                )
                raise ServingError(f"{where} refused {key}: HTTP {failed.http_status}: {failed.message}")
            if failed.kind in (FailureKind.CONNECTION, FailureKind.TIMEOUT, FailureKind.OVERLOADED):
                seen = f"; its log: {log}" if log else ""
                raise NotReadyError(f"{where} did not answer a first {capability} request: {failed.message}{seen}")
            raise UnsupportedError(
                f"{where} cannot do {capability!r}, which is needed here: {failed.message}. Nothing was asked. "
                f"Use a deployment that can, or set `protocol` of the benchmark to what this one speaks."
            )
        version = await _version(client, endpoint)
    return replace(endpoint, offers=frozenset(needs), server_version=version)


async def _version(client: httpx.AsyncClient, endpoint: Endpoint) -> str | None:
    try:
        reply = await client.get(f"{endpoint.url.removesuffix('/v1')}/version")
        told = reply.json() if reply.is_success else {}
        return " ".join(str(told[name]) for name in ("version", "engine") if name in told) or None
    except (httpx.HTTPError, ValueError, TypeError):
        return None


async def _is_healthy(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url, timeout=5.0)).status_code == 200
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind((_HOST, 0))
        return int(taken.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((_HOST, port))
        except OSError:
            return False
    return True
