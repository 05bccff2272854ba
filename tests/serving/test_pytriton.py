"""A real Triton by PyTriton behind a lease, with the small model. EVAL_PIPELINES_PYTRITON names its Python."""

import asyncio
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from eval_pipelines.checkpoints import fingerprint
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.probe import served_names
from eval_pipelines.client.transport import open_client
from eval_pipelines.config import Config, Deployment
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import StartError, UnsupportedError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.records import FailureKind, Request, Response
from eval_pipelines.serving.backends import likely_cause, pytriton
from eval_pipelines.serving.lease import hold, lease, server_id
from eval_pipelines.serving.room import Room, Running
from tests.installed import installed, named

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KEY = ModelKey("smollm2-135m", "main")
NEEDS = ("chat", "completions", "echo_logprobs")
TOLERANCE = 1e-3  # float32 on both sides; others in the batch change the blocks it is computed in
TORCH_TOLERANCE = 0.05  # another library: other kernels, and its own reading of the quantised file
N_CONCURRENT = 30
LIKELIHOODS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " a city called Lyon"),
    ("Grüße aus Köln:", " schöne Straßen und der Rhein."),
    ("東京は", "日本の首都です。"),
    ("Weather report:", " sunny 🙂🌞 all day"),
    ("The capi", "tal of Spain"),
]
PROMPTS = ["The capital of France is", "Once upon a time", "def add(a, b):\n", "Wie geht es dir?"]


@pytest.fixture(scope="module")
def python() -> str:
    return str(installed("EVAL_PIPELINES_PYTRITON"))


@pytest.fixture(scope="module")
def torch_python() -> str:
    return str(named("EVAL_PIPELINES_PYTRITON_TORCH", by="a Python with PyTriton, torch and transformers"))


@pytest.fixture(scope="module")
def checkpoint(torch_python: str, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("checkpoint")
    script = Path(__file__).parent / "pytriton/make_float32.py"
    subprocess.run([torch_python, str(script), str(small_model), str(folder)], check=True, capture_output=True)
    return folder


def free_ports(n: int) -> int:
    """The first of n consecutive free ports."""
    # not always the same first: two runs of these tests at once would take them for free at the same moment
    for first in random.sample(range(20000, 30000, n), 100):
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


def triton(python: str, text: str = "max_context: 2048", keep_warm_s: float = 0) -> Deployment:
    how = f"backend: pytriton, python: {python!r}, {text}"
    return parsed(f"{{{how}, keep_warm_s: {keep_warm_s}, ready_timeout_s: 240, max_restarts: 0}}")


def parsed(text: str) -> Deployment:
    return Config.parse(f"deployments: {{one: {text}}}", path=Path("/nowhere/evals.yaml")).deployment("one")


def model_of(weights: Path, folder: Path) -> Model:
    return Model(KEY, "one", fingerprint(weights, cache=folder / "fingerprints"), weights)


def borrow(weights: Path, how: Deployment, folder: Path, needs: Iterable[str] = NEEDS):
    return lease(model_of(weights, folder), how, needs=tuple(needs), leases=folder / "leases", secrets_={})


def room_of(weights: Path, how: Deployment, folder: Path) -> Room:
    return Room(folder / "leases" / server_id(model_of(weights, folder), how))


async def answers(requests: Iterable[Request], endpoint: Endpoint, folder: Path) -> list[Response]:
    found: dict[str, Response] = {}
    wanted = list(requests)
    folder.mkdir(exist_ok=True)
    with Journal(folder / "journal.jsonl") as journal:
        await ask(
            wanted, len(wanted), endpoint, journal=journal, limits=Limits(max_attempts=1),
            on_outcome=lambda request, response: found.update({request.digest: response}),
        )  # fmt: skip
    return [found[one.digest] for one in wanted]


def likelihood(context: str, continuation: str) -> Request:
    return Request(sample_id="s/0", subtask="s", operation="loglikelihood", prompt=context, continuation=continuation)


def completion(prompt: str, **params: object) -> Request:
    params = {"max_tokens": 24, "temperature": 0, **params}
    return Request(sample_id="s/1", subtask="s", operation="completion", prompt=prompt, params=params)


def chat(content: str, **params: object) -> Request:
    return Request(
        sample_id="s/2", subtask="s", operation="chat", params={"max_tokens": 32, "temperature": 0, **params},
        messages=({"role": "user", "content": content},),
    )  # fmt: skip


QUESTIONS = [
    *(likelihood(*pair) for pair in LIKELIHOODS),
    *map(completion, PROMPTS),
    completion("1, 2, 3, 4, 5,", stop=[" 9"], max_tokens=40),
    chat("What is the capital of France?"),
    chat("Name three colours. 🙂", stop=["\n"]),
]


def tree_of(running: Running) -> set[psutil.Process]:
    server = psutil.Process(running.servers[0].pid)
    return {server, *server.children(recursive=True)}


def living(found: set[psutil.Process]) -> set[psutil.Process]:
    return {one for one in found if one.is_running() and one.status() != psutil.STATUS_ZOMBIE}


async def gone(found: set[psutil.Process], timeout_s: float = 30) -> bool:
    deadline = time.monotonic() + timeout_s
    while living(found) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return not living(found)


def counts(metrics: str) -> dict[str, float]:
    found = re.findall(r"^(nv_inference_(?:count|exec_count))\{.*\} (\S+)$", metrics, re.MULTILINE)
    return {name: float(value) for name, value in found}


async def test_triton_and_the_embedded_server_say_the_same_of_the_same_weights(tmp_path, python, small_model) -> None:
    how, told = triton(python), {}
    started = time.monotonic()
    async with borrow(small_model, how, tmp_path) as endpoint:
        print(f"\nleased after {time.monotonic() - started:.1f} s")
        assert endpoint.offers == set(NEEDS)
        async with open_client(endpoint) as client:
            assert await served_names(client, endpoint) == [str(KEY)]
            assert await served_names(client, replace(endpoint, served_name="other@model")) == []
        told["pytriton"] = await answers(QUESTIONS, endpoint, tmp_path / "a")
        tree = tree_of(room_of(small_model, how, tmp_path).running())
        assert {"tritonserver", "triton_python_backend_stub"} <= {one.name() for one in tree}
    ended = time.monotonic()
    assert await gone(tree)
    print(f"gone {time.monotonic() - ended:.1f} s after the lease")
    async with borrow(small_model, parsed("{backend: embedded, keep_warm_s: 0, max_context: 2048}"), tmp_path) as other:
        told["embedded"] = await answers(QUESTIONS, other, tmp_path / "b")

    assert [one.failure for one in told["pytriton"] + told["embedded"] if one.failure] == []
    for question, theirs, ours in zip(QUESTIONS, told["pytriton"], told["embedded"], strict=True):
        assert (theirs.text, theirs.finish_reason) == (ours.text, ours.finish_reason)
        assert theirs.prompt_tokens == ours.prompt_tokens
        if question.operation == "loglikelihood":
            print(f"{question.continuation!r}: {theirs.logprob:.5f} = {ours.logprob:.5f}")
            assert theirs.logprob == pytest.approx(ours.logprob, abs=TOLERANCE)
        else:
            assert theirs.completion_tokens == ours.completion_tokens


async def test_requests_at_once_share_batches_and_one_that_fails_fails_alone(tmp_path, python, small_model) -> None:
    how = triton(python, "max_context: 2048, max_batch_size: 16, queue_delay_s: 0.02, max_in_flight: 64")
    async with borrow(small_model, how, tmp_path) as endpoint, httpx.AsyncClient() as http:
        [server] = endpoint.addresses
        metrics_url = server.metrics_url
        before = counts((await http.get(metrics_url)).text)
        wanted = [completion(f"{i} plus {i} is", max_tokens=8) for i in range(N_CONCURRENT)]
        wanted[3] = completion("too long", max_tokens=9000)
        wanted[4] = completion("a parameter nobody knows", no_such_thing=1)
        told = await answers(wanted, endpoint, tmp_path / "a")
        # Triton counts a moment after it has answered
        deadline = time.monotonic() + 15
        while True:
            after = counts((await http.get(metrics_url)).text)
            done = {name: after[name] - before[name] for name in after}
            if done["nv_inference_count"] >= N_CONCURRENT or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.3)
    print(f"\n{done}")
    assert done["nv_inference_count"] == N_CONCURRENT
    assert done["nv_inference_exec_count"] <= N_CONCURRENT / 3
    failed = {i: one.failure for i, one in enumerate(told) if one.failure}
    assert {i: one.kind for i, one in failed.items()} == {3: FailureKind.CONTEXT_LENGTH, 4: FailureKind.REJECTED}
    assert not any("/" in one.message or "Traceback" in one.message for one in failed.values())


async def test_what_was_asked_when_it_is_stopped_is_a_failure_and_no_traceback(tmp_path, python, small_model) -> None:
    how = triton(python)
    async with borrow(small_model, how, tmp_path) as endpoint:
        tree = tree_of(room_of(small_model, how, tmp_path).running())
        asked = asyncio.create_task(
            answers([completion("Once upon a time", max_tokens=1900, ignore_eos=True)], endpoint, tmp_path / "a")
        )
        await asyncio.sleep(1.5)
        os.killpg(room_of(small_model, how, tmp_path).running().servers[0].pid, signal.SIGTERM)
        [told] = await asked
        assert told.failure is not None
        assert told.failure.kind in (FailureKind.OVERLOADED, FailureKind.CONNECTION)
        assert "Traceback" not in told.failure.message
        stopped = time.monotonic()
        assert await gone(tree)
        print(f"\ngone {time.monotonic() - stopped:.1f} s after SIGTERM")


@pytest.mark.parametrize("victim", ["keeper", "server", "tritonserver"])
async def test_a_kill_leaves_no_process_and_the_next_start_removes_its_files(
    tmp_path, python, small_model, victim
) -> None:
    scratch = Path(f"/tmp/ep-{os.getpid()}-{victim[:3]}")
    scratch.mkdir()
    how = triton(python, f"max_context: 2048, env: {{TMPDIR: {str(scratch)!r}}}")
    try:
        async with borrow(small_model, how, tmp_path):
            running = room_of(small_model, how, tmp_path).running()
            tree = tree_of(running)
            pids = {one.name(): one.pid for one in tree} | {
                "keeper": running.keeper_pid,
                "server": running.servers[0].pid,
            }
            os.kill(pids[victim], signal.SIGKILL)
            killed = time.monotonic()
            assert await gone(tree), {one.name() for one in living(tree)}
            print(f"\ngone {time.monotonic() - killed:.1f} s after kill -9 of the {victim}")
        # one that cannot serve is enough of a start
        line = [*pytriton.command(how.spec, model_of(small_model, tmp_path), host="127.0.0.1", port=free_ports(3)).argv]
        line[line.index(str(small_model))] = str(tmp_path / "nothing.gguf")
        done = subprocess.run(line, env={**os.environ, "TMPDIR": str(scratch)}, capture_output=True, check=False)
        assert done.returncode == 2, done.stderr
        assert list(scratch.iterdir()) == []
    finally:
        shutil.rmtree(scratch)


async def test_a_task_that_wants_to_know_what_is_greedy_is_refused(tmp_path, python, small_model) -> None:
    how = triton(python, keep_warm_s=600)
    async with borrow(small_model, how, tmp_path):
        warm = hold(model_of(small_model, tmp_path), how, leases=tmp_path / "leases")
    try:
        with pytest.raises(UnsupportedError, match="only the chosen token's log-probability is told"):
            async with borrow(small_model, how, tmp_path, needs=["top_logprobs"]):
                pass
    finally:
        warm.release()
        os.kill(room_of(small_model, how, tmp_path).running().keeper_pid, signal.SIGTERM)


async def test_a_hugging_face_folder_says_the_same_and_tells_what_is_greedy(
    tmp_path, torch_python, checkpoint, small_model
) -> None:
    told, both = {}, "max_context: 2048, dtype: float32"
    async with borrow(checkpoint, triton(torch_python, both), tmp_path, needs=[*NEEDS, "top_logprobs"]) as endpoint:
        told["torch"] = await answers(QUESTIONS, endpoint, tmp_path / "a")
        failed = await answers([completion("x", max_tokens=9000), completion("x", best_of=3)], endpoint, tmp_path / "c")
    async with borrow(small_model, parsed("{backend: embedded, keep_warm_s: 0, max_context: 2048}"), tmp_path) as other:
        told["embedded"] = await answers(QUESTIONS, other, tmp_path / "b")

    assert [one.failure for one in told["torch"] + told["embedded"] if one.failure] == []
    assert [one.failure.kind for one in failed] == [FailureKind.CONTEXT_LENGTH, FailureKind.UNSUPPORTED]
    for question, theirs, ours in zip(QUESTIONS, told["torch"], told["embedded"], strict=True):
        if question.operation == "loglikelihood":
            print(f"{question.continuation!r}: {theirs.logprob:.5f} = {ours.logprob:.5f} {theirs.is_greedy}")
            assert theirs.logprob == pytest.approx(ours.logprob, abs=TORCH_TOLERANCE)
        else:
            assert (theirs.text, theirs.finish_reason) == (ours.text, ours.finish_reason)
        assert theirs.prompt_tokens == ours.prompt_tokens
    greedy = {question.continuation: one.is_greedy for question, one in zip(QUESTIONS, told["torch"], strict=True)}
    assert (greedy[" Paris"], greedy[" a city called Lyon"]) == (True, False)


async def test_an_environment_without_pytriton_is_told_by_name(tmp_path, small_model) -> None:
    with pytest.raises(StartError, match="Likely cause: `python` is of another environment: install nvidia-pytriton"):
        async with borrow(small_model, triton(sys.executable), tmp_path):
            pass


async def test_a_folder_too_long_for_a_socket_is_told_with_the_setting(tmp_path, python, small_model) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    with pytest.raises(StartError, match=r"Likely cause: set `env: \{TMPDIR: /tmp\}`"):
        async with borrow(small_model, triton(python, f"env: {{TMPDIR: {str(long)!r}}}"), tmp_path):
            pass


def test_a_taken_second_port_is_told_at_once(tmp_path, python, small_model) -> None:
    port = free_ports(3)
    line = pytriton.command(pytriton.Spec(python=python), model_of(small_model, tmp_path), host="127.0.0.1", port=port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        done = subprocess.run(line.argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert likely_cause(done.stderr.splitlines(), line.causes).startswith("one of three ports in a row is taken")


async def test_damaged_weights_are_told_as_such(tmp_path, python, small_model) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(small_model.read_bytes()[:50_000_000])
    with pytest.raises(StartError, match="Likely cause: the weights are damaged or still being written"):
        async with borrow(cut, triton(python), tmp_path):
            pass
