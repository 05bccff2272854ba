"""What the operator sees when something is wrong: one line, exit code 2."""

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eval_pipelines.embedded.cli import main

from .conftest import REPOSITORY

pytest.importorskip("openvino_genai", reason="the extra 'embedded' is not installed")


def serve(weights: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["serve", "--weights", str(weights), "--served-model-name", "m", *options])


def assert_plain_error(result: Result, *words: str) -> None:
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert_plain_error(serve(tmp_path / "absent.gguf"), "absent.gguf", "--weights")


def test_a_truncated_file_is_named(tiny_gguf: Path) -> None:
    tiny_gguf.write_bytes(tiny_gguf.read_bytes()[:-100])
    assert_plain_error(serve(tiny_gguf), "truncated", "again")


def test_a_file_without_a_known_tokenizer_is_named(tiny_gguf: Path) -> None:
    assert_plain_error(serve(tiny_gguf), "tokenizer")


def test_a_taken_port_is_named(tiny_gguf: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_plain_error(serve(tiny_gguf, "--port", port), port, "--port")


def test_a_missing_extra_is_named(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without_openvino(name: str, *rest: Any) -> Any:
        return None if name == "openvino_genai" else find(name, *rest)

    monkeypatch.setattr("importlib.util.find_spec", without_openvino)
    assert_plain_error(serve(tiny_gguf), "openvino_genai", "eval-pipelines[embedded]")


def test_more_context_than_the_model_has_is_refused(model_path: Path) -> None:
    assert_plain_error(serve(model_path, "--max-context", "100000"), "--max-context", "8192")


def test_rewrite_writes_and_says_so(tiny_gguf: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["rewrite", str(tiny_gguf), str(tmp_path / "out.gguf")])
    assert (result.exit_code, (tmp_path / "out.gguf").is_file()) == (0, True)
    assert "wrote" in result.stdout


def test_rewrite_into_a_missing_folder_is_a_plain_error(tiny_gguf: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["rewrite", str(tiny_gguf), str(tmp_path / "no/out.gguf")])
    assert_plain_error(result, "cannot write")


def test_the_server_imports_nothing_of_the_rest_of_the_project() -> None:
    code = (
        "import sys, eval_pipelines.embedded.serving, eval_pipelines.embedded.worker, eval_pipelines.embedded.cli\n"
        "ours = [m for m in sys.modules if m.startswith('eval_pipelines.') and '.embedded' not in m]\n"
        "heavy = [m for m in ('dagster', 'duckdb', 'pandas', 'lm_eval', 'openvino', 'numpy') if m in sys.modules]\n"
        "print(ours + heavy)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert run.stdout.strip() == "[]"
