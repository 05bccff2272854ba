"""Answers survive whatever happens to their writer."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval_pipelines.client.journal import Journal, entries, read
from eval_pipelines.errors import WarehouseError
from eval_pipelines.records import Place, Response, utc_now


def answer(i: int, text: str = "four") -> Response:
    return Response(request_digest=f"d{i}", text=text, n_attempts=1, latency_s=0.1, asked_at=utc_now())


def written(path: Path, n: int) -> Path:
    with Journal(path) as journal:
        for i in range(n):
            journal.append(answer(i))
    return path


def test_what_is_written_is_read_back_exactly(tmp_path) -> None:
    told = [
        answer(1, "café ☕ \n\0 \u2028"),
        Response(request_digest="ll", logprob=-0.1234567890123456, is_greedy=False, n_attempts=2, latency_s=0, asked_at=utc_now()),
    ]  # fmt: skip
    with Journal(tmp_path / "j.jsonl") as journal:
        for response in told:
            journal.append(response)
        assert list(journal.answers().values()) == told


def test_an_answer_is_read_back_with_its_place(tmp_path) -> None:
    place = Place('gsm8k/"7"', "gsm8k", 2, 1, "chat")
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.append(response := answer(1), place)
        journal.append(without := answer(2))
    assert list(entries(tmp_path / "j.jsonl")) == [(place, response), (None, without)]


def test_a_torn_last_line_is_skipped(tmp_path) -> None:
    path = written(tmp_path / "j.jsonl", 3)
    path.write_bytes(path.read_bytes()[:-20])
    assert [one.request_digest for one in read(path)] == ["d0", "d1"]


def test_an_answer_after_a_torn_line_is_not_glued_to_it(tmp_path) -> None:
    path = written(tmp_path / "j.jsonl", 3)
    path.write_bytes(path.read_bytes()[:-20])
    with Journal(path) as journal:
        journal.append(answer(9))
    assert [one.request_digest for one in read(path)] == ["d0", "d1", "d9"]


def test_a_file_that_is_one_torn_line_starts_anew(tmp_path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"request' * 20_000)
    with Journal(path):
        assert path.stat().st_size == 0


@pytest.mark.parametrize("garbage", [b"\0" * 4096 + b"\n", b"[1, 2]\n", b"{}\n", b"\xff\xfe\n", b"\n"])
def test_garbage_in_the_middle_costs_only_itself(tmp_path, garbage) -> None:
    path = written(tmp_path / "j.jsonl", 2)
    path.write_bytes(path.read_bytes() + garbage)
    with Journal(path) as journal:
        journal.append(answer(2))
    assert [one.request_digest for one in read(path)] == ["d0", "d1", "d2"]


def test_a_journal_that_is_not_there_holds_nothing(tmp_path) -> None:
    assert list(read(tmp_path / "none.jsonl")) == []


def test_a_second_holder_is_refused(tmp_path) -> None:
    with Journal(tmp_path / "j.jsonl"), pytest.raises(BlockingIOError):
        Journal(tmp_path / "j.jsonl").open()


def test_it_can_be_held_again_once_released(tmp_path) -> None:
    written(tmp_path / "j.jsonl", 1)
    with Journal(tmp_path / "j.jsonl") as again:
        assert list(again.answers()) == ["d0"]


def test_a_holder_that_waited_for_a_removed_journal_is_refused_once(tmp_path, monkeypatch) -> None:
    import fcntl

    first, path = Journal(tmp_path / "j.jsonl"), tmp_path / "j.jsonl"
    first.open()
    lock = fcntl.flock

    def removed_meanwhile(fd: int, flags: int) -> None:
        # the other process opened the file; now its holder lands, removes and releases it
        monkeypatch.setattr(fcntl, "flock", lock)
        first.remove()
        first.close()
        lock(fd, flags)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    second = Journal(path)
    with pytest.raises(BlockingIOError, match="removed"):
        second.open()
    with second:
        second.append(answer(1))
        assert path.exists(), "answers go to a file that others can find"


def test_closing_twice_is_safe(tmp_path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.open()
    journal.close()
    journal.close()


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_said_in_words_that_help(tmp_path, monkeypatch, call) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("eval_pipelines.client.journal._SYNC_EVERY_S", 0.0)
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.append(answer(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(
                WarehouseError, match=r"No space left on device; .* MB are free there\. Free some space"
            ):
                journal.append(answer(1))
        assert list(journal.answers()) == ["d0"]


def test_a_journal_that_cannot_be_opened_says_what_to_do(tmp_path) -> None:
    (tmp_path / "a").write_text("no folder")
    with pytest.raises(WarehouseError, match=r"cannot open the journal .*a/j\.jsonl: .* Its folder must be one"):
        Journal(tmp_path / "a" / "j.jsonl").open()
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(WarehouseError, match="cannot open the journal"):
        Journal(tmp_path / "b.jsonl").open()


_WRITER = """
import sys
from pathlib import Path
from eval_pipelines.client.journal import Journal
from eval_pipelines.errors import WarehouseError
from eval_pipelines.records import Place, Response, utc_now
if sys.argv[2] != "0":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
with Journal(Path(sys.argv[1])) as journal:
    for i in range(10**9):
        try:
            journal.append(Response(request_digest=f"d{i}", text="x" * 3000, n_attempts=1, latency_s=0, asked_at=utc_now()))
        except WarehouseError as error:
            sys.exit(str(error))
"""


def test_a_line_that_half_fits_on_the_disk_is_taken_back(tmp_path) -> None:
    path = tmp_path / "j.jsonl"
    done = subprocess.run([sys.executable, "-c", _WRITER, str(path), "100000"], capture_output=True, text=True)
    assert "could not write" in done.stderr
    assert path.read_bytes().endswith(b"}\n")
    n_lines = path.read_bytes().count(b"\n")
    assert len(list(read(path))) == n_lines > 20


@pytest.mark.slow
def test_kill_minus_nine_at_any_moment_loses_no_whole_line(tmp_path) -> None:
    for turn in range(3):
        path = tmp_path / f"{turn}.jsonl"
        with subprocess.Popen([sys.executable, "-c", _WRITER, str(path), "0"]) as writer:
            while not (path.exists() and path.stat().st_size):
                time.sleep(0.01)
            time.sleep(random.uniform(0.0, 0.1))
            writer.send_signal(signal.SIGKILL)
        with Journal(path) as journal:
            answers = list(journal.answers())
        assert answers == [f"d{i}" for i in range(path.read_bytes().count(b"\n"))]


def test_a_line_that_another_release_wrote_is_not_taken_over_and_not_lost(tmp_path) -> None:
    path = written(tmp_path / "j.jsonl", 2)
    with path.open("ab") as file:
        file.write(b'{"request_digest": "d9", "wisdom": 1}\n[]\n')
    with Journal(path) as old, Journal(tmp_path / "new.jsonl") as new:
        old.move(new, lambda _: True, lambda _: True)
        assert len(new.answers()) == 2
    assert path.read_bytes() == b'{"request_digest": "d9", "wisdom": 1}\n[]\n'
    assert {one.name for one in tmp_path.iterdir()} == {"j.jsonl", "new.jsonl"}
