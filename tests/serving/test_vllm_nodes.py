"""A real vLLM over two nodes, both of them this machine: opt-in like test_vllm.py."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.backends import vllm
from tests.installed import named

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

# random weights of a shape that two ranks can share; the small real model has nine attention heads
SHAPE = {
    "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4,
    "intermediate_size": 512, "head_dim": 64,
}  # fmt: skip
CPU = {
    "HF_HUB_OFFLINE": "1", "TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": "",
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def running(lines: list[list[str]], folder: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Every line as a process group of its own: the second node does not end when the first does."""
    started = []
    try:
        for rank, line in enumerate(lines):
            with (folder / f"node-{rank}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        line, env={**os.environ, **CPU, "TMPDIR": str(folder)}, stdout=log, stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )  # fmt: skip
        yield started
    finally:
        for process in started:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def test_two_nodes_that_share_each_layer_answer_as_one_server(tmp_path) -> None:
    executable = str(named("EVAL_PIPELINES_VLLM", by="make test-vllm"))
    checkpoint = named("EVAL_PIPELINES_VLLM_CHECKPOINT", by="make test-vllm")
    spec = vllm.Spec(
        executable=executable, tensor_parallel_size=2, load_format="dummy", dtype="bfloat16", max_model_len=512,
        enforce_eager=True, kv_cache_memory_bytes=2**26, extra_args=("--hf-overrides", json.dumps(SHAPE)),
    )  # fmt: skip
    model = Model(ModelKey("dummy", "tp2"), "cpu", "f00d", checkpoint)
    port = free_port()
    lines = vllm.node_commands(
        spec, model, nodes=["127.0.0.1"] * 2, host="127.0.0.1", port=port, master_port=free_port()
    )
    with running(lines, tmp_path) as nodes:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            assert [node.poll() for node in nodes] == [None, None], (tmp_path / "node-0.log").read_text()[-3000:]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        body = {"model": "dummy@tp2", "prompt": "Hi", "max_tokens": 4, "ignore_eos": True}
        told = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=120).json()
    assert told["model"] == "dummy@tp2"
    assert "tp2" in told["system_fingerprint"]
    assert told["usage"]["completion_tokens"] == 4
