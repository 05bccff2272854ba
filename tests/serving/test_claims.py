"""Ports and GPUs of the machine, claimed by locks."""

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from eval_pipelines.config import Machine
from eval_pipelines.errors import ConfigError
from eval_pipelines.serving import gpus, ports
from eval_pipelines.serving.locks import FileLock

pytestmark = pytest.mark.unit
HOST = "127.0.0.1"


def test_two_reservations_never_overlap(tmp_path) -> None:
    first = ports.reserve(3, host=HOST, folder=tmp_path, hint="same")
    second = ports.reserve(3, host=HOST, folder=tmp_path, hint="same")
    numbers = [ports.number(lock) for lock in (*first, *second)]
    assert len({*numbers}) == 6
    assert numbers[:3] == list(range(numbers[0], numbers[0] + 3))
    for lock in (*first, *second):
        lock.release()


def test_a_port_that_another_program_listens_on_is_passed_over(tmp_path) -> None:
    [lock] = ports.reserve(1, host=HOST, folder=tmp_path, hint="x")
    number = ports.number(lock)
    lock.release()
    with socket.socket() as other:
        other.bind((HOST, number))
        other.listen()
        [lock] = ports.reserve(1, host=HOST, folder=tmp_path, hint="x")
        assert ports.number(lock) != number
        lock.release()
        with pytest.raises(ConfigError, match=f"port {number} on {HOST} is taken"):
            ports.reserve_fixed(number, 1, host=HOST, folder=tmp_path, deployment="d")


def test_a_server_gets_its_old_port_again(tmp_path) -> None:
    numbers = []
    for _ in range(2):
        [lock] = ports.reserve(1, host=HOST, folder=tmp_path, hint="model-0")
        numbers.append(ports.number(lock))
        lock.release()
    assert numbers[0] == numbers[1]


def driver(tmp_path: Path, text: str) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{text}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)


def test_the_gpus_are_those_the_drivers_tool_tells(tmp_path, monkeypatch) -> None:
    driver(
        tmp_path,
        'test "$1 $2" = "--query-gpu=index,uuid --format=csv,noheader" && printf "0, GPU-a\\n1, GPU-b\\n2, GPU-c\\n3, GPU-d\\n"',
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpus.devices(Machine(), {}) == ("0", "1", "2", "3")
    assert gpus.devices(Machine(), {"CUDA_VISIBLE_DEVICES": "2,3"}) == ("2", "3")
    assert gpus.devices(Machine(), {"CUDA_VISIBLE_DEVICES": "GPU-d,0"}) == ("3", "0"), "one name for each"
    assert gpus.devices(Machine(), {"CUDA_VISIBLE_DEVICES": "1,-1,2"}) == ("1",), "as CUDA has it"
    assert gpus.devices(Machine(), {"CUDA_VISIBLE_DEVICES": ""}) == ()
    assert gpus.devices(Machine(gpus=2), {}) == ("0", "1")


def test_a_machine_whose_driver_does_not_answer_has_no_gpus(tmp_path, monkeypatch) -> None:
    driver(tmp_path, "echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpus.devices(Machine(), {}) == ()


async def test_a_large_demand_is_not_overtaken_by_small_ones_that_come_later(tmp_path) -> None:
    known, order = ("0", "1"), []
    [held] = await gpus.claim(1, known, folder=tmp_path, who="a")

    async def want(n: int, who: str) -> None:
        locks = await gpus.claim(n, known, folder=tmp_path, who=who)
        order.append(who)
        for lock in locks:
            lock.release()

    large = asyncio.create_task(want(2, "large"))
    await asyncio.sleep(0.05)
    small = asyncio.create_task(want(1, "small"))  # one is free, but it is not its turn
    await asyncio.sleep(0.6)
    assert order == []
    held.release()
    await asyncio.gather(large, small)
    assert order == ["large", "small"]


async def test_the_ticket_of_a_waiter_that_died_blocks_nobody(tmp_path) -> None:
    (tmp_path / "queue").mkdir()
    (tmp_path / "queue" / "00000000000000000001-1.json").write_text('{"n": 8, "who": "dead"}')
    [held] = await asyncio.wait_for(gpus.claim(1, ("0",), folder=tmp_path, who="b"), 5)
    assert gpus.name(held) == "0"
    held.release()


def test_a_lock_that_was_inherited_is_held_until_both_let_go(tmp_path) -> None:
    lock, other = FileLock(tmp_path / "x.lock"), FileLock(tmp_path / "x.lock")
    assert lock.try_acquire()
    inherited = os.dup(lock.fd)
    lock.release()
    assert not other.try_acquire()
    os.close(inherited)
    assert other.try_acquire()
    other.release()


@pytest.mark.parametrize("wrong", ["all", [0, 0], ["a b"], -1])
def test_gpus_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="auto"):
        Machine(gpus=wrong)
