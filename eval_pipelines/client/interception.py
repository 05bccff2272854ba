"""What interceptors see, when they see it, and what they may do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_pipelines.errors import AskingStoppedError
from eval_pipelines.records import Failure, Request

if TYPE_CHECKING:
    from eval_pipelines.client.report import AskReport
    from eval_pipelines.endpoint import Endpoint


class StopAsking(Exception):
    """Raised inside the client only: nothing more may be asked; what is in flight is awaited. Its text says why.

    Attributes:
        error: What the evaluation fails with, once everything answered is landed.
    """

    error: type[AskingStoppedError] = AskingStoppedError


class Refused(Exception):
    """Raised by `sending` only: this one request may not be sent. Its failure says why; the others go on."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(slots=True)
class Attempt:
    """One HTTP round trip, as an interceptor sees it.

    Attributes:
        body: What is sent, as JSON. Not to be changed here: it is what the request's digest stands for.
        headers: Sent in addition to the endpoint's own.
        reply, failure, latency_s: Set once it is over; a failure may come with the reply that was one.
        told: Response fields of each request that it asked, as the dialect read them; empty if it failed.
    """

    request: Request
    body: Mapping[str, Any]
    n_attempt: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    reply: dict[str, Any] | None = None
    failure: Failure | None = None
    latency_s: float = 0.0
    told: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """Where an interceptor of the attempt stage works.

    Attributes:
        folder: Where its files go; not there yet.
        environment: Values of variables, by the names that its options give. Never printed, logged or stored.
        log: Takes a line for the reader of the run.
    """

    folder: Path
    evaluation_id: str = ""
    run_id: str = ""
    model_key: str = ""
    benchmark: str = ""
    log: Callable[[str], object] = lambda _: None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


class Interceptor:
    """One interceptor of the attempt stage, for the time of one evaluation. What it leaves out does nothing."""

    name: str

    def begin(self, report: "AskReport", endpoint: "Endpoint") -> None:
        """Asking begins. The report is the live one: it counts while requests are asked."""

    def sending(self, attempt: Attempt) -> None:
        """Before it goes out. May add headers; may raise StopAsking or Refused."""

    def received(self, attempt: Attempt) -> None:
        """Once it is over, also if it was refused. May raise StopAsking."""

    async def finish(self) -> Mapping[str, Any]:
        """Asking is over, however it ended. Close what is open, in bounded time; plain JSON of what there is to tell."""
        return {}


def begin(interceptors: Sequence[Interceptor], report: "AskReport", endpoint: "Endpoint") -> None:
    """Tell all of them that asking begins."""
    for interceptor in interceptors:
        interceptor.begin(report, endpoint)


def send(interceptors: Sequence[Interceptor], attempt: Attempt) -> Failure | None:
    """Show an attempt to all of them, in order. Returns why it may not be sent, if so; raises StopAsking."""
    try:
        for interceptor in interceptors:
            interceptor.sending(attempt)
    except Refused as refused:
        attempt.failure = refused.failure
        return refused.failure
    return None


def receive(interceptors: Sequence[Interceptor], attempt: Attempt) -> None:
    """Show what an attempt came to to all of them, in reverse. Raises StopAsking, once all have seen it."""
    stop: StopAsking | None = None
    for interceptor in reversed(interceptors):
        try:
            interceptor.received(attempt)
        except StopAsking as wish:
            stop = stop or wish
    if stop:
        raise stop


async def finish(interceptors: Sequence[Interceptor]) -> dict[str, Mapping[str, Any]]:
    """Tell all of them that asking is over; what they have to tell, by their names. The second of a name gets `#2`."""
    told: dict[str, Mapping[str, Any]] = {}
    for interceptor in interceptors:
        found, name, n = await interceptor.finish(), interceptor.name, 1
        while name in told:
            n += 1
            name = f"{interceptor.name}#{n}"
        if found:
            told[name] = found
    return told
