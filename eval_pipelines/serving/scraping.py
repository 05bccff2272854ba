"""Look at a server's Prometheus metrics while it is asked, without getting in the way.

`async with Scraper(endpoint) as watched:` looks once at the start, now and then in between, and once at the end. A look
that fails is a record like any other; nothing here ever raises because of what a server says or does not say.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Final, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from eval_pipelines.client.transport import open_client
from eval_pipelines.endpoint import Endpoint, Replica
from eval_pipelines.records import ServerMetrics, utc_now
from eval_pipelines.serving.metrics import COUNTERS, NAMES, SHARES, Counters, ServerSummary, one_number, summarise

EVERY_S: Final = 1.0
_MOST_EVERY_S: Final = 60.0
# 1 % of the time that has passed: a look costs a Python server up to 15 ms, and is worth less the more there were
_RARER: Final = 0.01
_TIMEOUT_S: Final = 3.0
# compressing 100 KB costs the server more than sending them
_HEADERS: Final = {"accept": "text/plain", "accept-encoding": "identity"}


class Wanted:
    """Which of a server's series are ours.

    A name may pick series by their labels: `requests_total{outcome="ok"}`.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._picks = {name: _samples(f"{told} 0\n")[0] for name, told in names.items() if name in NAMES}
        told = "|".join(re.escape(name) for name in sorted({pick.name for pick in self._picks.values()}))
        self._ours = re.compile(rf"^(?:{told})[ \t{{].*$", re.MULTILINE)

    def read(self, text: str) -> dict[str, float]:
        """Our name → its value, over all series it picks; what is not there is left out. Raises ValueError."""
        # only our lines: parsing all of them took 25 ms for 1,400, in which nothing could be asked
        samples = _samples("\n".join(self._ours.findall(text)))
        found = {name: one_number(name, [s.value for s in samples if _is(s, p)]) for name, p in self._picks.items()}
        return {name: value for name, value in found.items() if value is not None}


def _samples(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def _is(sample: Sample, pick: Sample) -> bool:
    return sample.name == pick.name and pick.labels.items() <= sample.labels.items()


class Scraper(AbstractAsyncContextManager["Scraper"]):
    """The metrics of every server behind an endpoint, while the context is open. Use once.

    Attributes:
        records: One per look and server, in the order of time. Stays empty if no server tells its metrics.
    """

    def __init__(self, endpoint: Endpoint, *, every_s: float = EVERY_S) -> None:
        """Two looks are at least `every_s` seconds apart; see `interval_s`."""
        self.records: list[ServerMetrics] = []
        self._endpoint, self._every_s = endpoint, every_s
        self._wanted = Wanted(endpoint.metric_names)
        # behind one address there may be several servers, which then tell their metrics together
        by_url = {one.metrics_url: one for one in endpoint.addresses if one.metrics_url and endpoint.metric_names}
        self._servers = [(one, url, Counters()) for url, one in by_url.items()]
        self._open = self._looking()

    @property
    def summary(self) -> ServerSummary | None:
        """What it came to; None if there was nothing to look at."""
        return summarise(self.records)

    async def __aenter__(self) -> Self:
        await self._open.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _looking(self) -> AsyncIterator[None]:
        if not self._servers:
            yield
            return
        self._started_at, self._started = utc_now(), time.monotonic()
        async with open_client(replace(self._endpoint, headers=_HEADERS, request_timeout_s=_TIMEOUT_S)) as client:
            await self._look(client, self._started_at)
            task = asyncio.create_task(self._look_again(client), name="server metrics")
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait([task])
            await self._look(client, utc_now())

    async def _look_again(self, client: httpx.AsyncClient) -> None:
        while True:
            await asyncio.sleep(interval_s(time.monotonic() - self._started, self._every_s))
            await self._look(client, utc_now())

    async def _look(self, client: httpx.AsyncClient, at: datetime) -> None:
        told = await asyncio.gather(*(self._ask(client, one, url, seen) for one, url, seen in self._servers))
        for (replica, _, _), values in zip(self._servers, told, strict=True):
            fields = {"replica": replica.url, "started_at": self._started_at, "scraped_at": at, **values}
            self.records.append(ServerMetrics.model_validate(fields))

    async def _ask(
        self, client: httpx.AsyncClient, replica: Replica, url: str, counters: Counters
    ) -> Mapping[str, float | str]:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                reply = await client.get(url, headers=dict(replica.headers))
            if reply.status_code != httpx.codes.OK:
                return {"failure": f"HTTP {reply.status_code}"}
            told = self._wanted.read(reply.content.decode(errors="replace"))
        except Exception as error:  # noqa: BLE001 - whatever a server says, the asking beside us must not fail for it
            # its kind only: a message may repeat a header
            return {"failure": type(error).__name__}
        counted = {**told, **counters.advance(told, COUNTERS)}
        return {name: value if name in SHARES else round(value) for name, value in counted.items()}


def interval_s(passed_s: float, every_s: float = EVERY_S) -> float:
    """Seconds to the next look, so that two seconds get three looks and ten hours some 1,000."""
    return max(every_s, min(passed_s * _RARER, _MOST_EVERY_S))
