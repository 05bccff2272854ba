"""A real vLLM behind a lease. Opt-in: EVAL_PIPELINES_VLLM and EVAL_PIPELINES_VLLM_CHECKPOINT say where it is."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from eval_pipelines.checkpoints import fingerprint
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.probe import served_names
from eval_pipelines.client.transport import open_client
from eval_pipelines.config import Config, Deployment
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import StartError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.records import Request, Response
from eval_pipelines.serving.lease import lease, server_id
from eval_pipelines.serving.metrics import NAMES
from eval_pipelines.serving.room import Room, Running
from eval_pipelines.serving.scraping import Scraper
from tests.installed import installed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NEEDS = ("chat", "completions", "echo_logprobs", "top_logprobs")
TOLERANCE = 0.05  # bfloat16: a longer text is computed in other blocks
CPU = (
    "gpus: 0, dtype: bfloat16, max_model_len: 2048, enforce_eager: true, kv_cache_memory_bytes: 268435456, max_in_flight: 8, "
    "env: {TORCH_COMPILE_DISABLE: '1', OMP_NUM_THREADS: '1', VLLM_CPU_OMP_THREADS_BIND: nobind, HF_HUB_OFFLINE: '1'}"
)
# texts whose parts begin a new token, so that the sum over parts is the sum over the whole
PARTS = [
    ("The capital of France is", " Paris", ", of course."),
    ("Grüße aus Köln:", " schöne Straßen", " und der Rhein."),
    ("Weather report:", " sunny 🙂🌞", " all day long."),
    ("東京は", "日本の首都", "です。"),
]


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return installed("EVAL_PIPELINES_VLLM_CHECKPOINT")


@pytest.fixture(scope="module")
def executable() -> str:
    return str(installed("EVAL_PIPELINES_VLLM"))


def deployment(executable: str, text: str = CPU) -> Deployment:
    head = f"backend: vllm, executable: {executable!r}, keep_warm_s: 0, ready_timeout_s: 400"
    return Config.parse(f"deployments: {{cpu: {{{head}, {text}}}}}", path=Path("/nowhere/evals.yaml")).deployment("cpu")


def likelihood(context: str, continuation: str) -> Request:
    return Request(sample_id="s/0", subtask="s", operation="loglikelihood", prompt=context, continuation=continuation)


async def answers(requests: Iterable[Request], endpoint: Endpoint, folder: Path) -> dict[str, Response]:
    found: dict[str, Response] = {}
    wanted = list(requests)
    folder.mkdir(exist_ok=True)
    with Journal(folder / "journal.jsonl") as journal:
        await ask(
            wanted, len(wanted), endpoint, journal=journal, limits=Limits(),
            on_outcome=lambda request, response: found.update({request.digest: response}),
        )  # fmt: skip
    return found


def processes(running: Running) -> set[psutil.Process]:
    server = psutil.Process(running.servers[0].pid)
    return {server, psutil.Process(running.keeper_pid), *server.children(recursive=True)}


def living(found: set[psutil.Process]) -> set[psutil.Process]:
    return {one for one in found if one.is_running() and one.status() != psutil.STATUS_ZOMBIE}


async def gone(found: set[psutil.Process], timeout_s: float = 40) -> bool:
    deadline = time.monotonic() + timeout_s
    while living(found) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    return not living(found)


async def repeats_are_the_same_asked_together(endpoint: Endpoint, folder: Path) -> None:
    wanted = [
        Request(
            sample_id=f"r/{question}", subtask="r", repeat=repeat, operation="chat",
            messages=({"role": "user", "content": question},),
            params={"max_tokens": 24, "temperature": 1.0, "seed": 1234 + repeat},
        )
        for question in ("Tell me a story about a fox.", "Name five animals.")
        for repeat in range(4)
    ]  # fmt: skip
    assert endpoint.n_per_request >= 4
    async with Scraper(endpoint) as watched:
        together = await answers(wanted, endpoint, folder)
    alone = await answers(wanted, replace(endpoint, n_per_request=1, max_in_flight=1), folder)
    texts = [[found[one.digest].text for one in wanted] for found in (together, alone)]
    assert texts[0] == texts[1]
    assert len({*texts[0]}) == len(wanted), "each repeat is drawn anew"
    for counted in ("prompt_tokens", "generation_tokens"):
        ours = "completion_tokens" if counted == "generation_tokens" else counted
        print(counted, getattr(watched.records[-1], counted), sum(getattr(one, ours) or 0 for one in together.values()))
    assert watched.records[-1].generation_tokens == sum(one.completion_tokens or 0 for one in together.values())


async def test_a_leased_vllm_answers_adds_up_and_is_gone_afterwards(tmp_path, executable, checkpoint) -> None:
    # float32: in bfloat16 a text already depends on what is computed beside it
    how = deployment(executable, CPU.replace("bfloat16", "float32"))
    model = Model(ModelKey("smollm2-135m", "main"), "cpu", fingerprint(checkpoint, cache=tmp_path / "c"), checkpoint)
    started = time.monotonic()
    async with lease(model, how, needs=NEEDS, leases=tmp_path / "leases", secrets_={}) as endpoint:
        print(f"\nleased after {time.monotonic() - started:.1f} s: vLLM {endpoint.server_version}")
        running = Room(tmp_path / "leases" / server_id(model, how)).running()
        assert running is not None
        tree = processes(running)
        assert len(tree) >= 4  # keeper, API server, engine, worker
        assert endpoint.offers == set(NEEDS)
        assert endpoint.server_version
        key = endpoint.headers["authorization"].removeprefix("Bearer ")
        assert not any(key in part for one in tree for part in one.cmdline())
        async with open_client(endpoint) as client:
            assert await served_names(client, endpoint) == ["smollm2-135m@main"]

        chat = Request(
            sample_id="c/0", subtask="c", operation="chat", params={"max_tokens": 24, "temperature": 0},
            messages=({"role": "user", "content": "What is the capital of France?"},),
        )  # fmt: skip
        whole = [likelihood(a, b + c) for a, b, c in PARTS]
        first = [likelihood(a, b) for a, b, _ in PARTS]
        second = [likelihood(a + b, c) for a, b, c in PARTS]
        asked = time.monotonic()
        async with Scraper(endpoint) as watched:
            told = await answers([chat, *whole, *first, *second], endpoint, tmp_path)
        print(f"{len(told)} requests in {time.monotonic() - asked:.1f} s")

        print(watched.summary)
        assert [one.failure for one in watched.records if one.failure] == []
        assert [name for name in NAMES if getattr(watched.records[-1], name) is None] == []
        assert watched.records[-1].n_finished == len(told)
        assert watched.records[-1].generation_tokens == sum(one.completion_tokens or 0 for one in told.values())
        assert endpoint.log_path
        assert endpoint.log_path.is_file()

        assert [one.failure for one in told.values() if one.failure] == []
        assert "Paris" in (told[chat.digest].text or "")
        [streamed] = (await answers([chat], replace(endpoint, is_streamed=True), tmp_path / "streamed")).values()
        print(f"streamed in {streamed.latency_s:.2f} s, first token {streamed.ttft_s}, {streamed.inter_token_s} s each")
        assert (streamed.text, streamed.completion_tokens) == (
            told[chat.digest].text,
            told[chat.digest].completion_tokens,
        )
        assert 0 < (streamed.ttft_s or 0) < streamed.latency_s
        for all_of_it, begin, end in zip(whole, first, second, strict=True):
            parts = (told[begin.digest].logprob or 0) + (told[end.digest].logprob or 0)
            print(f"{all_of_it.continuation!r}: {told[all_of_it.digest].logprob:.4f} = {parts:.4f}")
            assert told[all_of_it.digest].logprob == pytest.approx(parts, abs=TOLERANCE)
        await repeats_are_the_same_asked_together(endpoint, tmp_path)
    ended = time.monotonic()
    assert await gone(tree)
    print(f"gone {time.monotonic() - ended:.1f} s after the lease")


async def test_a_context_longer_than_the_models_is_told_with_the_setting(tmp_path, executable, checkpoint) -> None:
    how = deployment(executable, CPU.replace("2048", "100000"))
    model = Model(ModelKey("smollm2-135m", "main"), "cpu", "f00d", checkpoint)
    with pytest.raises(StartError, match="Likely cause: the context is longer than the model's own: lower `max_model"):
        async with lease(model, how, needs=NEEDS, leases=tmp_path / "leases", secrets_={}):
            pass
