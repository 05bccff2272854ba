"""`make bench`: how close asking comes to the ideal, beside plain httpx and a raw aiohttp loop in the same run.

Ratios are what counts: the machine's own speed drifts. `wire / ideal` is taken at the server, from the first
request in to the last answer out; `cpu` is what the client's process used for each request, journal and
accounting included for ours.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import httpx

from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.records import Request

N = 1_319  # as many as GSM8K has
N_RUNS = 4  # in turns, and the best counts: whatever else the machine does only adds
PARAMS = {"max_tokens": 256, "temperature": 0, "stop": ["Question:"], "seed": 1234}
REQUESTS = [
    Request(
        sample_id=f"s/{i}",
        subtask="s",
        operation="chat",
        messages=({"role": "user", "content": f"Question {i}: " + "how many eggs are left, " * 12},),
        params=PARAMS,
    )
    for i in range(N)
]
Client = Callable[[str, int, int], Awaitable[None]]


async def ours(url: str, n_in_flight: int, n: int, *, is_adaptive: bool = False) -> None:
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.jsonl") as journal:
        report = await ask(
            REQUESTS[:n],
            n,
            Endpoint(
                f"{url}/v1", "m", "hosted", max_in_flight=n_in_flight, min_in_flight=1 if is_adaptive else n_in_flight
            ),
            journal=journal,
            limits=Limits(n_in_flight),
            on_outcome=lambda request, response: None,
        )
    assert report.n_answered == n, report.first_failure


async def ours_adapting(url: str, n_in_flight: int, n: int) -> None:
    """From 16 in flight up, with nothing learnt from earlier evaluations."""
    await ours(url, n_in_flight, n, is_adaptive=True)


def bodies(n: int) -> list[dict[str, object]]:
    return [{"model": "m", "messages": list(request.messages or ()), **PARAMS} for request in REQUESTS[:n]]


async def _by_workers(post: Callable[[dict[str, object]], Awaitable[object]], n_in_flight: int, n: int) -> None:
    waiting = iter(bodies(n))

    async def work() -> None:
        for body in waiting:
            await post(body)

    await asyncio.gather(*(work() for _ in range(n_in_flight)))


async def plain_httpx(url: str, n_in_flight: int, n: int) -> None:
    limits = httpx.Limits(max_connections=n_in_flight, max_keepalive_connections=n_in_flight)
    async with httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(60, pool=None), trust_env=False) as client:

        async def post(body: dict[str, object]) -> object:
            return (await client.post(f"{url}/v1/chat/completions", json=body)).json()

        await _by_workers(post, n_in_flight, n)


async def raw_aiohttp(url: str, n_in_flight: int, n: int) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=n_in_flight)) as session:

        async def post(body: dict[str, object]) -> object:
            async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                return await reply.json()

        await _by_workers(post, n_in_flight, n)


def measure(client: Client, url: str, n_in_flight: int, n: int = N) -> tuple[float, float]:
    """(seconds on the wire, client CPU in ms per request)."""
    cpu = time.process_time()
    asyncio.run(client(url, n_in_flight, n))
    cpu = time.process_time() - cpu
    told = json.loads(httpx.get(f"{url}/stats").text)
    assert told["n"] == n
    return told["span_s"], cpu / n * 1000


def main() -> None:
    print(f"{N} chat requests each, best of {N_RUNS}; plain httpx is slow: one run of fewer")
    print(f"{'client':<14}{'latency':>9}{'in flight':>11}{'wire s':>9}{'/ ideal':>9}{'requests/s':>12}{'cpu ms':>8}")
    for latency_s, n_in_flight in ((0.2, 64), (0.2, 256), (0.2, 512), (0.0, 64)):
        command = [sys.executable, str(Path(__file__).with_name("wire_server.py")), str(latency_s)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            clients = (
                ("ours", ours),
                ("ours, 16 up", ours_adapting),
                # beyond, it takes minutes to say the same
                *([("plain httpx", plain_httpx)] if n_in_flight <= 256 else []),
                ("raw aiohttp", raw_aiohttp),
            )
            n_of = {client: 2 * n_in_flight if client is plain_httpx else N for _, client in clients}
            seen: dict[Client, list[tuple[float, float]]] = {}
            for turn in range(N_RUNS):
                for _, client in clients:
                    if client is not plain_httpx or turn == 0:
                        seen.setdefault(client, []).append(measure(client, url, n_in_flight, n_of[client]))
            for name, client in clients:
                n, (wire_s, cpu_ms) = n_of[client], min(seen[client])
                ideal_s = -(-n // n_in_flight) * latency_s
                ratio = f"{wire_s / ideal_s:>9.2f}" if ideal_s else f"{'-':>9}"
                print(
                    f"{name:<14}{latency_s * 1000:>6.0f} ms{n_in_flight:>11}{wire_s:>9.2f}{ratio}{n / wire_s:>12.0f}{cpu_ms:>8.2f}",
                    flush=True,
                )
            server.terminate()


if __name__ == "__main__":
    main()
