"""One process at a time asks a model version a benchmark: evaluations with another `limit` want the same answers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from eval_pipelines.client.journal import Journal
from eval_pipelines.keys import digest

_LOOK_EVERY_S = 0.2


@asynccontextmanager
async def in_turn(journal: Journal, cell: list[str | None], on_wait: Callable[[], None]) -> AsyncIterator[None]:
    """Hold a cell, and then a journal of it, once nobody else does. Both are let go when the process dies.

    Args:
        cell: Who is asked what: the same for evaluations that want the same answers.
        on_wait: Called once if somebody else holds one of them.
    """
    turn = Journal(cell_path(journal.path.parent, cell))  # nothing is written to it
    told = False
    with ExitStack() as held:
        for one in (turn, journal):
            while True:
                try:
                    held.enter_context(one)
                    break
                except BlockingIOError:
                    if not told:
                        on_wait()
                        told = True
                    await asyncio.sleep(_LOOK_EVERY_S)
            if one is turn:
                held.callback(turn.remove)
        yield


def cell_path(journals: Path, cell: list[str | None]) -> Path:
    """The file whose holder asks the cell."""
    return journals / f"{digest(cell, n_bytes=8)}.turn"
