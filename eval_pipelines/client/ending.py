"""How asking ends early: whoever waits to ask is let go at once, and what is on the wire is awaited."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class IsOver(Exception):
    """Raised inside the client only: asking has ended, this attempt is not made."""


class Ending:
    """Whether the asking of one evaluation has ended, and who waits within it."""

    def __init__(self) -> None:
        self.is_over = False
        self._waiting: set[asyncio.Task[Any]] = set()

    def end(self) -> None:
        """From now on nobody asks."""
        self.is_over = True
        for worker in self._waiting:
            worker.cancel()

    @contextmanager
    def waits(self) -> Iterator[None]:
        """Nothing of the task that waits within is on the wire: `end` cancels it.

        Raises:
            IsOver: it has ended already.
        """
        self.raise_if_over()
        worker = asyncio.current_task()
        assert worker is not None, "only a task can wait"
        self._waiting.add(worker)
        try:
            yield
        finally:
            self._waiting.discard(worker)

    def raise_if_over(self) -> None:
        """Raises IsOver."""
        if self.is_over:
            raise IsOver
