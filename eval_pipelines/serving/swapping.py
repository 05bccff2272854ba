"""Give the warm servers of one model to the next, where a backend can load other weights into them.

A backend that can offers `swap_key(spec, model)`, what a model must share with the one before (None: it cannot), and
`async swap(spec, model, *, client, url)`, which loads it and sees that it answers; ServingError: it does not.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from types import ModuleType

from eval_pipelines.client.transport import open_client
from eval_pipelines.config import Deployment
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import ServingError
from eval_pipelines.models import Model
from eval_pipelines.serving.room import Order, Room
from eval_pipelines.serving.start import command_of

_PATIENCE_S = 1800.0
_STOP_TIMEOUT_S = 75.0


def key_of(backend: ModuleType, deployment: Deployment, model: Model) -> str | None:
    """What the servers of this model can be shared by, one after the other; None: they are its own."""
    return backend.swap_key(deployment.spec, model) if hasattr(backend, "swap_key") else None


def serves(order: Order, model: Model) -> bool:
    """True if the servers of this order answer for this very version of the model."""
    return (order.model_key, order.fingerprint) == (str(model.key), model.fingerprint)


async def hand_over(
    room: Room, backend: ModuleType, model: Model, deployment: Deployment, *, say: Callable[[str], None]
) -> bool:
    """Load `model` into the servers that run; call it with the start lock held and nobody holding a lease.

    Returns:
        Whether they answer for it now. If not, they were stopped.
    """
    order = room.order()
    assert order is not None, "servers that run were ordered"
    before, began = order.model_key, time.monotonic()
    endpoint = Endpoint(
        url=order.servers[0].url,
        served_name=str(model.key),
        backend=deployment.backend,
        request_timeout_s=_PATIENCE_S,
        headers={"authorization": f"Bearer {order.api_key}"} if order.api_key else {},
    )
    # whoever finds this after we were killed in between does not know what is loaded
    room.write(order.model_copy(update={"fingerprint": ""}))
    try:
        async with open_client(endpoint) as client:
            for server in order.servers:
                await backend.swap(deployment.spec, model, client=client, url=server.url)
    except ServingError as error:
        say(f"{error}. Starting a server anew.")
        await stop(room)
        return False
    ports = [int(server.url.split(":")[2].split("/")[0]) for server in order.servers]
    # a server that dies is started again with the line of its order: that must be the new model's
    servers = [
        server.model_copy(update={"argv": list(command_of(backend, deployment, model, port).argv)})
        for server, port in zip(order.servers, ports, strict=True)
    ]
    update = {"model_key": str(model.key), "fingerprint": model.fingerprint, "servers": servers}
    room.write(order.model_copy(update=update))
    say(f"{model.key} was loaded into the warm server of {before} in {time.monotonic() - began:.1f} s")
    return True


async def stop(room: Room) -> None:
    """Stop the servers of a room and wait until they are gone."""
    running = room.running()
    if running is not None:
        try:
            os.kill(running.keeper_pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while room.has_keeper() and time.monotonic() < deadline:  # noqa: ASYNC110 - the kernel tells nobody when a flock is let go
        await asyncio.sleep(0.1)
