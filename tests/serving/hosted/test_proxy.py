"""A company's proxy on the way to a hosted address: a real one, which tells what went through it."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator

import pytest

from eval_pipelines.errors import ConfigError, ServingError

from .borrowing import KEY, ask_one, borrow, deployment

CREDENTIALS = "eve:pass:word"
BASIC = "basic " + base64.b64encode(CREDENTIALS.encode()).decode().lower()


class Proxy:
    """Forwards plain HTTP to one server whatever host is asked for; refuses tunnels, and remembers who wanted one."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heads: list[list[str]] = []

    @property
    def firsts(self) -> list[str]:
        return [head[0] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            self.heads.append([head[0], *(line.lower() for line in head[1:] if line)])
            method, target, _ = head[0].split(" ")
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
            else:
                kept = [line for line in head[1:] if line and not line.lower().startswith(("connection", "proxy-"))]
                path = "/" + target.split("/", 3)[3]
                lines = [f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""]
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.port)
                up_writer.write("\r\n".join(lines).encode())
                sizes = [int(line.split(":")[1]) for line in kept if line.lower().startswith("content-length")]
                up_writer.write(await reader.readexactly(sum(sizes)))
                writer.write(await up_reader.read())
                up_writer.close()
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def proxy_to(root: str) -> AsyncIterator[tuple[Proxy, str]]:
    proxy = Proxy(int(root.rsplit(":", 1)[1]))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with server:
        yield proxy, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_hosted_address_is_asked_through_the_proxy(tmp_path, stand_in) -> None:
    async with proxy_to(stand_in.root) as (proxy, url):
        how = deployment(f"base_url: 'http://models.example/v1', proxy: '{url}'")
        async with borrow(tmp_path, how) as endpoint:
            assert [one.text for one in await ask_one(tmp_path, endpoint)] == ["fourteen"]
    assert proxy.firsts[-1] == "POST http://models.example/v1/chat/completions HTTP/1.1"


async def test_the_proxys_credentials_come_from_their_variable_and_are_never_shown(tmp_path, stand_in) -> None:
    async with proxy_to(stand_in.root) as (proxy, url):
        how = deployment(f"base_url: 'http://models.example/v1', proxy: '{url}', proxy_credentials_env: PROXY_USER")
        async with borrow(tmp_path, how, PROXY_USER=CREDENTIALS) as endpoint:
            assert "pass:word" not in repr(endpoint)
    assert all(f"proxy-authorization: {BASIC}" in head for head in proxy.heads)


@pytest.mark.slow
async def test_a_secure_address_is_tunnelled_and_the_key_stays_hidden_from_the_proxy(tmp_path, stand_in) -> None:
    async with proxy_to(stand_in.root) as (proxy, url):
        how = deployment(f"provider: openai, base_url: 'https://models.example/v1', proxy: '{url}'")
        with pytest.raises(ServingError, match=r"https://models\.example/v1 did not answer") as caught:
            async with borrow(tmp_path, how, OPENAI_API_KEY=KEY):
                pass
    assert set(proxy.firsts) == {"CONNECT models.example:443 HTTP/1.1"}
    assert KEY not in str(proxy.heads) + str(caught.value)


async def test_loopback_is_never_asked_through_a_proxy(tmp_path, stand_in) -> None:
    async with proxy_to(stand_in.root) as (proxy, url):
        how = deployment(f"base_url: '{stand_in.root}/v1', proxy: '{url}'")
        async with borrow(tmp_path, how) as endpoint:
            await ask_one(tmp_path, endpoint)
        named = deployment(f"base_url: '{stand_in.root.replace('127.0.0.1', 'localhost')}/v1', proxy: '{url}'")
        async with borrow(tmp_path, named) as endpoint:
            await ask_one(tmp_path, endpoint)
    assert proxy.firsts == []


@pytest.mark.slow
async def test_the_environments_proxies_are_not_used(tmp_path, stand_in, monkeypatch) -> None:
    async with proxy_to(stand_in.root) as (proxy, url):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, url)
        with pytest.raises(ServingError):
            async with borrow(tmp_path, deployment("base_url: 'http://models.invalid/v1'")):
                pass
    assert proxy.firsts == []


@pytest.mark.parametrize("value", ["eve", ":word"])
async def test_credentials_of_another_shape_are_refused_and_not_shown(tmp_path, value) -> None:
    how = deployment("provider: openai, proxy: 'http://proxy.example:3128', proxy_credentials_env: PROXY_USER")
    with pytest.raises(ConfigError, match="PROXY_USER must read user:password") as caught:
        async with borrow(tmp_path, how, OPENAI_API_KEY=KEY, PROXY_USER=value):
            pass
    assert f" {value}" not in str(caught.value)
