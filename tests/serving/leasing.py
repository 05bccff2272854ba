"""What tests of real servers behind a lease share: requests, their answers, and the processes that must go away."""

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.config import Config, Deployment
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.models import Model
from eval_pipelines.records import Request, Response
from eval_pipelines.serving.lease import server_id
from eval_pipelines.serving.room import Room, Running

# texts whose parts begin a new token, so that the sum over parts is the sum over the whole
PARTS = [
    ("The capital of France is", " Paris", ", of course."),
    ("Grüße aus Köln:", " schöne Straßen", " und der Rhein."),
    ("Weather report:", " sunny 🙂🌞", " all day long."),
    ("東京は", "日本の首都", "です。"),
]


def deployment(text: str) -> Deployment:
    """A deployment from the inside of its YAML braces."""
    return Config.parse(f"deployments: {{it: {{{text}}}}}", path=Path("/nowhere/evals.yaml")).deployment("it")


def on_cpu(python: str, text: str = "") -> Deployment:
    """The transformers server on a CPU."""
    return deployment(
        f"backend: transformers, python: {python!r}, device: cpu, dtype: float32, threads: 1, max_model_len: 1024, "
        f"max_batch_size: 4, max_waiting: 32, keep_warm_s: 0, max_restarts: 0, max_in_flight: 16, env: {{HF_HUB_OFFLINE: '1'}} {text}"
    )


def chat(text: str, **params: object) -> Request:
    messages = ({"role": "user", "content": text},)
    return Request(
        sample_id="c/0", subtask="c", operation="chat", messages=messages, params={"temperature": 0, **params}
    )


def completion(prompt: str, **params: object) -> Request:
    return Request(
        sample_id="g/0", subtask="g", operation="completion", prompt=prompt, params={"temperature": 0, **params}
    )


def likelihood(context: str, continuation: str) -> Request:
    return Request(sample_id="s/0", subtask="s", operation="loglikelihood", prompt=context, continuation=continuation)


async def answers(requests: Iterable[Request], endpoint: Endpoint, folder: Path) -> list[Response]:
    """What each request came to, in their order; all are asked at once."""
    found: dict[str, Response] = {}
    wanted = list(requests)
    with Journal(folder / f"journal-{time.monotonic_ns()}.jsonl") as journal:
        await ask(
            wanted, len(wanted), endpoint, journal=journal, limits=Limits(),
            on_outcome=lambda request, response: found.update({request.digest: response}),
        )  # fmt: skip
    return [found[request.digest] for request in wanted]


def running(model: Model, how: Deployment, leases: Path) -> Running:
    """The leased server."""
    found = Room(leases / server_id(model, how)).running()
    assert found is not None
    return found


def processes(found: Running) -> set[psutil.Process]:
    """Keeper, server, and everything below it."""
    server = psutil.Process(found.servers[0].pid)
    return {server, psutil.Process(found.keeper_pid), *server.children(recursive=True)}


def living(found: set[psutil.Process]) -> set[psutil.Process]:
    """Those that run; a zombie does not."""
    alive = set()
    for one in found:
        try:
            if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                alive.add(one)
        except psutil.NoSuchProcess:
            pass
    return alive


async def gone(found: set[psutil.Process], timeout_s: float = 40) -> bool:
    """Whether all of them end in time."""
    deadline = time.monotonic() + timeout_s
    while living(found) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return not living(found)
