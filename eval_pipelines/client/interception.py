"""What interceptors see, and the order in which they see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from eval_pipelines.errors import AskingStoppedError
from eval_pipelines.records import Failure, Request


class StopAsking(Exception):
    """Raised inside the client only: nothing more may be asked; what is in flight is awaited. Its text says why.

    Attributes:
        error: What the evaluation fails with, once everything answered is landed.
    """

    error: type[AskingStoppedError] = AskingStoppedError


@dataclass(slots=True)
class Attempt:
    """One HTTP round trip, as an interceptor sees it.

    Attributes:
        body: What is sent, as JSON. Not to be changed here: it is what the request's digest stands for.
        headers: Sent in addition to the endpoint's own.
        reply, failure, latency_s: Set once it is over; a failure may come with the reply that was one.
    """

    request: Request
    body: Mapping[str, Any]
    n_attempt: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    reply: dict[str, Any] | None = None
    failure: Failure | None = None
    latency_s: float = 0.0


class Interceptor(Protocol):
    """One interceptor of the attempt stage, for the time of one evaluation."""

    def sending(self, attempt: Attempt) -> None:
        """Before it goes out. May add headers; may raise StopAsking."""

    def received(self, attempt: Attempt) -> None:
        """Once it is over. May raise StopAsking."""
