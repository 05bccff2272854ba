"""What a keeper does besides starting and stopping: logs are kept and cut, keys are random or given."""

import os
import signal
from pathlib import Path

import pytest

from eval_pipelines.serving import keeper
from eval_pipelines.serving.keeper import Keeper
from eval_pipelines.serving.room import Order, Room, ServerOrder
from tests.serving.test_servers import borrow, deployment, room_of, until


def a_keeper(folder: Path) -> Keeper:
    server = ServerOrder(argv=["true"], env={}, url="http://h/v1", health_url="http://h/health")
    order = Order(
        generation="g", model_key="mock@a", fingerprint="f00d", deployment="one", servers=[server], api_key=None,
        keep_warm_s=1, max_restarts=0, machine=str(folder),
    )  # fmt: skip
    return Keeper(Room(folder / "room").make(), order, ())


def test_a_log_that_grew_too_long_is_moved_aside_and_the_server_writes_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(keeper, "_MAX_LOG_BYTES", 1000)
    its = a_keeper(tmp_path)
    log = its.room.log()
    with log.open("ab", buffering=0) as server:
        server.write(b"a" * 1001)
        its._cut_logs()
        server.write(b"b" * 10)
    assert log.read_bytes() == b"b" * 10
    assert log.with_suffix(".log.1").read_bytes() == b"a" * 1001


def test_four_older_logs_are_kept(tmp_path) -> None:
    log = a_keeper(tmp_path).room.log()
    for n in range(7):
        log.write_text(f"server {n}")
        keeper._set_aside(log)
    kept = {path.name: path.read_text() for path in log.parent.glob("server-0.log*")}
    assert kept == {f"server-0.log.{n}": f"server {7 - n}" for n in (1, 2, 3, 4)}


@pytest.mark.slow
async def test_each_start_has_a_random_key_unless_one_is_given(tmp_path, monkeypatch) -> None:
    how, keys = deployment("keep_warm_s: 30, key_env: FAULTY_API_KEY"), []
    for environ in ({}, {}, {"FAULTY_API_KEY": "a-key-of-our-own"}):
        async with borrow(tmp_path, how, environ=environ) as endpoint:
            keys.append(endpoint.headers["authorization"])
        room = room_of(tmp_path, how)
        os.kill(room.running().keeper_pid, signal.SIGTERM)
        await until(lambda room=room: not room.has_keeper())
    assert len({*keys}) == 3
    assert keys[2] == "Bearer a-key-of-our-own"
