"""The cheapest HTTP server that can stand in for an endpoint: what it costs is not what is measured.

Answers every POST after a fixed latency. GET /stats: requests, and the span from the first in to the last out.
"""

import asyncio
import json
import sys
import time

ANSWER = json.dumps(
    {
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "The answer is 42."}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 80, "completion_tokens": 6},
    }
).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
LATENCY_S = float(sys.argv[1])
SEEN = {"n": 0, "first": 0.0, "last": 0.0}


class Wire(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
            )
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            if head.startswith(b"GET"):
                self.send(json.dumps({"n": SEEN["n"], "span_s": SEEN["last"] - SEEN["first"]}).encode())
                SEEN.update(n=0, first=0.0)
                continue
            SEEN["n"] += 1
            SEEN["first"] = SEEN["first"] or time.perf_counter()
            if LATENCY_S:
                asyncio.get_running_loop().call_later(LATENCY_S, self.answer)
            else:
                self.answer()

    def answer(self) -> None:
        self.send(ANSWER)
        SEEN["last"] = time.perf_counter()

    def send(self, body: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(HEAD % len(body) + body)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Wire, "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


asyncio.run(main())
