"""A real llama-server behind a lease. Opt-in: EVAL_PIPELINES_LLAMA_SERVER names its command."""

import time
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.probe import served_names
from eval_pipelines.client.transport import open_client
from eval_pipelines.config import Config, Deployment
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import StartError, UnsupportedError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.records import Request, Response
from eval_pipelines.serving.backends import llama_cpp
from eval_pipelines.serving.lease import lease, server_id
from eval_pipelines.serving.room import Room
from tests.installed import installed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
KEY = ModelKey("smollm2-135m", "q4")


@pytest.fixture(scope="module")
def executable() -> str:
    return str(installed("EVAL_PIPELINES_LLAMA_SERVER"))


def deployment(executable: str, text: str = "ctx_size: 4096, parallel: 4, threads: 1, threads_batch: 1") -> Deployment:
    head = f"backend: llama_cpp, executable: {executable!r}, keep_warm_s: 0, ready_timeout_s: 60, max_in_flight: 4"
    return Config.parse(f"deployments: {{cpu: {{{head}, {text}}}}}", path=Path("/nowhere/evals.yaml")).deployment("cpu")


async def answers(requests: list[Request], endpoint: Endpoint, folder: Path) -> list[Response]:
    found: dict[str, Response] = {}
    with Journal(folder / "journal.jsonl") as journal:
        await ask(
            requests, len(requests), endpoint, journal=journal, limits=Limits(),
            on_outcome=lambda request, response: found.update({request.digest: response}),
        )  # fmt: skip
    return [found[request.digest] for request in requests]


async def told_metrics(endpoint: Endpoint) -> str:
    async with open_client(endpoint) as client:
        reply: httpx.Response = await client.get(f"{endpoint.url.removesuffix('/v1')}/metrics")
    reply.raise_for_status()
    return reply.text


async def test_a_leased_llama_server_answers_and_is_gone_afterwards(tmp_path, executable, small_model) -> None:
    how, model = deployment(executable), Model(KEY, "cpu", "f00d", small_model)
    started = time.monotonic()
    async with lease(model, how, needs=("chat", "completions"), leases=tmp_path, secrets_={}) as endpoint:
        print(f"\nleased after {time.monotonic() - started:.1f} s")
        running = Room(tmp_path / server_id(model, how)).running()
        assert running is not None
        server = psutil.Process(running.servers[0].pid)
        key = endpoint.headers["authorization"].removeprefix("Bearer ")
        assert not any(key in word for word in server.cmdline())
        assert httpx.get(f"{endpoint.url}/models").status_code == 401, "nobody else may ask it"
        async with open_client(endpoint) as client:
            assert await served_names(client, endpoint) == [str(KEY)]

        shared = {"max_tokens": 16, "temperature": 0}
        sums = [
            Request(
                sample_id=f"c/{n}", subtask="c", operation="chat", params=shared,
                messages=({"role": "user", "content": f"What is 2+{n}?"},),
            )
            for n in range(1, 9)
        ]  # fmt: skip
        capital = Request(
            sample_id="p/0", subtask="p", operation="completion", params=shared, prompt="The capital of France is"
        )
        asked = time.monotonic()
        *summed, completed = await answers([*sums, capital], endpoint, tmp_path)
        print(f"{len(sums) + 1} requests in {time.monotonic() - asked:.1f} s")
        assert [one.failure for one in (*summed, completed) if one.failure] == []
        assert "4" in (summed[1].text or "")
        assert (completed.text or "").startswith(" Paris")
        metrics = await told_metrics(endpoint)
        names = llama_cpp.command(llama_cpp.Spec(), model, host="h", port=1).metric_names.values()
        assert [name for name in names if f"\n{name} " not in metrics] == []
        assert float(metrics.split("\nllamacpp:tokens_predicted_total ")[1].split()[0]) > 20
    ended = time.monotonic()
    psutil.wait_procs([server], timeout=20)
    print(f"gone {time.monotonic() - ended:.1f} s after the lease")
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


async def test_a_stream_says_what_is_said_without_one_and_its_first_token_comes_first(
    tmp_path, executable, small_model
) -> None:
    how = deployment(executable, "ctx_size: 4096, parallel: 1, threads: 1, threads_batch: 1, stream: true")
    model = Model(KEY, "cpu", "f00d", small_model)
    shared = {"max_tokens": 24, "temperature": 0, "cache_prompt": False}  # a cached prompt is computed in other blocks
    requests = [
        Request(
            sample_id=f"c/{n}", subtask="c", operation="chat", params=shared,
            messages=({"role": "user", "content": f"Tell me about the number {n}."},),
        )
        for n in range(4)
    ]  # fmt: skip
    requests.append(
        Request(sample_id="p/0", subtask="p", operation="completion", params=shared, prompt="The capital of France is")
    )
    async with lease(model, how, needs=("chat", "completions"), leases=tmp_path, secrets_={}) as endpoint:
        assert endpoint.is_streamed
        endpoint = replace(endpoint, max_in_flight=1)
        streamed = await answers(requests, endpoint, tmp_path)
        (tmp_path / "journal.jsonl").unlink()
        plain = await answers(requests, replace(endpoint, is_streamed=False), tmp_path)
    assert [one.failure for one in (*streamed, *plain) if one.failure] == []
    for one, other in zip(streamed, plain, strict=True):
        print(f"{one.latency_s:.3f} s, first token {one.ttft_s:.3f} s, {1000 * (one.inter_token_s or 0):.1f} ms each")
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        assert (one.prompt_tokens, one.completion_tokens) == (other.prompt_tokens, other.completion_tokens)
        assert 0 < one.ttft_s < 0.7 * one.latency_s
        assert one.ttft_s + (one.completion_tokens - 2) * one.inter_token_s == pytest.approx(one.latency_s, rel=0.2)
        assert (other.ttft_s, other.inter_token_s) == (None, None)


async def test_its_ignored_echo_is_noticed_before_anything_is_asked(tmp_path, executable, small_model) -> None:
    how, model = deployment(executable), Model(KEY, "cpu", "f00d", small_model)
    with pytest.raises(UnsupportedError, match=r"cannot do 'echo_logprobs'.*Nothing was asked"):
        async with lease(model, how, needs=("echo_logprobs",), leases=tmp_path, secrets_={}):
            pass


@pytest.mark.parametrize("n_bytes", [10, 2_000_000, 60_000_000])
async def test_a_file_that_ends_early_is_told_as_damaged(tmp_path, executable, small_model, n_bytes) -> None:
    cut = tmp_path / "cut.gguf"
    with small_model.open("rb") as whole:
        cut.write_bytes(whole.read(n_bytes))
    with pytest.raises(StartError, match="Likely cause: the weights are damaged or still being written"):
        async with lease(
            Model(KEY, "cpu", "f00d", cut), deployment(executable), needs=("chat",), leases=tmp_path, secrets_={}
        ):
            pass


async def test_an_argument_it_does_not_take_is_told_with_the_setting(tmp_path, executable, small_model) -> None:
    how = deployment(executable, "extra_args: [--no-such-flag]")
    with pytest.raises(StartError, match="does not take an argument: see `extra_args`"):
        async with lease(Model(KEY, "cpu", "f00d", small_model), how, needs=("chat",), leases=tmp_path, secrets_={}):
            pass
