"""NeMo's real OpenAI proxy on a real Triton, around the small model: its quirks, through our own client."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.probe import served_names, try_capability
from eval_pipelines.client.transport import open_client
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.records import FailureKind, Request, Response
from eval_pipelines.serving.backends import nemo
from tests.installed import installed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests/serving/pytriton/nemo_small.py"
START_TIMEOUT_S = 240


@dataclass
class Proxy:
    """The running proxy, as the `nemo` backend describes it."""

    endpoint: Endpoint
    metrics_url: str


@pytest.fixture(scope="module")
def python() -> str:
    return str(installed("EVAL_PIPELINES_NEMO_PROXY"))


def free_ports(n: int) -> int:
    # not always the same first: two runs of these tests at once would take them for free at the same moment
    for first in random.sample(range(30000, 40000, n), 100):
        taken = [socket.socket() for _ in range(n)]
        try:
            for i, one in enumerate(taken):
                one.bind(("127.0.0.1", first + i))
            return first
        except OSError:
            continue
        finally:
            for one in taken:
                one.close()
    raise AssertionError("no free ports")


def library_folder(python: str) -> str:
    code = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    return subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def proxy(python: str, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("nemo")
    (folder / ".metadata").touch()
    model, port = Model(ModelKey("smollm2-135m", "main"), "nemo", "f00d", folder), free_ports(4)
    told = nemo.command(nemo.Spec(), model, host="127.0.0.1", port=port)
    line = [
        python, str(SCRIPT), "--weights", str(small_model), "--triton_model_name", nemo.served_name(model),
        "--server_port", str(port), "--triton_port", str(port + 1), "--grpc_port", str(port + 3),
    ]  # fmt: skip
    env = {**os.environ, **told.env, "LD_LIBRARY_PATH": library_folder(python), "PYTRITON_HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(line, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    root = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_healthy(root + told.health_path):
            assert server.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
            time.sleep(0.3)
        endpoint = Endpoint(
            root + told.base_path, nemo.served_name(model), "nemo", request_timeout_s=60, protocol=told.protocol,
            path_suffix=told.path_suffix,
        )  # fmt: skip
        yield Proxy(endpoint, f"http://127.0.0.1:{port + told.metrics_port}{told.metrics_path}")
    finally:
        # a request for a wrong model holds up its end for minutes: no grace
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def chat(content: str) -> Request:
    return Request(
        sample_id="s/0", subtask="s", operation="chat", params={"max_tokens": 24, "temperature": 0},
        messages=({"role": "user", "content": content},),
    )  # fmt: skip


def completion(prompt: str) -> Request:
    return Request(
        sample_id="s/1", subtask="s", operation="completion", prompt=prompt, params={"max_tokens": 8, "temperature": 0}
    )


async def answers(requests: list[Request], endpoint: Endpoint, folder: Path) -> list[Response]:
    found: dict[str, Response] = {}
    with Journal(folder / "journal.jsonl") as journal:
        await ask(
            requests, len(requests), endpoint, journal=journal, limits=Limits(max_attempts=1),
            on_outcome=lambda request, response: found.update({request.digest: response}),
        )  # fmt: skip
    return [found[one.digest] for one in requests]


async def test_a_few_questions_are_answered_through_it(proxy, tmp_path) -> None:
    # apart: NeMo answers HTTP 500 to a batch whose requests differ in a parameter
    told = await answers([chat("What is the capital of France?")], proxy.endpoint, tmp_path / "chat")
    wanted = [completion("The capital of France is"), *(completion(f"{i} plus {i} is") for i in range(8))]
    told += await answers(wanted, proxy.endpoint, tmp_path / "completions")
    assert [one.failure for one in told if one.failure] == []
    assert ["Paris" in (one.text or "") for one in told[:2]] == [True, True]


async def test_what_it_does_not_tell_is_not_made_up(proxy, tmp_path) -> None:
    [told] = await answers([chat("Hi")], proxy.endpoint, tmp_path)
    assert (told.prompt_tokens, told.completion_tokens, told.finish_reason) == (None, None, None)
    async with open_client(proxy.endpoint) as client:
        assert await served_names(client, proxy.endpoint) is None


async def test_chat_and_completions_are_seen_to_work_and_log_likelihood_is_not(proxy) -> None:
    async with open_client(proxy.endpoint) as client:
        seen = {name: await try_capability(client, proxy.endpoint, name) for name in ("chat", "completions")}
        assert seen == {"chat": None, "completions": None}
        assert await try_capability(client, proxy.endpoint, "echo_logprobs") is not None


async def test_without_the_slash_it_redirects_and_that_is_no_answer(proxy, tmp_path) -> None:
    endpoint = Endpoint(proxy.endpoint.url, proxy.endpoint.served_name, "nemo", request_timeout_s=30)
    [told] = await answers([chat("Hi")], endpoint, tmp_path)
    assert told.failure is not None
    assert told.failure.kind is FailureKind.DENIED
    assert "redirects" in told.failure.message


async def test_tritons_metrics_are_where_the_backend_says(proxy, tmp_path) -> None:
    await answers([completion("Once upon a time")], proxy.endpoint, tmp_path)
    text = httpx.get(proxy.metrics_url, timeout=5).text
    assert f'nv_inference_pending_request_count{{model="{proxy.endpoint.served_name}"' in text


async def test_a_wrong_model_name_hangs_there_and_is_a_timeout_here(proxy, tmp_path) -> None:
    endpoint = Endpoint(proxy.endpoint.url, "other", "nemo", request_timeout_s=4, path_suffix="/")
    started = time.monotonic()
    [told] = await answers([completion("Hi")], endpoint, tmp_path)
    assert told.failure is not None
    assert told.failure.kind is FailureKind.TIMEOUT
    assert time.monotonic() - started < 20
