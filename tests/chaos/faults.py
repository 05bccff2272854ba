"""What each fault puts on the wire. Part of the server: no project code is imported here."""

import asyncio
import json
import socket
import zlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

FOREVER_S = 3600.0


class Connection:
    """One connection, and what a framework would not do with it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.n_requests = 0

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def pause(self, seconds: float) -> None:
        """Sleep as long as somebody is there."""
        ends = asyncio.get_running_loop().time() + seconds
        while not self.is_left and (left := ends - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, 0.02))

    @property
    def is_left(self) -> bool:
        return self.reader.at_eof() or self.reader.exception() is not None or self.writer.is_closing()

    def reset(self) -> None:
        # lingering for zero seconds turns the close into a reset
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()


def reply(body: Any, status: str = "200 OK", *headers: str, media_type: str = "application/json") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"content-type: {media_type}", f"content-length: {len(content)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode(errors="surrogateescape") + content


def answer(asked: dict[str, Any], prompt: str) -> bytes:
    """The calm answer, which depends on nothing but the prompt; as a stream where one was asked for."""
    text = f"I think it is {zlib.crc32(prompt.encode())}."
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": 5}
    is_chat, at = "messages" in asked, {"index": 0, "finish_reason": "stop"}
    if not asked.get("stream"):
        said = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        return reply({"choices": [{**at, **said}], "usage": usage})
    parts = [text[:4], text[4:]]
    told = [
        {"choices": [{"index": 0, **({"delta": {"content": part}} if is_chat else {"text": part})}]} for part in parts
    ]
    last = {"choices": [{**at, **({"delta": {}} if is_chat else {"text": ""})}]}
    events = [json.dumps(event) for event in (*told, last, {"choices": [], "usage": usage})] + ["[DONE]"]
    return reply("".join(f"data: {event}\n\n" for event in events).encode(), media_type="text/event-stream")


def error(message: str, status: str, *headers: str, **fields: Any) -> bytes:
    return reply({"error": {"message": message, **fields}}, status, *headers)


def in_a_second() -> tuple[str, str]:
    now = datetime.now(UTC)
    return (
        f"date: {format_datetime(now, usegmt=True)}",
        f"retry-after: {format_datetime(now + timedelta(seconds=1), usegmt=True)}",
    )


HTML = b"<html><body>502 Bad Gateway</body></html>"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHOICE = {"index": 0, "finish_reason": "stop"}
LONGEST = 50_000_000

PAGES: dict[str, Callable[[], bytes]] = {
    "429": lambda: error("slow down", "429 Too Many Requests"),
    "429 seconds": lambda: error("slow down", "429 Too Many Requests", "retry-after: 0.2"),
    "429 date": lambda: error("slow down", "429 Too Many Requests", *in_a_second()),
    "429 nonsense": lambda: error("slow down", "429 Too Many Requests", "retry-after: when I am ready"),
    "500": lambda: error("it broke", "500 Internal Server Error"),
    "502 html": lambda: reply(HTML, "502 Bad Gateway", media_type="text/html"),
    "503": lambda: error("warming up", "503 Service Unavailable"),
    "529": lambda: error("overloaded", "529 Overloaded"),
    "400": lambda: error("temperature must be a number", "400 Bad Request"),
    "400 context": lambda: error("This model's maximum context length is 2048 tokens", "400 Bad Request"),
    "401": lambda: error("the key has expired", "401 Unauthorized"),
    "error in 200": lambda: reply({"error": {"message": "the engine is overloaded, try again"}}),
    "refusal in 200": lambda: reply({"error": {"message": "no such adapter", "code": 404}}),
    "no choices": lambda: reply({"choices": []}),
    "null content": lambda: reply({"choices": [{**CHOICE, "text": None, "message": {"content": None}}]}),
    "truncated JSON": lambda: reply(b'{"choices": [{"index": 0, "text": "I th'),
    "too short a length": lambda: HEAD + b'content-length: 20\r\n\r\n{"choices": [{"index": 0, "text": "I think"}]}',
    "html in 200": lambda: reply(HTML, media_type="text/html"),
    "no gzip": lambda: reply({"choices": []}, "200 OK", "content-encoding: gzip"),
    "filtered": lambda: reply({"choices": [{"index": 0, "text": "", "finish_reason": "content_filter"}]}),
    "not HTTP": lambda: b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "no text": lambda: reply(b"\xff\xfe\0\x01"),
    "huge": lambda: reply(b" " * LONGEST),
    "204": lambda: b"HTTP/1.1 204 No Content\r\n\r\n",
    "101": lambda: b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "header bytes": lambda: error("it broke", "500 Internal Server Error", "x-note: caf\udce9 \udcff"),
    "nested too deep": lambda: reply(b"[" * 90_000, "400 Bad Request"),
    "code that is no number": lambda: reply({"error": {"message": "no", "code": "\u00b2"}}),
    "half a character": lambda: reply(b'{"error": {"message": "bad \\ud83d"}}', "400 Bad Request"),
}


async def _in_headers(link: Connection) -> None:
    await link.send(HEAD[:30])
    await link.pause(0.01)


async def _in_body(link: Connection, n_bytes: int = 20) -> None:
    await link.send(HEAD + b"content-length: 1000000\r\n\r\n" + b" " * n_bytes)
    await link.pause(0.02)


async def _drip(link: Connection) -> None:
    await link.send(HEAD + b"content-length: 1000\r\n\r\n")
    for _ in range(1000):
        if link.is_left:
            return
        await link.send(b" ")
        await link.pause(1.0)


async def _stall(link: Connection) -> None:
    await link.send(HEAD + b"content-length: 1000\r\n\r\n")
    await link.pause(FOREVER_S)


async def _headers_without_end(link: Connection) -> None:
    await link.send(HEAD)
    while not link.is_left:
        await link.send(b"x-more: " + b"x" * 60_000 + b"\r\n")


async def _body_without_end(link: Connection) -> None:
    await link.send(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    while not link.is_left:
        await link.send(b"1000\r\n" + b" " * 4096 + b"\r\n")
        await link.pause(0.02)


async def _cut_chunks(link: Connection) -> None:
    await link.send(HEAD + b'transfer-encoding: chunked\r\n\r\n8\r\n{"choice\r\n40\r\ns": [')
    await link.pause(0.02)


# what only a stream can do: how it begins, after a piece of text, and how it goes on
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PIECE = {"choices": [{"index": 0, "text": "I th", "finish_reason": None}]}
LAST_CHUNK = b"0\r\n\r\n"


def event(told: Any) -> bytes:
    return chunk(b"data: " + (told if isinstance(told, bytes) else json.dumps(told).encode()) + b"\n\n")


def chunk(part: bytes) -> bytes:
    return f"{len(part):x}\r\n".encode() + part + b"\r\n"


STREAMS: dict[str, Callable[[], bytes]] = {
    "stream with an error": lambda: event(PIECE) + event({"error": {"message": "the engine died", "code": 503}}),
    "stream without end": lambda: event(PIECE),
    "stream that ends in a line": lambda: event(PIECE) + chunk(b'data: {"choices": [{"ind'),
    "stream with no JSON": lambda: event(PIECE) + event(b"{I think"),
    "stream with no chunk": lambda: event(PIECE) + event([1]),
    "stream with no text": lambda: event(PIECE) + chunk(b"data: \xff\xfe\n\n"),
    "stream of nothing": lambda: event(b"[DONE]"),
    "stream that is filtered": lambda: (
        event(PIECE)
        + event({"choices": [{**CHOICE, "text": "", "finish_reason": "content_filter"}]})
        + event(b"[DONE]")
    ),
}


async def _begin_stream(link: Connection) -> None:
    await link.send(STREAM, event(PIECE))
    await link.pause(0.02)


async def _silent_stream(link: Connection) -> None:
    await link.send(STREAM)
    await link.pause(FOREVER_S)


async def _stream_falls_silent(link: Connection) -> None:
    await _begin_stream(link)
    await link.pause(FOREVER_S)


async def _endless_stream(link: Connection, part: bytes = event(PIECE)) -> None:
    await link.send(STREAM)
    while not link.is_left:
        await link.send(part)
        await link.pause(0.02)


async def _endless_line(link: Connection) -> None:
    await _endless_stream(link, chunk(b"data: " + b" " * 4096))


Break = tuple[Callable[[Connection], Awaitable[None]], str]


async def _nothing(link: Connection) -> None:
    pass


async def _long_body(link: Connection) -> None:
    await _in_body(link, 300_000)


# how far it gets, and how it ends: "reset", "close", or "" if only the client ends it
BREAKS: dict[str, Break] = {
    "reset before the reply": (_nothing, "reset"),
    "reset in the headers": (_in_headers, "reset"),
    "reset in the body": (_in_body, "reset"),
    "reset in a long body": (_long_body, "reset"),
    "closed before the reply": (_nothing, "close"),
    "closed in the headers": (_in_headers, "close"),
    "closed in the body": (_in_body, "close"),
    "closed in a long body": (_long_body, "close"),
    "chunks cut": (_cut_chunks, "close"),
    "drip": (_drip, ""),
    "stall after the headers": (_stall, ""),
    "never": (lambda link: link.pause(FOREVER_S), ""),
    "headers without end": (_headers_without_end, ""),
    "body without end": (_body_without_end, ""),
    "stream is closed": (_begin_stream, "close"),
    "stream is reset": (_begin_stream, "reset"),
    "stream is silent": (_silent_stream, ""),
    "stream falls silent": (_stream_falls_silent, ""),
    "stream of tokens without end": (_endless_stream, ""),
    "stream of one line without end": (_endless_line, ""),
}


async def commit(kind: str, link: Connection) -> bool:
    """Do it. True if the connection can be used on."""
    if kind in PAGES:
        page = PAGES[kind]()
        await link.send(page)
        is_whole = kind not in ("not HTTP", "too short a length", "101")
        if not is_whole:
            link.close()
        return is_whole
    if kind in STREAMS:
        await link.send(STREAM + STREAMS[kind]() + LAST_CHUNK)
        return True
    begin, end = BREAKS[kind]
    await begin(link)
    if end == "reset":
        link.reset()
    else:
        link.close()
    return False
