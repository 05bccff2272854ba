"""progress_webhook: tells an address how far the asking is, in the background.

One call at a time, each within `timeout_s`; what a slow address missed is in the next call. One that does not answer is
named once in the run's log, without its address, and changes nothing else.

Stage   attempt
Source  NeMo Evaluator, "Progress Tracking Interceptor"
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eval_pipelines.client.interception import Attempt, Context, Interceptor
from eval_pipelines.records import utc_now

if TYPE_CHECKING:
    from eval_pipelines.client.report import AskReport
    from eval_pipelines.endpoint import Endpoint


class Spec(BaseModel):
    """Options of progress_webhook."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    url: str | None = Field(default=None, description="Where to tell it; no secrets.")
    url_env: str | None = Field(
        default=None, pattern=r"^[A-Za-z_]\w*$", description="Name of the variable that holds the address."
    )
    every: int | None = Field(default=10, ge=1, description="Attempts between two calls; null: only by time.")
    every_s: float | None = Field(default=None, gt=0, description="Seconds between two calls, if anything was asked.")
    method: Literal["PATCH", "POST", "PUT"] = Field(default="PATCH", description="Of the HTTP request.")
    timeout_s: float = Field(default=5, gt=0, le=60, description="Seconds one call may take; also the last one.")

    @field_validator("url")
    @classmethod
    def _is_a_plain_address(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        if url is not None and ("@" in url or "?" in url or "#" in url):
            raise ValueError("holds a query or credentials: name a variable that holds the address in `url_env`")
        return url

    @model_validator(mode="after")
    def _one_address_and_a_rhythm(self) -> Self:
        if (self.url is None) == (self.url_env is None):
            raise ValueError("needs exactly one of `url` and `url_env`")
        if self.every is None and self.every_s is None:
            raise ValueError("needs `every` or `every_s`")
        return self


@dataclass(slots=True)
class _Webhook(Interceptor):
    spec: Spec
    context: Context
    name: str = "progress_webhook"
    n: int = 0
    n_calls: int = 0
    n_failed_calls: int = 0
    _n_at_last: int = 0
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    _report: "AskReport | None" = None
    _task: "asyncio.Task[None] | None" = None
    _is_over: bool = False

    def begin(self, report: "AskReport", endpoint: "Endpoint") -> None:
        del endpoint
        self._report = report
        self._task = asyncio.get_running_loop().create_task(self._tell())

    def received(self, attempt: Attempt) -> None:
        del attempt
        self.n += 1
        if self.spec.every and self.n % self.spec.every == 0:
            self._due.set()

    async def _tell(self) -> None:
        # only where it is used: the configuration imports this file everywhere
        import httpx

        url = self.spec.url or self.context.environment.get(self.spec.url_env or "", "").strip()
        if not url:
            self.context.log(
                f"progress_webhook: the environment variable {self.spec.url_env} is not set: nobody is told"
            )
            return
        # a client of httpx logs the address of each request, which may be a secret; its transport does not
        async with httpx.AsyncHTTPTransport(trust_env=False) as transport:
            is_last = False
            while not is_last:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._due.wait(), self.spec.every_s)
                self._due.clear()
                is_last = self._is_over
                if self.n != self._n_at_last or is_last:
                    self._n_at_last = self.n
                    await self._call(transport, url)
                if self._is_over:
                    self._due.set()

    async def _call(self, transport: Any, url: str) -> None:
        import httpx

        started, why = time.monotonic(), ""
        try:
            async with asyncio.timeout(self.spec.timeout_s):
                request = httpx.Request(self.spec.method, url, json=self._progress())
                reply = await transport.handle_async_request(request)
                await reply.aread()
            why = "" if reply.is_success else f"HTTP {reply.status_code}"
        # its text may hold the address, which may be a secret
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, OSError) as error:
            why = f"{type(error).__name__} after {time.monotonic() - started:.1f} s"
        self.n_calls += 1
        if why:
            self.n_failed_calls += 1
            if self.n_failed_calls == 1:
                self.context.log(f"progress_webhook: its address does not take what it is told ({why}); said once")

    def _progress(self) -> dict[str, Any]:
        context, report = self.context, self._report
        counts = {} if report is None else {
            "progress": report.n_done,
            "n_requests": report.n_requests,
            "n_answered": report.n_answered,
            "n_failed": report.n_failed,
        }  # fmt: skip
        return {
            "evaluation_id": context.evaluation_id,
            "run_id": context.run_id,
            "model": context.model_key,
            "benchmark": context.benchmark,
            **counts,
            "n_attempts": self.n,
            "is_over": self._is_over,
            "at": utc_now().isoformat(timespec="milliseconds"),
        }

    async def finish(self) -> Mapping[str, Any]:
        self._is_over = True
        self._due.set()
        if self._task is not None:
            # a call that is under way, and the last one
            await asyncio.wait([self._task], timeout=2 * self.spec.timeout_s)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        return {"n_calls": self.n_calls, "n_failed_calls": self.n_failed_calls} if self.n else {}


def attempt(spec: Spec, context: Context) -> Interceptor:
    """Tells it."""
    return _Webhook(spec, context)
