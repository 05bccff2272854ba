"""One real server for the whole folder, started as a user would start it, and a tiny GGUF file for the rest."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

REPOSITORY = Path(__file__).parents[2]
KEY = "test-key"
NAME = "smollm2@q4"
CLI = [sys.executable, "-m", "eval_pipelines.embedded.cli"]


@pytest.fixture(scope="session")
def model_path() -> Path:
    default = REPOSITORY / ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    path = Path(os.environ.get("EVAL_PIPELINES_MODEL", default))
    if not path.is_file():
        pytest.skip(f"no model at {path}: set EVAL_PIPELINES_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf")
    return path


@pytest.fixture(scope="session")
def server_url(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running server. When the tests are over, TERM must end it cleanly and leave nothing behind."""
    scratch = tmp_path_factory.mktemp("scratch")
    command = [*CLI, "serve", "--weights", str(model_path), "--served-model-name", NAME, "--max-context", "2048"]
    environment = {**os.environ, "EMBEDDED_API_KEY": KEY, "TMPDIR": str(scratch)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready: http://"), line
        assert list(scratch.iterdir()) == [], "the F16 copy is deleted once it is loaded"
        yield line.removeprefix("ready: ").strip()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


@pytest.fixture
def server(server_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server_url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
        yield client


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    """A GGUF file with one Q8_0 matrix, one F32 matrix and one vector. Enough to rewrite, not to serve."""
    gguf = pytest.importorskip("gguf")
    np = pytest.importorskip("numpy")
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_file_type(7)
    writer.add_array("tokenizer.ggml.tokens", ["a", "é", "<|end|>"])
    random = np.random.default_rng(0)
    matrix = random.standard_normal((4, 64), dtype=np.float32)
    quantised = gguf.quantize(matrix, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("m.q8", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("m.f32", random.standard_normal((3, 5), dtype=np.float32))
    writer.add_tensor("v", np.arange(7, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
