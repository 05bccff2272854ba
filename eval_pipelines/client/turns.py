"""No two processes ask a model version the same question at once, whatever benchmark, limit or repeats it stands in.

Who wants to ask stands in line, with a file that it holds to its end: the digests of its requests. It waits for those
before it that want one of its own, and for nobody else: no two ever wait for each other.
"""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from eval_pipelines.client.journal import Journal, not_opened, not_written
from eval_pipelines.client.shared_file import claim, is_claimed

_LOOK_EVERY_S = 0.2
_LINE_UP_EVERY_S = 0.01  # whoever stands in line does so in milliseconds
_LINE_UP_AT_MOST_S = 1.0  # longer: it is stopped, or the disk hangs


@asynccontextmanager
async def in_turn(
    journal: Journal, version: str, digests: AbstractSet[str], on_wait: Callable[[], None]
) -> AsyncIterator[None]:
    """Hold questions, and then a journal, once nobody else does. Both are let go when the process dies.

    Args:
        version: Of the model that is asked, or whatever else names a line of its own; safe in a file's name.
        digests: Of all requests that may be asked.
        on_wait: Called once if somebody else holds the journal or one of the questions.

    Raises:
        WarehouseError: the disk is full, or the journals' folder or a file in it not this user's.
    """
    told = False

    async def wait() -> None:
        nonlocal told
        if not told:
            on_wait()
            told = True
        await asyncio.sleep(_LOOK_EVERY_S)

    with ExitStack() as held:
        for place in await _line_up(journal.path.parent, version, digests, held, wait):
            while _is_held(place):
                await wait()
        while not _takes(journal, held):
            await wait()
        yield


async def _line_up(
    folder: Path, version: str, digests: AbstractSet[str], held: ExitStack, wait: Callable[[], Awaitable[None]]
) -> list[Path]:
    """Stand behind those who want some of these questions; returns their places."""
    line = Journal(folder / f"{version}.line")  # nothing is written to it
    patience_until = time.monotonic() + _LINE_UP_AT_MOST_S
    with ExitStack() as in_front:
        while not _takes(line, in_front):
            is_slow = time.monotonic() > patience_until
            await (wait() if is_slow else asyncio.sleep(_LINE_UP_EVERY_S))
        in_front.callback(line.remove)  # whatever happens: another user could not open it
        before = [place for place in _claimed(folder, version) if _wants_any(place, digests)]
        _stand(folder / f"{version}-{secrets.token_hex(4)}.asks", digests, held)
    return before


def _stand(place: Path, digests: AbstractSet[str], held: ExitStack) -> None:
    try:
        held.callback(os.close, claim(place))
        held.callback(place.unlink, missing_ok=True)
        with place.open("w") as file:
            file.writelines(f"{one}\n" for one in digests)
    except OSError as error:
        raise not_written(place, error) from error


def _claimed(folder: Path, version: str) -> Iterator[Path]:
    for place in folder.glob(f"{version}-*.asks"):
        if _is_held(place):
            yield place
        else:  # left by one that was killed
            place.unlink(missing_ok=True)


def _is_held(place: Path) -> bool:
    try:
        return is_claimed(place)
    except OSError as error:  # another user's
        raise not_opened(place, error) from error


def _wants_any(place: Path, digests: AbstractSet[str]) -> bool:
    try:
        with place.open() as file:
            return any(line.rstrip("\n") in digests for line in file)
    except FileNotFoundError:  # done meanwhile
        return False


def _takes(journal: Journal, held: ExitStack) -> bool:
    try:
        held.enter_context(journal)
    except BlockingIOError:
        return False
    return True
