"""An OpenAI-shaped server that breaks on command, on the wire too: raw asyncio, in a process of its own.

It has one address for commands and several that answer ("faces"). It notes what it did to each attempt of each
prompt, so that a test can say what must have come of it. Run: python server.py N_FACES [CERTIFICATE KEY]; prints
the addresses as JSON. With a certificate, one more face speaks TLS.

POST /set    {face, faults, latency_s, closes_after_s, gone}: start anew
POST /gone   {face, s}: close the door and every connection, come back on the same port after s
POST /deaf   {face, s}: accept nobody for s
GET  /seen/N what face N noted
"""

import asyncio
import contextlib
import json
import socket
import ssl
import sys
import time
import zlib
from typing import Any

from faults import Connection, answer, commit, reply

HANDSHAKE_FAILURE = b"\x15\x03\x01\x00\x02\x02\x28"


def share_of(*parts: object) -> float:
    return zlib.crc32(repr(parts).encode()) % 100_003 / 100_003


class Face:
    """One address that answers.

    Each fault: kind; of [from, to) the share of prompts that meet it (default: all); first: only a prompt's first k
    attempts; until_s: only that long after the first request; is_new_each_time: drawn for each attempt, not for the
    prompt; salt: another draw; reused: only on a connection that was used before.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.context = context
        self.address: tuple[str, int] = ("127.0.0.1", 0)
        self.connections: dict[asyncio.Task[None], Connection] = {}
        self.doorman: asyncio.Task[None] | None = None
        self.set({})

    def set(self, plan: dict[str, Any]) -> None:
        self.plan, self.began = plan, 0.0
        self.noted: dict[str, list[str]] = {}
        self.n_accepted = self.n_requests = self.n_now = self.most_now = 0

    def open(self) -> None:
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.setblocking(False)
        self.listener.bind(self.address)
        self.listener.listen(1024)
        self.address = self.listener.getsockname()
        self.doorman = asyncio.create_task(self.accept())

    async def accept(self, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s)
        loop = asyncio.get_running_loop()
        while True:
            peer, _ = await loop.sock_accept(self.listener)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.n_accepted += 1
            task = asyncio.create_task(self.welcome(peer))
            task.add_done_callback(lambda task: self.connections.pop(task, None))

    async def deaf(self, seconds: float) -> None:
        assert self.doorman
        self.doorman.cancel()
        self.doorman = asyncio.create_task(self.accept(seconds))

    async def gone(self, seconds: float) -> None:
        assert self.doorman
        self.doorman.cancel()
        self.listener.close()
        for task, link in [*self.connections.items()]:
            link.reset()
            task.cancel()
        await asyncio.sleep(seconds)
        self.open()

    async def welcome(self, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, peer, ssl=self.context)
            link = Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
            task = asyncio.current_task()
            assert task
            self.connections[task] = link
            try:
                await self.serve(link)
            finally:
                link.close()

    async def serve(self, link: Connection) -> None:
        while True:
            first = await link.reader.readexactly(1)
            if first == b"\x16":  # a TLS greeting
                await link.send(HANDSHAKE_FAILURE)
                return
            head = first + await link.reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
            body = json.loads(await link.reader.readexactly(length) or b"{}")
            link.n_requests += 1
            self.n_now += 1
            self.most_now = max(self.most_now, self.n_now)
            try:
                if not await self.handle(link, head.split(b" ")[1].decode(), body):
                    return
            finally:
                self.n_now -= 1
            if (closes_after_s := self.plan.get("closes_after_s")) is not None:
                await asyncio.sleep(closes_after_s)
                return

    async def handle(self, link: Connection, _path: str, body: dict[str, Any]) -> bool:
        self.n_requests += 1
        self.began = self.began or time.monotonic()
        if self.n_requests == self.plan.get("gone", {}).get("at"):
            asyncio.get_running_loop().create_task(self.gone(self.plan["gone"]["s"]))
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        log = self.noted.setdefault(prompt, [])
        n = len(log)
        log.append("asked")
        kind = self.fault(prompt, n + 1, link)
        if kind and kind != "twice":
            log[n] = kind
            return await commit(kind, link)
        await link.pause(self.plan.get("latency_s", 0.0))
        if link.is_left:
            return False
        log[n] = "answer"  # whoever reads this after a kill must not count less than was sent
        await link.send(answer(body, prompt) * (2 if kind else 1))
        return True

    def fault(self, prompt: str, n_attempt: int, link: Connection) -> str | None:
        for fault in self.plan.get("faults", ()):
            salt = fault.get("salt", fault["kind"])
            drawn = share_of(salt, prompt, n_attempt if fault.get("is_new_each_time") else 0)
            low, high = fault.get("of", (0.0, 1.0))
            is_in_time = time.monotonic() - self.began < fault.get("until_s", 1e9)
            is_link = link.n_requests > 1 or not fault.get("reused")
            if low <= drawn < high and n_attempt <= fault.get("first", 10**9) and is_in_time and is_link:
                return str(fault["kind"])
        return None


class Control(Face):
    """The address for commands."""

    def __init__(self, faces: list[Face]) -> None:
        super().__init__()
        self.faces, self.tasks = faces, set[asyncio.Task[None]]()

    async def handle(self, link: Connection, path: str, body: dict[str, Any]) -> bool:
        word, _, number = path.strip("/").partition("/")
        face = self.faces[int(number or body.pop("face", 0))]
        told: dict[str, Any] = {}
        if word == "set":
            face.set(body)
        elif word == "seen":
            told = {"prompts": face.noted, "n_open": len(face.connections), "n_now": face.n_now}
            told |= {"most_now": face.most_now, "n_accepted": face.n_accepted, "n_requests": face.n_requests}
        else:
            task = asyncio.create_task(face.gone(body["s"]) if word == "gone" else face.deaf(body["s"]))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            await asyncio.sleep(0)  # begun before this is answered
        await link.send(reply(told))
        return True


async def main(n_faces: int, certificate: list[str]) -> None:
    faces = [Face() for _ in range(n_faces)]
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        faces.append(Face(context))
    control = Control(faces)
    for face in (control, *faces):
        face.open()
    urls = [f"http{'s' if face.context else ''}://127.0.0.1:{face.address[1]}" for face in (control, *faces)]
    print(json.dumps(urls), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
