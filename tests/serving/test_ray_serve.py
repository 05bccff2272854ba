"""A real Ray Serve behind a lease. Opt-in: EVAL_PIPELINES_RAY names a Python with ray[serve] (tests/serving/ray)."""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from eval_pipelines.config import Deployment
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import StartError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.lease import lease
from tests.serving.leasing import answers, completion, deployment, from_environment, gone, living, processes, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MODEL = Model(ModelKey("plain", "v1"), "it", "f00d", None)


@pytest.fixture(scope="module")
def python() -> str:
    return from_environment("EVAL_PIPELINES_RAY", "a Python with what tests/serving/ray/requirements.txt lists")


def two_replicas(python: str, *, args: str = "greeting: hello") -> Deployment:
    return deployment(
        f"backend: ray_serve, python: {python!r}, app: 'plain_app:Plain', app_dir: {str(Path(__file__).parent / 'ray')!r}, "
        f"app_args: {{{args}}}, key_env: PLAIN_KEY, num_replicas: 2, num_cpus: 2, object_store_memory_bytes: 100000000, "
        "keep_warm_s: 0, ready_timeout_s: 240, max_in_flight: 8"
    )


async def who_answers(endpoint: Endpoint, n: int, folder: Path) -> list[int]:
    """Ask `n` questions; the process ids of those who answered. Every one must be answered."""
    told = await answers([completion(f"{time.monotonic_ns()} {i}", max_tokens=1) for i in range(n)], endpoint, folder)
    assert [one.failure for one in told if one.failure] == []
    assert all(" hello " in (one.text or "") for one in told)
    return [int((one.text or "").split()[0]) for one in told]


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray's files go. Its path is short: some are sockets."""
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


async def test_both_replicas_answer_and_one_is_enough(python, tmp_path, scratch) -> None:
    how = two_replicas(python)
    began = time.monotonic()
    async with lease(MODEL, how, needs=("completions",), leases=tmp_path / "leases", secrets_={}) as endpoint:
        print(f"\nleased after {time.monotonic() - began:.1f} s")
        found = running(MODEL, how, tmp_path / "leases")
        tree = processes(found)
        memory = sum(one.memory_info().rss for one in living(tree))
        print(f"{len(living(tree))} processes, {memory / 2**20:.0f} MiB")
        key = endpoint.headers["authorization"].removeprefix("Bearer ")
        assert not any(key in part for one in tree for part in one.cmdline())
        before = await who_answers(endpoint, 40, tmp_path)
        assert len({*before}) == 2

        os.kill(before[0], signal.SIGKILL)
        after = await who_answers(endpoint, 40, tmp_path)
        assert before[0] not in after
        deadline = time.monotonic() + 60
        while len({*after}) < 2 and time.monotonic() < deadline:
            after = await who_answers(endpoint, 20, tmp_path)
        assert len({*after}) == 2  # Ray has started another
        tree |= processes(found)
    ended = time.monotonic()
    assert await gone(tree)
    print(f"gone {time.monotonic() - ended:.1f} s after the lease")
    assert [*scratch.iterdir()] == []


@pytest.mark.parametrize("victim", ["server", "driver", "keeper"])
async def test_no_process_of_ray_is_left_by_kill_9_of_its(victim, python, tmp_path, scratch) -> None:
    how = two_replicas(python)
    async with lease(MODEL, how, needs=("completions",), leases=tmp_path / "leases", secrets_={}):
        found = running(MODEL, how, tmp_path / "leases")
        tree = processes(found)
        (driver,) = psutil.Process(found.server_pid).children()
        pid = {"server": found.server_pid, "driver": driver.pid, "keeper": found.keeper_pid}[victim]
        assert len(living(tree)) > 8
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        assert await gone(tree, timeout_s=20)
        print(f"\n{victim}: gone after {time.monotonic() - began:.1f} s")
    await asyncio.sleep(0.5)
    assert [*scratch.iterdir()] == []


async def test_an_application_that_fails_is_told_with_its_own_words(python, tmp_path, scratch) -> None:
    how = two_replicas(python, args="fails: true")
    with pytest.raises(StartError, match="this application was told to fail"):
        async with lease(MODEL, how, needs=("completions",), leases=tmp_path / "leases", secrets_={}):
            pass
    assert [*scratch.iterdir()] == []
