"""Other weights in a running vLLM. Opt-in as test_vllm.py is: EVAL_PIPELINES_VLLM, EVAL_PIPELINES_VLLM_CHECKPOINT."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from eval_pipelines.client.transport import open_client
from eval_pipelines.config import Config, Machine
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import ServingError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.backends import vllm
from eval_pipelines.serving.lease import lease, server_id
from eval_pipelines.serving.room import Room
from tests.installed import named
from tests.serving.vllm_cpu.checkpoints import lora_adapter, narrower, with_noise

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
API_KEY = "test-key-of-the-swap"
ENV = {"TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_API_KEY": API_KEY}
TEXTS = [
    "Grüße aus Köln: schöne Straßen und der Rhein.",
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)",
    "Water boils at one hundred degrees, and ice melts at zero.",
]
# longer than several blocks of the cache, so that the second time its beginning is read from there
LONG = "List the whole numbers in order. " + ", ".join(str(n) for n in range(90)) + ","


@dataclass
class Served:
    """A running server."""

    url: str
    spec: vllm.Spec
    started_in_s: float

    def client(self) -> httpx.AsyncClient:
        return open_client(Endpoint(self.url, "any", "vllm", headers={"authorization": f"Bearer {API_KEY}"}))

    def post(self, route: str, **body: object) -> httpx.Response:
        headers = {"authorization": f"Bearer {API_KEY}"}
        return httpx.post(f"{self.url}{route}", json=body, headers=headers, timeout=120, trust_env=False)

    def names(self) -> list[str]:
        headers = {"authorization": f"Bearer {API_KEY}"}
        told = httpx.get(f"{self.url}/models", headers=headers, trust_env=False).json()
        return [one["id"] for one in told["data"]]

    def likelihoods(self, name: str) -> list[float]:
        reply = self.post(
            "/completions", model=name, prompt=TEXTS, echo=True, max_tokens=1, logprobs=1, temperature=0
        ).raise_for_status()
        return [sum(one for one in c["logprobs"]["token_logprobs"] if one) for c in reply.json()["choices"]]

    def continuation(self, name: str) -> tuple[str, list[float]]:
        """What it writes after LONG, with the log-probabilities of its tokens."""
        reply = self.post("/completions", model=name, prompt=LONG, max_tokens=12, logprobs=0, temperature=0)
        choice = reply.raise_for_status().json()["choices"][0]
        return choice["text"], choice["logprobs"]["token_logprobs"]

    async def swap(self, model: Model) -> None:
        async with self.client() as client:
            await vllm.swap(self.spec, model, client=client, url=self.url)


@contextmanager
def serving(spec: vllm.Spec, model: Model, folder: Path) -> Iterator[Served]:
    """The server that the backend's command line starts; gone afterwards."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = vllm.command(spec, model, host="127.0.0.1", port=port)
    started = time.monotonic()
    with (folder / f"server-{port}.log").open("wb") as log:
        process = subprocess.Popen(
            command.argv, env={**os.environ, **command.env, **ENV, **OFFLINE},
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        while not _is_healthy(port):
            assert process.poll() is None, (folder / f"server-{port}.log").read_text()[-3000:]
            assert time.monotonic() - started < 400
            time.sleep(0.1)
        yield Served(f"http://127.0.0.1:{port}/v1", spec, time.monotonic() - started)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def model_of(weights: Path, revision: str) -> Model:
    return Model(ModelKey("smol", revision), "cpu", revision, weights)


@pytest.fixture(scope="module")
def first() -> Path:
    return named("EVAL_PIPELINES_VLLM_CHECKPOINT", by="make test-vllm")


@pytest.fixture(scope="module")
def second(first: Path, tmp_path_factory) -> Path:
    return with_noise(first, tmp_path_factory.mktemp("checkpoints") / "b", noise=0.06, seed=1)


def spec_of(**more: object) -> vllm.Spec:
    common = {"dtype": "bfloat16", "max_model_len": 1024, "enforce_eager": True, "kv_cache_memory_bytes": 1 << 27}
    return vllm.Spec(executable=str(named("EVAL_PIPELINES_VLLM", by="make test-vllm")), hot_swap=True, **common, **more)


@pytest.fixture(scope="module")
def warm(first: Path, tmp_path_factory) -> Iterator[Served]:
    """Started on the first checkpoint; the tests below swap it, in their order."""
    with serving(spec_of(), model_of(first, "a"), tmp_path_factory.mktemp("warm")) as served:
        yield served


@pytest.fixture(scope="module")
def fresh(second: Path, tmp_path_factory) -> Iterator[Served]:
    """Started on the second checkpoint."""
    with serving(spec_of(), model_of(second, "b"), tmp_path_factory.mktemp("fresh")) as served:
        yield served


async def test_a_swapped_server_answers_as_one_started_on_that_checkpoint(warm, fresh, second) -> None:
    before, written_before = warm.likelihoods("smol@a"), warm.continuation("smol@a")
    assert warm.continuation("smol@a") == written_before  # the second time out of the cache
    begun = time.monotonic()
    await warm.swap(model_of(second, "b"))
    after = warm.likelihoods("smol@b")
    took_s = time.monotonic() - begun
    print(f"\nrestart {fresh.started_in_s:.1f} s, swap {took_s:.2f} s: {fresh.started_in_s / took_s:.0f} times faster")
    assert after == pytest.approx(fresh.likelihoods("smol@b"), abs=1e-3)
    assert all(abs(one - other) > 0.05 for one, other in zip(before, after, strict=True))
    written, logprobs = warm.continuation("smol@b")
    wanted, wanted_logprobs = fresh.continuation("smol@b")
    assert written == wanted
    assert logprobs == pytest.approx(wanted_logprobs, abs=1e-3)


async def test_the_name_before_is_refused_and_the_new_one_is_the_only_one(warm) -> None:
    assert warm.names() == ["smol@b"]
    reply = warm.post("/completions", model="smol@a", prompt="Hi", max_tokens=1)
    assert reply.status_code == 404
    assert "smol@a" in reply.text


async def test_a_swap_waits_for_the_answers_of_the_model_before(warm, first) -> None:
    body = {"model": "smol@b", "prompt": "Once upon a time", "max_tokens": 200, "ignore_eos": True, "temperature": 0}
    alone = warm.post("/completions", **body).raise_for_status().json()["choices"][0]["text"]
    asked = asyncio.create_task(asyncio.to_thread(warm.post, "/completions", **body))
    await asyncio.sleep(0.3)
    assert not asked.done()
    await warm.swap(model_of(first, "a2"))
    assert (await asked).raise_for_status().json()["choices"][0]["text"] == alone
    assert warm.names() == ["smol@a2"]


async def test_the_same_weights_under_another_name_need_not_answer_differently(warm, first) -> None:
    before = warm.likelihoods("smol@a2")
    await warm.swap(model_of(first, "a3"))
    assert warm.likelihoods("smol@a3") == before


async def test_weights_that_are_cut_short_are_refused_before_anything_is_touched(warm, second, tmp_path) -> None:
    broken = with_noise(second, tmp_path / "cut", noise=0.0, seed=0)
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ServingError, match=r"model\.safetensors is cut short"):
        await warm.swap(model_of(broken, "cut"))
    assert warm.names() == ["smol@a3"]


async def test_without_the_key_nothing_is_swapped(warm, second) -> None:
    body = {"action": "load", "name": "x", "weights": str(second)}
    assert httpx.post(f"{warm.url}/eval_pipelines/swap", json=body, trust_env=False).status_code == 401
    assert warm.names() == ["smol@a3"]


async def test_weights_that_lack_a_tensor_are_refused_and_the_server_answers_nothing_more(
    warm, first, tmp_path
) -> None:
    missing = "model.layers.7.self_attn.k_proj.weight"
    lacking = with_noise(first, tmp_path / "lacking", noise=0.06, seed=2, without=missing)
    assert vllm.swap_key(warm.spec, model_of(lacking, "c")) != vllm.swap_key(warm.spec, model_of(first, "a"))
    with pytest.raises(ServingError, match=r"layers\.7\.self_attn\.qkv_proj"):
        await warm.swap(model_of(lacking, "c"))
    for name in ("smol@a3", "smol@c"):
        assert warm.post("/completions", model=name, prompt="Hi", max_tokens=1).status_code == 503
    assert httpx.get(f"{warm.url.removesuffix('/v1')}/health", trust_env=False).status_code == 503


async def test_another_architecture_is_refused_and_the_server_answers_nothing_more(fresh, first, tmp_path) -> None:
    other = narrower(first, tmp_path / "narrower")
    assert vllm.swap_key(fresh.spec, model_of(other, "d")) != vllm.swap_key(fresh.spec, model_of(first, "a"))
    with pytest.raises(ServingError, match="warm server"):
        await fresh.swap(model_of(other, "d"))
    for name in ("smol@b", "smol@d"):
        assert fresh.post("/completions", model=name, prompt="Hi", max_tokens=1).status_code == 503


async def test_adapters_take_turns_on_one_base(first, tmp_path) -> None:
    spec = spec_of(lora_base=str(first), max_lora_rank=8)
    one, two = (lora_adapter(first, tmp_path / name, seed=n, size=0.5) for n, name in enumerate(("one", "two")))
    assert vllm.swap_key(spec, model_of(one, "one")) == vllm.swap_key(spec, model_of(two, "two"))
    with serving(spec, model_of(one, "one"), tmp_path) as served:
        of_base, of_one = served.continuation("lora-base"), served.continuation("smol@one")
        begun = time.monotonic()
        await served.swap(model_of(two, "two"))
        print(f"\nadapter: started in {served.started_in_s:.1f} s, swapped in {time.monotonic() - begun:.2f} s")
        of_two = served.continuation("smol@two")
        assert len({tuple(logprobs) for _, logprobs in (of_base, of_one, of_two)}) == 3
        assert served.names() == ["lora-base", "smol@two"]
        assert served.post("/completions", model="smol@one", prompt="Hi", max_tokens=1).status_code == 404
        await served.swap(model_of(one, "one"))
        assert served.continuation("smol@one")[1] == pytest.approx(of_one[1], abs=1e-3)
        idle = lora_adapter(first, tmp_path / "idle", seed=3, size=0.0)
        with pytest.raises(ServingError, match="answers as its base does"):
            await served.swap(model_of(idle, "idle"))
        assert served.post("/completions", model="smol@idle", prompt="Hi", max_tokens=1).status_code == 503


async def test_leases_of_successive_checkpoints_share_one_real_server(first, second, tmp_path) -> None:
    how = Config.parse(
        f"deployments: {{cpu: {{backend: vllm, gpus: 0, keep_warm_s: 300, ready_timeout_s: 400, hot_swap: true, "
        f"executable: {str(named('EVAL_PIPELINES_VLLM', by='make test-vllm'))!r}, dtype: bfloat16, max_model_len: 1024, "
        f"enforce_eager: true, kv_cache_memory_bytes: 134217728, env: {json.dumps({**ENV, 'HF_HUB_OFFLINE': '1'})}}}}}",
        path=Path("/nowhere/evals.yaml"),
    ).deployment("cpu")
    room = Room(tmp_path / "leases" / server_id(model_of(first, "a"), how))
    told: list[str] = []
    pids, names = [], []
    try:
        for weights, revision in ((first, "a"), (second, "b"), (first, "c")):
            leased = lease(
                model_of(weights, revision), how, needs=("chat", "echo_logprobs", "top_logprobs"),
                leases=tmp_path / "leases", secrets_={}, machine=Machine(folder=tmp_path / "machine"), on_wait=told.append,
            )  # fmt: skip
            async with leased as endpoint:
                pids.append(room.running().servers[0].pid)
                names.append(endpoint.served_name)
        print("\n" + "\n".join(told))
        assert len({*pids}) == 1
        assert names == ["smol@a", "smol@b", "smol@c"]
        assert [one.split(" in ")[0] for one in told] == [
            "smol@b was loaded into the warm server of smol@a",
            "smol@c was loaded into the warm server of smol@b",
        ]
    finally:
        os.kill(room.running().keeper_pid, signal.SIGTERM)
        while room.has_keeper():
            await asyncio.sleep(0.1)
