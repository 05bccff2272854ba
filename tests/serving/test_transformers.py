"""The real transformers server behind a lease. Opt-in: EVAL_PIPELINES_TORCH_PYTHON and EVAL_PIPELINES_VLLM_CHECKPOINT."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from eval_pipelines.client.probe import served_names
from eval_pipelines.client.transport import open_client
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.records import FailureKind
from eval_pipelines.serving.backends import transformers
from eval_pipelines.serving.lease import lease, server_id
from eval_pipelines.serving.room import Room
from tests.installed import installed
from tests.serving.leasing import (
    PARTS,
    answers,
    chat,
    completion,
    deployment,
    gone,
    likelihood,
    on_cpu,
    processes,
    running,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NEEDS = ("chat", "completions", "echo_logprobs", "top_logprobs")
KEY = "smollm2-135m@main"
MAKE_CHECKPOINT = Path(__file__).parent / "vllm_cpu" / "make_checkpoint.py"
PROMPTS = [
    "Once upon a time",
    "The capital of France is",
    "def add(a, b):\n    return",
    "Once upon a time, in a land far away, there lived a king who had three daughters. The eldest of them was called",
    "1, 2, 3, 4,",
    "Grüße aus",
]


@pytest.fixture(scope="module")
def python() -> str:
    return str(installed("EVAL_PIPELINES_TORCH_PYTHON"))


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return installed("EVAL_PIPELINES_VLLM_CHECKPOINT")


class Shared:
    """One server for the whole file: every test leases it."""

    def __init__(self, python: str, checkpoint: Path, leases: Path) -> None:
        self.how = on_cpu(python).model_copy(update={"keep_warm_s": 60})
        self.model = Model(ModelKey("smollm2-135m", "main"), "it", "f00d", checkpoint)
        self.leases = leases

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Endpoint]:
        async with lease(self.model, self.how, needs=NEEDS, leases=self.leases, secrets_={}) as endpoint:
            yield endpoint


@pytest.fixture(scope="module")
def shared(python: str, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    one = Shared(python, checkpoint, tmp_path_factory.mktemp("leases"))
    yield one
    if found := Room(one.leases / server_id(one.model, one.how)).running():
        os.kill(found.keeper_pid, signal.SIGTERM)


async def test_a_lease_offers_everything_and_tells_no_key(shared) -> None:
    async with shared.lease() as endpoint:
        assert endpoint.offers == set(NEEDS)
        assert (endpoint.server_version or "").startswith("transformers ")
        async with open_client(endpoint) as client:
            assert await served_names(client, endpoint) == [KEY]
        key = endpoint.headers["authorization"].removeprefix("Bearer ")
        tree = processes(running(shared.model, shared.how, shared.leases))
        assert not any(key in part for one in tree for part in one.cmdline())
        refused = httpx.get(f"{endpoint.url}/models", headers={"authorization": f"Bearer {key}x"})
        assert refused.status_code == 401


async def test_chat_and_completions_are_answered(shared, tmp_path) -> None:
    async with shared.lease() as endpoint:
        told, counted = await answers(
            [chat("What is the capital of France?", max_tokens=24), completion("1, 2, 3, 4,", max_tokens=9)],
            endpoint, tmp_path,
        )  # fmt: skip
    assert told.text == "The capital of France is Paris."
    assert told.finish_reason == "stop"
    assert counted.text == " 5, 6, 7,"
    assert (counted.finish_reason, counted.completion_tokens) == ("length", 9)


async def test_log_likelihoods_add_up(shared, tmp_path) -> None:
    whole = [likelihood(a, b + c) for a, b, c in PARTS]
    first = [likelihood(a, b) for a, b, _ in PARTS]
    second = [likelihood(a + b, c) for a, b, c in PARTS]
    async with shared.lease() as endpoint:
        told = await answers([*whole, *first, *second], endpoint, tmp_path)
    assert [one.failure for one in told if one.failure] == []
    sums = [one.logprob for one in told]
    parts = [begin + end for begin, end in zip(sums[4:8], sums[8:], strict=True)]
    assert sums[:4] == pytest.approx(parts, abs=1e-3)


async def test_log_likelihoods_are_those_of_the_embedded_server(python, small_model, tmp_path) -> None:
    pytest.importorskip("openvino_genai")
    folder = tmp_path / "float32"  # the very weights the embedded server reads, not rounded to bfloat16
    command = [python, str(MAKE_CHECKPOINT), str(small_model), str(folder), "float32"]
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True)
    asked = [likelihood(a, b) for a, b, _ in PARTS] + [likelihood(a + b, c) for a, b, c in PARTS]
    told = {}
    for how, weights in ((on_cpu(python), folder), (deployment("backend: embedded, keep_warm_s: 0"), small_model)):
        model = Model(ModelKey("smollm2-135m", "main"), "it", "f00d", weights)
        leases = tmp_path / how.backend
        async with lease(model, how, needs=("echo_logprobs",), leases=leases, secrets_={}) as endpoint:
            told[how.backend] = [one.logprob for one in await answers(asked, endpoint, tmp_path)]
    print("\n", *zip(told["transformers"], told["embedded"], strict=True), sep="\n")
    assert told["transformers"] == pytest.approx(told["embedded"], abs=0.02, rel=1e-3)


async def test_a_prompt_is_answered_the_same_alone_and_in_a_batch(shared, tmp_path) -> None:
    # of unequal length, so that they are padded and leave the batch one after the other
    asked = [completion(prompt, max_tokens=4 + 4 * i) for i, prompt in enumerate(PROMPTS)]
    scored = [likelihood(*prompt.rsplit(" ", 1)) for prompt in PROMPTS]
    async with shared.lease() as endpoint:
        alone = [(await answers([one], endpoint, tmp_path))[0] for one in (*asked, *scored)]
        together = await answers([*asked, *scored], endpoint, tmp_path)
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.is_greedy for one in together] == [one.is_greedy for one in alone]
    n = len(PROMPTS)
    assert [one.logprob for one in together[n:]] == pytest.approx([one.logprob for one in alone[n:]], abs=1e-3)


def test_other_architectures_are_computed_the_same_alone_in_batches_and_in_pieces(python, checkpoint, tmp_path) -> None:
    servers = Path(transformers.__file__).parents[1] / "servers"
    command = [python, str(Path(__file__).parent / "tiny_models.py"), str(servers), str(checkpoint), str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONPATH": ""})
    told = json.loads(done.stdout)
    assert "keeps no past_key_values" in told.pop("state space")["error"]
    assert len(told) == 5
    assert [found for found in told.items() if found[1] != {"in batches": [], "in pieces": []}] == []


async def test_a_seed_means_the_same_in_any_company(shared) -> None:
    body = {"model": KEY, "prompt": PROMPTS[0], "max_tokens": 12, "temperature": 1.0, "top_p": 0.9, "seed": 7, "n": 3}
    async with shared.lease() as endpoint, httpx.AsyncClient(headers=endpoint.headers, timeout=120) as client:
        alone = (await client.post(f"{endpoint.url}/completions", json=body)).json()
        others = {**body, "prompt": PROMPTS[3], "seed": 8, "n": 2}
        _, among = await asyncio.gather(
            *(client.post(f"{endpoint.url}/completions", json=one) for one in (others, body))
        )
    texts = [choice["text"] for choice in alone["choices"]]
    assert len(set(texts)) == 3
    assert [choice["text"] for choice in among.json()["choices"]] == texts


async def test_offsets_count_the_characters_of_the_text(shared) -> None:
    prompt = "<|im_start|>user\nKöln 🙂🌞, 東京  is <|im_end|>\n"
    body = {"model": KEY, "prompt": prompt, "max_tokens": 5, "temperature": 0, "echo": True, "logprobs": 2}
    async with shared.lease() as endpoint:
        reply = httpx.post(f"{endpoint.url}/completions", json=body, headers=endpoint.headers, timeout=120).json()
    (choice,) = reply["choices"]
    told = choice["logprobs"]
    assert choice["text"].startswith(prompt)
    ends = [*told["text_offset"][1:], len(choice["text"])]
    covered = [choice["text"][start:end] for start, end in zip(told["text_offset"], ends, strict=True)]
    assert "".join(covered) == choice["text"]
    spelled = list(zip(told["tokens"], covered, strict=True))[: reply["usage"]["prompt_tokens"]]
    assert [token for token, part in spelled if token != part and "bytes:" not in token] == []
    assert len([token for token, _ in spelled if "bytes:" in token]) == 8  # characters that span several tokens
    assert told["token_logprobs"][0] is None
    assert all(len(best) in (2, 3) for best in told["top_logprobs"][1:])


async def test_an_answer_ends_before_a_stop_string(shared) -> None:
    body = {"model": KEY, "prompt": "1, 2, 3,", "max_tokens": 30, "temperature": 0, "stop": [", 7", "nothing"]}
    async with shared.lease() as endpoint:
        reply = httpx.post(
            f"{endpoint.url}/completions", json={**body, "logprobs": 0}, headers=endpoint.headers, timeout=120
        ).json()
    (choice,) = reply["choices"]
    assert (choice["text"], choice["finish_reason"]) == (" 4, 5, 6", "stop")
    assert "".join(choice["logprobs"]["tokens"]) == " 4, 5, 6"


async def test_a_prompt_longer_than_the_context_is_refused_as_such(shared, tmp_path) -> None:
    async with shared.lease() as endpoint:
        (told,) = await answers([completion("word " * 1100, max_tokens=4)], endpoint, tmp_path)
    assert told.failure is not None
    assert told.failure.kind is FailureKind.CONTEXT_LENGTH
    assert told.failure.http_status == 400


async def test_what_cannot_be_honoured_is_refused_by_name(shared) -> None:
    wrong = [{"stream": True}, {"best_of": 2}, {"colour": "red"}, {"model": "other@main"}, {"prompt": ""}]
    async with shared.lease() as endpoint:
        told = [
            httpx.post(
                f"{endpoint.url}/completions", json={"model": KEY, "prompt": "a", **one}, headers=endpoint.headers
            )
            for one in wrong
        ]
    assert [one.status_code for one in told] == [400, 400, 400, 404, 400]
    words = [one.json()["error"]["message"] for one in told]
    assert all(
        name in said for name, said in zip(("stream", "best_of", "colour", "other@", "empty"), words, strict=True)
    )


async def test_a_full_queue_asks_to_come_back_and_who_hangs_up_is_forgotten(shared) -> None:
    body = {"model": KEY, "prompt": PROMPTS[0], "max_tokens": 900, "ignore_eos": True, "n": 4}

    def counts(endpoint: Endpoint) -> dict[str, float]:
        text = httpx.get(f"{endpoint.url.removesuffix('/v1')}/metrics").text
        return {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#")}

    async with shared.lease() as endpoint:
        async with httpx.AsyncClient(headers=endpoint.headers, timeout=120) as client:
            calls = [asyncio.create_task(client.post(f"{endpoint.url}/completions", json=body)) for _ in range(12)]
            done, pending = await asyncio.wait(calls, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            refused = done.pop().result()
            for one in pending:
                one.cancel()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        deadline = time.monotonic() + 20
        left = ("transformers_requests_running", "transformers_requests_waiting")
        told = counts(endpoint)
        while any(told[name] for name in left) and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            told = counts(endpoint)
    assert [told[name] for name in left] == [0, 0]
    assert told['transformers_requests_total{outcome="cancelled"}'] >= 1


@pytest.mark.parametrize("victim", ["server told to stop", "server killed", "keeper killed"])
async def test_a_busy_server_is_gone_within_seconds_when(victim, python, checkpoint, tmp_path) -> None:
    how, model = on_cpu(python), Model(ModelKey("smollm2-135m", "main"), "it", "f00d", checkpoint)
    async with lease(model, how, needs=("completions",), leases=tmp_path / "leases", secrets_={}) as endpoint:
        found = running(model, how, tmp_path / "leases")
        tree = processes(found)
        body = {"model": KEY, "prompt": [*PROMPTS], "max_tokens": 900, "ignore_eos": True}
        async with httpx.AsyncClient(headers=endpoint.headers, timeout=120) as client:
            call = asyncio.create_task(client.post(f"{endpoint.url}/completions", json=body))
            await asyncio.sleep(1.5)
            assert not call.done()
            pid = found.keeper_pid if victim == "keeper killed" else found.servers[0].pid
            os.kill(pid, signal.SIGTERM if victim == "server told to stop" else signal.SIGKILL)
            began = time.monotonic()
            assert await gone(tree, timeout_s=10)
            print(f"\n{victim}: gone after {time.monotonic() - began:.1f} s")
            told = (await asyncio.gather(call, return_exceptions=True))[0]
    assert isinstance(told, httpx.HTTPError) or told.status_code == 503
