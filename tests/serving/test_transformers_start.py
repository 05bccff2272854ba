"""A real transformers server that cannot start tells why. Opt-in, as test_transformers.py."""

import shutil
import subprocess
from pathlib import Path

import pytest

from eval_pipelines.config import Machine
from eval_pipelines.errors import StartError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.lease import lease
from tests.installed import installed
from tests.serving.leasing import deployment, on_cpu

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
NEEDS = ("completions",)


@pytest.fixture(scope="module")
def python() -> str:
    return str(installed("EVAL_PIPELINES_TORCH_PYTHON"))


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return installed("EVAL_PIPELINES_VLLM_CHECKPOINT")


def broken(checkpoint: Path, folder: Path, n_bytes: int) -> Path:
    """The checkpoint with its weights cut short."""
    ignored = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(checkpoint, folder, ignore=ignored)
    with (checkpoint / "model.safetensors").open("rb") as file:
        (folder / "model.safetensors").write_bytes(file.read(n_bytes))
    return folder


async def test_weights_cut_short_are_told_as_the_cause(python, checkpoint, tmp_path) -> None:
    weights = broken(checkpoint, tmp_path / "broken", 1_000_000)
    model = Model(ModelKey("smollm2-135m", "main"), "it", "f00d", weights)
    with pytest.raises(StartError, match="Likely cause: a weights file is cut short or damaged"):
        async with lease(model, on_cpu(python), needs=NEEDS, leases=tmp_path / "leases", secrets_={}):
            pass


async def test_weights_that_lack_a_layer_are_not_made_up(python, checkpoint, tmp_path) -> None:
    shutil.copytree(checkpoint, tmp_path / "lacking")
    cut = (
        "import sys; from safetensors.torch import load_file, save_file; path = sys.argv[1]; "
        "save_file({k: v for k, v in load_file(path).items() if '.layers.7.' not in k}, path, {'format': 'pt'})"
    )
    subprocess.run([python, "-c", cut, str(tmp_path / "lacking" / "model.safetensors")], check=True)
    model = Model(ModelKey("smollm2-135m", "main"), "it", "f00d", tmp_path / "lacking")
    with pytest.raises(
        StartError, match=r"Likely cause: the weights are not those of config\.json, or not all of them"
    ):
        async with lease(model, on_cpu(python), needs=NEEDS, leases=tmp_path / "leases", secrets_={}):
            pass


async def test_no_gpu_is_told_with_the_setting(python, checkpoint, tmp_path) -> None:
    if subprocess.run([python, "-c", "import torch; exit(torch.cuda.is_available())"], check=False).returncode:
        pytest.skip("there is a GPU here")
    how = deployment(f"backend: transformers, python: {python!r}, keep_warm_s: 0")
    model = Model(ModelKey("smollm2-135m", "main"), "it", "f00d", checkpoint)
    machine = Machine(gpus=1, folder=tmp_path / "machine")  # one that its driver does not see
    with pytest.raises(StartError, match=r"torch sees no GPU: .*or set `device: cpu`"):
        async with lease(model, how, needs=NEEDS, leases=tmp_path / "leases", secrets_={}, machine=machine):
            pass
