"""Ask the chaotic server, and keep what was told to lay beside what the server noted."""

import asyncio
import dataclasses
import os
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from eval_pipelines.client.failures import Backoff
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.report import AskReport
from eval_pipelines.endpoint import Endpoint, Replica
from eval_pipelines.records import Request, Response

QUICK = Backoff(base_s=0.005, cap_s=0.02)
# another way to ask is one more line here: every case runs with each
WAYS: dict[str, dict[str, Any]] = {"plain": {}, "streamed": {"is_streamed": True}}


def endpoint(*urls: str, **fields: Any) -> Endpoint:
    """One endpoint with these replicas."""
    replicas = tuple(Replica(f"{url}/v1") for url in urls) if len(urls) > 1 else ()
    fields = {"max_in_flight": 40, "request_timeout_s": 0.6, "replicas": replicas, **fields}
    return Endpoint(f"{urls[0]}/v1", "mock", "hosted", **fields)


class Chaos:
    """Drives tests/chaos/server.py."""

    def __init__(self, control: str, *faces: str) -> None:
        self.control, self.faces = control, faces
        self._client = httpx.Client(trust_env=False)

    def set(self, *faults: dict[str, Any], face: int = 0, **plan: Any) -> None:
        """Start anew with these faults."""
        self._post("set", face=face, faults=faults, **plan)

    def gone(self, seconds: float, face: int = 0) -> None:
        self._post("gone", face=face, s=seconds)

    def deaf(self, seconds: float, face: int = 0) -> None:
        self._post("deaf", face=face, s=seconds)

    def seen(self, face: int = 0) -> dict[str, Any]:
        return self._client.get(f"{self.control}/seen/{face}").json()

    def noted(self, face: int = 0) -> dict[str, list[str]]:
        """What was done to each attempt of each prompt."""
        return self.seen(face)["prompts"]

    def close(self) -> None:
        self._client.close()

    def _post(self, word: str, **body: Any) -> None:
        self._client.post(f"{self.control}/{word}", json=body).raise_for_status()


def questions(n: int = 40) -> list[Request]:
    return [
        Request(sample_id=f"s/{i}", subtask="s", operation="completion", prompt=f"What is {i} + {i}?") for i in range(n)
    ]


@dataclasses.dataclass
class Left:
    """What a process holds: compared before and after."""

    tasks: int
    files: int
    threads: int

    @classmethod
    def now(cls) -> "Left":
        is_running = asyncio.events._get_running_loop() is not None
        links = []
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                links.append(os.readlink(f"/proc/self/fd/{name}"))
        files = sum(not link.startswith("/proc/") for link in links)
        return cls(len(asyncio.all_tasks()) if is_running else 0, files, threading.active_count())


@dataclasses.dataclass
class Told:
    """What one asking came to."""

    outcomes: list[tuple[Request, Response]]
    report: AskReport
    journalled: dict[str, Response]
    before: Left
    after: Left
    noted: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    n_open_after: int = 0

    @property
    def by_prompt(self) -> dict[str, Response]:
        return {request.prompt or "": response for request, response in self.outcomes}

    @property
    def answers(self) -> dict[str, dict[str, Any]]:
        """What must not depend on how it went."""
        return answers(response for _, response in self.outcomes)


def answers(responses: Iterable[Response]) -> dict[str, dict[str, Any]]:
    by_the_way = {"latency_s", "asked_at", "n_attempts", "ttft_s", "inter_token_s"}
    return {one.request_digest: one.model_dump(exclude=by_the_way) for one in responses if one.is_answer}


async def asked(
    server: Endpoint, folder: Path, requests: Sequence[Request], *, max_attempts: int = 3, on_outcome: Any = None
) -> Told:
    """Ask once, without a look at the server."""
    outcomes: list[tuple[Request, Response]] = []

    def told(request: Request, response: Response) -> None:
        outcomes.append((request, response))
        if on_outcome:
            on_outcome(request, response)

    before = Left.now()
    with Journal(folder / "journal.jsonl") as journal:
        report = await ask(
            requests,
            len(requests),
            server,
            journal=journal,
            limits=Limits(server.max_in_flight, max_attempts, backoff=QUICK),
            on_outcome=told,
        )
        journalled = dict(journal.answers())
    return Told(outcomes, report, journalled, before, await settled(before))


async def settled(before: Left, within_s: float = 1.0) -> Left:
    """What is held once everything let go, or after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while (now := Left.now()) != before and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    return now


def told_of(chaos: Chaos, folder: Path, server: Endpoint, *, n: int = 40, max_attempts: int = 3) -> Told:
    """Ask, then read what the first face noted and how many connections it still has."""
    told = asyncio.run(asked(server, folder, questions(n), max_attempts=max_attempts))
    told.n_open_after = until_left(chaos)
    told.noted = chaos.noted()
    return told


def until_left(chaos: Chaos, face: int = 0, within_s: float = 1.0) -> int:
    """Connections at a face once all have gone, or after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while (n_open := chaos.seen(face)["n_open"]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return n_open
