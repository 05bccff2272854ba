"""One evaluation, killed twenty times: nothing that was answered is asked again, and the table is that of a calm one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.asking import Chaos
from tests.grid.lives import Cell, is_alive, wait_until
from tests.grid.one_cell import MAX_IN_FLIGHT, Questions

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
N = 240


@pytest.fixture(scope="module")
def chaos() -> Iterator[Chaos]:
    command = [sys.executable, str(ROOT / "tests" / "chaos" / "server.py"), "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        server = Chaos(*json.loads(process.stdout.readline()))
        yield server
        server.close()
        process.kill()


@pytest.fixture(scope="module")
def mother() -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, str(Path(__file__).parent / "one_cell.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == '"ready"\n'
        yield process
        process.stdin.close()


@pytest.fixture
def cell(chaos: Chaos, mother: Any, tmp_path: Path) -> Iterator[Cell]:
    chaos.set(latency_s=0.01)
    one = Cell(chaos, mother, tmp_path / "cell", N)
    one.folder.mkdir()
    yield one
    for pid in one.lives:
        one.kill(pid)


@pytest.fixture(scope="module")
def calm(chaos: Chaos, mother: Any, tmp_path_factory: Any) -> Cell:
    """The same cell, undisturbed."""
    chaos.set()
    one = Cell(chaos, mother, tmp_path_factory.mktemp("calm"), N)
    assert one.to_its_end() == "done"
    assert len(one.rows()) == N
    return one


PAUSES = ["at birth", "half landed", "landed", "told", "removed"]


@dataclass
class Kill:
    """What one life did before it was killed, and what was left of it."""

    moment: str
    asked: Counter[str]
    kept_before: set[str]
    kept_after: set[str]


@dataclass
class Killed:
    """Twenty kills, and then an end in peace."""

    cell: Cell
    kills: list[Kill]
    last_word: str
    rows: list[tuple[str, str]]
    times_asked: Counter[str]


@pytest.fixture(scope="module")
def killed(chaos: Chaos, mother: Any, tmp_path_factory: Any) -> Killed:
    chaos.set(latency_s=0.01)
    draw = random.Random(4711)
    cell = Cell(chaos, mother, tmp_path_factory.mktemp("killed"), N)
    moments = ["at birth", *["while asking"] * 15, *PAUSES[1:]]
    kills: list[Kill] = []
    for moment in moments:
        before, kept_before = cell.asked(), cell.kept()
        if moment == "while asking":
            pid = cell.live()
            # a random share of what an even pace would leave to each life
            n_more = draw.randint(1, N // 18)
            wait_until(lambda n=n_more, pid=pid, b=before: (cell.asked() - b).total() >= n or not is_alive(pid))
            time.sleep(draw.uniform(0.0, 0.01))
        else:
            pid = cell.live(pause_at=moment)
            wait_until(lambda m=moment, pid=pid: cell.said(pid) == m)
        cell.kill(pid)
        kills.append(Kill(moment, cell.asked() - before, kept_before, cell.kept()))
    last_word = cell.to_its_end()
    return Killed(cell, kills, last_word, cell.rows(), cell.asked())


def test_it_was_killed_twenty_times_at_all_moments(killed) -> None:
    assert len(killed.kills) == 20
    n_kept = [len(kill.kept_after) for kill in killed.kills if kill.moment == "while asking"]
    assert sum(0 < n < N for n in n_kept) >= 10, "they died in the middle of asking"


def test_nothing_that_was_kept_is_asked_again(killed) -> None:
    assert [kill.asked.keys() & kill.kept_before for kill in killed.kills] == [set()] * 20


def test_a_kill_costs_at_most_what_was_in_flight(killed) -> None:
    lost = [len(kill.asked.keys() - kill.kept_after) for kill in killed.kills]
    assert max(lost) <= MAX_IN_FLIGHT


def test_no_life_asks_anything_twice(killed) -> None:
    assert {n for kill in killed.kills for n in kill.asked.values()} == {1}


def test_what_was_kept_stays_kept(killed) -> None:
    for kill in killed.kills:
        assert kill.kept_before <= kill.kept_after


def test_each_prompt_is_asked_once_and_once_more_for_each_kill_it_was_in_flight_at(killed) -> None:
    n_lost = Counter(prompt for kill in killed.kills for prompt in kill.asked.keys() - kill.kept_after)
    assert killed.times_asked == Counter({one.prompt: 1 + n_lost[one.prompt] for one in Questions(N).requests()})


def test_the_table_is_that_of_a_calm_run(killed, calm) -> None:
    assert (killed.last_word, killed.rows) == ("done", calm.rows())


def test_the_evaluation_is_that_of_a_calm_run(killed, calm) -> None:
    assert killed.cell.evaluation() == calm.evaluation()


def test_no_journal_is_left(killed) -> None:
    assert killed.cell.journals() == []


# power loss


def keep_half(cell: Cell) -> Path:
    """A journal with about half of the answers, of a life that was killed."""
    pid = cell.live()
    wait_until(lambda: cell.asked().total() >= cell.n // 2)
    cell.kill(pid)
    (path,) = cell.journals()
    return path


def torn(content: bytes) -> bytes:
    return content[:-25]


def zeroed(content: bytes) -> bytes:
    return content + bytes(4096)


def zeroed_over_the_end(content: bytes) -> bytes:
    return content[:-3000] + bytes(3000)


def garbled(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + b'\xff\0"{' + content[middle + 4 :]


@pytest.mark.parametrize("damage", [torn, zeroed, zeroed_over_the_end, garbled], ids=lambda one: one.__name__)
def test_after_a_power_cut_only_damaged_answers_are_asked_again(cell, calm, damage) -> None:
    path = keep_half(cell)
    whole = cell.kept()
    path.write_bytes(damage(path.read_bytes()))
    kept, before = cell.kept(), cell.asked()
    assert len(whole - kept) <= {"torn": 1, "zeroed": 0, "garbled": 1}.get(damage.__name__, 25)
    assert cell.to_its_end() == "done"
    again = cell.asked() - before
    assert set(again) == {one.prompt for one in Questions(N).requests()} - kept
    assert cell.rows() == calm.rows()


# a full disk


FULL = {
    "in the middle of a line": {"n_bytes": 20_000},
    "at a sync while asking": {"full_at": "/journal/"},
    "while landing": {"full_at": "/landing/responses"},
    "between answers and evaluation": {"full_at": "/landing/evaluations"},
}


@pytest.fixture(params=FULL)
def filled(request: pytest.FixtureRequest, cell: Cell) -> tuple[Cell, str]:
    """A cell whose disk was full, and what its life said at its end."""
    return cell, cell.to_its_end(**FULL[request.param])


def test_a_full_disk_is_told_with_what_to_do(filled) -> None:
    _, message = filled
    assert message.startswith("WarehouseError: ")
    assert "Free some space" in message


def test_a_full_disk_costs_at_most_what_was_in_flight(filled) -> None:
    cell, _ = filled
    assert len(cell.asked().keys() - cell.kept()) <= MAX_IN_FLIGHT


def test_after_a_full_disk_only_what_is_missing_is_asked(filled, calm) -> None:
    cell, _ = filled
    before, unknown = cell.asked(), {one.prompt for one in Questions(N).requests()} - cell.kept()
    assert cell.to_its_end() == "done"
    assert set(cell.asked() - before) == unknown
    assert cell.rows() == calm.rows()


# several at once


@pytest.mark.parametrize("n_lives", [2, 4])
def test_several_on_one_cell_ask_each_question_once(cell, calm, n_lives) -> None:
    lives = [cell.live() for _ in range(n_lives)]
    wait_until(lambda: not any(is_alive(pid) for pid in lives))
    assert [cell.said(pid) for pid in lives] == ["done"] * n_lives
    assert set(cell.asked().values()) == {1}
    assert cell.rows() == calm.rows()


def test_when_one_of_two_is_killed_the_other_takes_over(cell, calm) -> None:
    first = cell.live()
    wait_until(lambda: cell.asked().total() > 0)
    second = cell.live()
    wait_until(lambda: cell.asked().total() >= N // 3)
    before = cell.kept()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_alive(second))
    assert cell.said(second) == "done"
    assert {prompt for prompt, n in cell.asked().items() if n > 1}.isdisjoint(before)
    assert cell.rows() == calm.rows()
