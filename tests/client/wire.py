"""Servers of a few lines that say exactly these bytes, at exactly these moments."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval_pipelines.client.failures import Backoff
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.report import AskReport
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.records import Operation, Request, Response

QUICK = Backoff(base_s=0.005, cap_s=0.01)
Part = bytes | float  # what is written, or seconds of silence


def question(text: str = "2+2?", operation: Operation = "chat", **params: Any) -> Request:
    """One question, its text its only part."""
    if operation == "chat":
        messages = ({"role": "user", "content": text},)
        return Request(sample_id=f"s/{text}", subtask="s", operation="chat", messages=messages, params=params)
    return Request(
        sample_id=f"s/{text}", subtask="s", operation=operation, prompt=text, continuation=" 4", params=params
    )


def reply(body: str | bytes, status: str = "200 OK", kind: str = "application/json", extra: str = "") -> bytes:
    """A whole reply with its length."""
    data = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n{extra}\r\n"
    return head.encode() + data


def stream(*parts: Part, ends: bool = True) -> list[Part]:
    """A stream in chunks, one for each part; without its end if not `ends`."""
    written = [b"%x\r\n%s\r\n" % (len(one), one) if isinstance(one, bytes) else one for one in parts]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head, *written, *([b"0\r\n\r\n"] if ends else [])]


def event(data: Any, newline: str = "\n") -> bytes:
    """One event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}{newline}{newline}".encode()


@dataclass
class Wire:
    """What a server was asked, and how many of its connections are open."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    n_opened: int = 0
    n_open: int = 0


@contextlib.asynccontextmanager
async def serving(
    *replies: Sequence[Part], stays: bool = False, context: ssl.SSLContext | None = None
) -> AsyncIterator[Wire]:
    """Answers each request with the next of these replies, the last one for ever; hangs up after it unless `stays`."""
    wire = Wire()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.n_opened, wire.n_open = wire.n_opened + 1, wire.n_open + 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                wire.bodies.append(json.loads(await reader.readexactly(int(lengths[0]))))
                for part in replies[min(len(wire.bodies), len(replies)) - 1]:
                    if isinstance(part, bytes):
                        writer.write(part)
                        await writer.drain()
                    elif await _hung_up(reader, part):
                        return
                if not stays:
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            wire.n_open -= 1
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    scheme = "https" if context else "http"
    wire.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield wire
    finally:
        server.close()


async def _hung_up(reader: asyncio.StreamReader, seconds: float) -> bool:
    try:
        return not await asyncio.wait_for(reader.read(1), seconds)
    except TimeoutError:
        return False


async def asked(
    endpoint: Endpoint, folder: Path, requests: Sequence[Request], **limits: Any
) -> tuple[AskReport, list[Response]]:
    """Ask these requests; the outcomes in their order, without those that were not asked."""
    found: dict[str, Response] = {}
    with Journal(folder / "journal.jsonl") as journal:
        report = await ask(
            requests, len(requests), endpoint, journal=journal,
            limits=Limits(**{"max_attempts": 2, "backoff": QUICK, **limits}),
            on_outcome=lambda request, response: found.update({request.digest: response}),
        )  # fmt: skip
    return report, [found[request.digest] for request in requests if request.digest in found]
