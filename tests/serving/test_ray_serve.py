"""A real Ray Serve behind a lease. Opt-in: EVAL_PIPELINES_RAY names a Python with ray[serve] (tests/serving/ray)."""

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from eval_pipelines.client.probe import served_names
from eval_pipelines.client.transport import open_client
from eval_pipelines.config import Deployment
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import StartError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.lease import lease
from tests.installed import named
from tests.serving.leasing import answers, completion, deployment, gone, living, processes, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MODEL = Model(ModelKey("plain", "v1"), "it", "f00d", None)


@pytest.fixture(scope="module")
def python() -> str:
    return str(named("EVAL_PIPELINES_RAY", by="make test-ray"))


def two_replicas(python: str, *, args: str = "greeting: hello") -> Deployment:
    return deployment(
        f"backend: ray_serve, python: {python!r}, app: 'plain_app:Plain', app_dir: {str(Path(__file__).parent / 'ray')!r}, "
        f"app_args: {{{args}}}, key_env: PLAIN_KEY, num_replicas: 2, num_cpus: 2, object_store_memory_bytes: 100000000, "
        "keep_warm_s: 0, max_restarts: 0, ready_timeout_s: 240, max_in_flight: 8"
    )


@pytest.fixture
def cluster(python: str, scratch: Path) -> Iterator[str]:
    """The address of a Ray that somebody else runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = (
        f"--port {port} --num-cpus 2 --object-store-memory 100000000 --include-dashboard=false --disable-usage-stats"
    )
    head = subprocess.Popen(
        [str(Path(python).with_name("ray")), "start", "--head", "--block", *options.split(), "--temp-dir", str(scratch / "c")],
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": ""}, start_new_session=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"127.0.0.1:{port}"
        assert head.poll() is None  # whoever joined it left it alone
    finally:
        tree = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        head.terminate()
        psutil.wait_procs(tree, timeout=15)
        for one in living({*tree}):
            one.kill()
        head.wait()


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
        (driver,) = psutil.Process(found.servers[0].pid).children()
        pid = {"server": found.servers[0].pid, "driver": driver.pid, "keeper": found.keeper_pid}[victim]
        assert len(living(tree)) > 8
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        assert await gone(tree, timeout_s=20)
        print(f"\n{victim}: gone after {time.monotonic() - began:.1f} s")
    await asyncio.sleep(0.5)
    if victim == "driver":  # where its supervisor is killed too, nobody is left to tidy up
        assert [*scratch.iterdir()] == []


async def test_an_application_that_fails_is_told_with_its_own_words(python, tmp_path, scratch) -> None:
    how = two_replicas(python, args="fails: true")
    with pytest.raises(StartError, match="this application was told to fail"):
        async with lease(MODEL, how, needs=("completions",), leases=tmp_path / "leases", secrets_={}):
            pass
    assert [*scratch.iterdir()] == []


async def test_a_cluster_of_others_is_joined_and_left_and_its_serve_is_not_touched(python, cluster, tmp_path) -> None:
    shared = (
        f"backend: ray_serve, python: {python!r}, app: 'plain_app:Plain', app_dir: {str(Path(__file__).parent / 'ray')!r}, "
        f"app_args: {{greeting: hello}}, address: {cluster!r}, max_replicas: 2, min_replicas: 1, "
        "target_ongoing_requests: 2, keep_warm_s: 0, ready_timeout_s: 240, env: {RAY_AUTH_MODE: disabled}"
    )
    how, leases = deployment(shared), tmp_path / "leases"
    async with lease(MODEL, how, needs=("completions",), leases=leases, secrets_={}) as endpoint:
        other = Model(ModelKey("plain", "v2"), "it", "f00d", None)
        with pytest.raises(StartError, match="Serve belongs to others: deploy there"):
            async with lease(other, how, needs=(), leases=leases, secrets_={}):
                pass
        async with open_client(endpoint) as client:
            assert await served_names(client, endpoint) == ["plain@v1"]
        tree = processes(running(MODEL, how, leases))
    assert await gone(tree)
