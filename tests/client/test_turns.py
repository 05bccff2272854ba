"""Whoever wants a question that another asks waits for it, and for nobody else."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval_pipelines.client.journal import Journal
from eval_pipelines.client.turns import in_turn
from eval_pipelines.errors import WarehouseError

pytestmark = pytest.mark.unit

HOLDER = """
import asyncio, pathlib, sys
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.turns import in_turn

async def hold():
    async with in_turn(Journal(pathlib.Path(sys.argv[1]) / "other.jsonl"), "v", {"a", "b"}, lambda: None):
        print("holds", flush=True)
        await asyncio.sleep(600)

asyncio.run(hold())
"""


class Line:
    """Who asks now, who did and who waited."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asking: list[set[tuple[str, str]]] = []
        self.n_most = 0
        self.done: list[str] = []
        self.waited: list[str] = []

    async def ask(self, name: str, *digests: str, version: str = "v") -> None:
        journal, wanted = Journal(self.folder / f"{name}.jsonl"), {(version, one) for one in digests}
        async with in_turn(journal, version, {*digests}, lambda: self.waited.append(name)):
            assert not any(one & wanted for one in self.asking)
            self.asking.append(wanted)
            self.n_most = max(self.n_most, len(self.asking))
            await asyncio.sleep(0.05)
            self.asking.remove(wanted)
            journal.remove()
        self.done.append(name)


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


async def test_who_wants_what_each_of_the_others_wants_too_comes_to_its_turn(line) -> None:
    ring = {"one": "ab", "two": "bc", "three": "ca", "four": "abc"}
    await asyncio.wait_for(asyncio.gather(*(line.ask(name, *digests) for name, digests in ring.items())), 10)
    assert (line.done, sorted(line.waited), line.n_most) == ([*ring], sorted([*ring][1:]), 1)
    assert list(line.folder.iterdir()) == []


async def test_who_wants_nothing_of_it_or_asks_another_version_does_not_wait(line) -> None:
    await asyncio.gather(line.ask("one", "a"), line.ask("two", "b"), line.ask("three", "a", version="w"))
    assert (line.waited, line.n_most) == ([], 3)


async def test_what_a_killed_process_held_is_free_at_once_and_its_file_gone_with_the_next(line) -> None:
    command = [sys.executable, "-c", HOLDER, str(line.folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        waiting = asyncio.create_task(line.ask("one", "b", "c"))
        await asyncio.sleep(0.5)
        assert (line.waited, line.asking) == (["one"], [])
        holder.kill()
        await asyncio.wait_for(waiting, 10)
    await line.ask("two", "a", "b")
    assert (line.done, line.waited) == (["one", "two"], ["one"])
    assert [path.name for path in line.folder.iterdir()] == ["other.jsonl"]


async def test_a_place_that_cannot_be_opened_is_told_in_words_and_leaves_the_line_to_others(line) -> None:
    theirs = line.folder / "v-1.asks"
    theirs.mkdir()  # root may open any file; whoever is not, none of another user
    with pytest.raises(WarehouseError, match=r"cannot open the journal .*v-1\.asks: .* if somebody else's run left it"):
        await line.ask("one", "a")
    assert [*line.folder.iterdir()] == [theirs]


async def test_who_cannot_even_stand_in_line_for_a_second_says_that_it_waits(line) -> None:
    with Journal(line.folder / "v.line") as stuck:
        asking = asyncio.create_task(line.ask("one", "a"))
        await asyncio.sleep(0.5)
        assert line.waited == []
        await asyncio.sleep(1)
        assert line.waited == ["one"]
        stuck.remove()
    await asyncio.wait_for(asking, 5)
    assert (line.done, line.waited) == (["one"], ["one"])
