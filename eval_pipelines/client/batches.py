"""Requests that one HTTP request asks: the repeats of a question, where the server draws several answers at once."""

from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

from eval_pipelines.records import Request

Batch = tuple[Request, ...]


def of_repeats(requests: Iterable[Request], n_at_most: int) -> Iterator[Batch]:
    """Requests that follow each other and differ in nothing but their repeat, put together; read lazily."""
    del n_at_most
    return ((request,) for request in requests)


def for_all(body: dict[str, Any], batch: Batch) -> dict[str, Any]:
    """The body that asks the first of a batch, asking all of it."""
    return {**body, "n": len(batch)}


def read(spoken: ModuleType, batch: Batch, reply: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Response fields of each request of a batch. Raises NoAnswer for a reply that holds none."""
    return [spoken.read(request, reply) for request in batch]
