"""Looking at real HTTP servers that fail, hang and restart, while nobody notices."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from eval_pipelines.endpoint import Endpoint, Replica
from eval_pipelines.serving import scraping
from eval_pipelines.serving.scraping import Scraper

NAMES = {"n_running": "x_running", "generation_tokens": "x_tokens_total", "kv_cache_share": "x_share"}


class Told:
    """A server of metrics only. `reply` says what one request gets: a text, a status, "hang" or "hang up"."""

    def __init__(self, reply: Callable[["Told"], str | int] = lambda told: told.text()) -> None:
        self.reply, self.tokens, self.running = reply, 0, 0
        self.heads: list[str] = []
        self.port = 0

    def text(self) -> str:
        return f'x_running{{e="0"}} {self.running}\nx_tokens_total {self.tokens}\nx_share 0.5\n'

    @property
    def replica(self) -> Replica:
        root = f"http://127.0.0.1:{self.port}"
        return Replica(f"{root}/v1", {"authorization": f"Bearer {self.port}"}, f"{root}/metrics")

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head.decode().lower())
                reply = self.reply(self)
                if reply == "hang up":
                    break
                if reply == "hang":
                    await asyncio.sleep(60)
                status, body = (reply, "") if isinstance(reply, int) else (200, reply)
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Told"]:
        server = await asyncio.start_server(self.answer, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


def endpoint(*servers: Told, **fields: object) -> Endpoint:
    values: dict[str, object] = {"replicas": tuple(one.replica for one in servers), "metric_names": NAMES, **fields}
    return Endpoint("http://127.0.0.1:9/v1", "m", "test", **values)  # type: ignore[arg-type]


async def until(is_so: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that in time"
        await asyncio.sleep(0.005)


async def test_the_shortest_evaluation_has_a_first_and_a_last_look() -> None:
    async with Told().serving() as server, Scraper(endpoint(server)) as watched:
        server.tokens = 70
    assert [one.generation_tokens for one in watched.records] == [0, 70]
    assert watched.summary is not None
    assert watched.summary.n_failed_scrapes == 0


async def test_it_looks_again_and_again_in_between() -> None:
    async with Told().serving() as server, Scraper(endpoint(server), every_s=0.01) as watched:
        server.running = 3
        await until(lambda: len(watched.records) >= 5)
    moments = [one.scraped_at for one in watched.records]
    assert moments == sorted(set(moments))
    assert watched.summary is not None
    assert watched.summary.n_running_max == 3


async def test_each_replica_is_asked_with_its_own_headers_and_for_plain_text() -> None:
    async with Told().serving() as one, Told().serving() as two:
        async with Scraper(endpoint(one, two, headers={"authorization": "Bearer of the endpoint"})) as watched:
            one.tokens, two.tokens = 10, 20
        for server in (one, two):
            assert len(server.heads) == 2
            assert all(f"authorization: bearer {server.port}\r\n" in head for head in server.heads)
            assert all("accept-encoding: identity\r\n" in head for head in server.heads)
    assert {record.replica for record in watched.records} == {one.replica.url, two.replica.url}
    assert watched.summary is not None
    assert watched.summary.generation_tokens_per_s == pytest.approx(30 / watched.summary.watched_s)


async def test_replicas_behind_one_metrics_address_are_counted_once() -> None:
    async with Told().serving() as server, Scraper(endpoint(server, server)) as watched:
        pass
    assert len(watched.records) == 2


async def test_a_restart_is_bridged_and_the_looks_in_between_are_counted_as_failed() -> None:
    server = Told()
    async with server.serving():
        server.tokens = 500
        watch = Scraper(endpoint(server), every_s=0.01)
        await watch.__aenter__()
        server.tokens = 600
        await until(lambda: watch.records[-1].generation_tokens == 100)
        server.reply = lambda told: "hang up"  # the process is gone, and with it its connections
    await until(lambda: watch.records[-1].failure is not None)
    server.tokens, server.reply = 7, lambda told: told.text()
    async with server.serving():
        await until(lambda: watch.records[-1].generation_tokens == 107)
        await watch.__aexit__(None, None, None)
    assert watch.summary is not None
    assert watch.summary.n_failed_scrapes >= 1


@pytest.mark.parametrize(
    ("reply", "failure"),
    [(503, "HTTP 503"), (404, "HTTP 404"), (302, "HTTP 302"), ("hang up", "Error"), ("x_running many", "ValueError")],
)
async def test_a_failed_look_is_counted_and_not_raised(reply, failure) -> None:
    async with Told(lambda told: reply).serving() as server, Scraper(endpoint(server)) as watched:
        pass
    assert watched.summary is not None
    assert (watched.summary.n_scrapes, watched.summary.n_failed_scrapes) == (2, 2)
    assert all(failure in (one.failure or "") for one in watched.records)


async def test_one_failing_replica_does_not_hide_the_other() -> None:
    async with Told().serving() as one, Told(lambda told: 500).serving() as two, Scraper(endpoint(one, two)) as watched:
        one.tokens = 9
    assert watched.summary is not None
    assert (watched.summary.n_replicas, watched.summary.n_failed_scrapes) == (2, 2)
    assert watched.summary.generation_tokens_per_s == pytest.approx(9 / watched.summary.watched_s)


async def test_a_page_that_is_no_metrics_tells_nothing() -> None:
    async with Told(lambda told: "<html>hello</html>").serving() as server, Scraper(endpoint(server)) as watched:
        pass
    assert watched.summary is not None
    assert (watched.summary.n_failed_scrapes, watched.summary.n_running_max) == (0, None)


async def test_a_server_that_hangs_costs_a_short_timeout_at_the_ends_and_nothing_in_between(monkeypatch) -> None:
    monkeypatch.setattr(scraping, "_TIMEOUT_S", 0.2)
    async with Told(lambda told: "hang").serving() as server:
        started = time.monotonic()
        async with Scraper(endpoint(server), every_s=0.01) as watched:
            entered_s = time.monotonic() - started
            await asyncio.sleep(0.05)  # the second look hangs now
            asked_at = time.monotonic()
        left_s = time.monotonic() - asked_at
    assert entered_s < 1
    assert left_s < 1
    # the client's own limit and ours are the same
    assert len(watched.records) == 2
    assert {one.failure for one in watched.records} <= {"TimeoutError", "ConnectTimeout", "ReadTimeout"}


async def test_an_error_of_the_asking_goes_through_and_nothing_keeps_running() -> None:
    async with Told().serving() as server:
        with pytest.raises(ZeroDivisionError):
            async with Scraper(endpoint(server), every_s=0.01) as watched:
                raise ZeroDivisionError
        n_looks = len(watched.records)
        await asyncio.sleep(0.1)
    assert len(watched.records) == n_looks == 1
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "server metrics"]


@pytest.mark.parametrize("fields", [{"metric_names": {}}, {"replicas": ()}])
async def test_a_server_that_tells_no_metrics_is_not_looked_at(fields) -> None:
    async with Told().serving() as server, Scraper(endpoint(server, **fields)) as watched:
        await asyncio.sleep(0.01)
    assert (watched.records, watched.summary, server.heads) == ([], None, [])
