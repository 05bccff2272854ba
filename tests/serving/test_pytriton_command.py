"""What is run for PyTriton, as text, and how its failures are read."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.backends import likely_cause, pytriton

pytestmark = pytest.mark.unit


@pytest.fixture
def gguf(tmp_path: Path) -> Model:
    (tmp_path / "m.gguf").touch()
    return Model(ModelKey("smol", "q4"), "triton", "f00d", tmp_path / "m.gguf")


@pytest.fixture
def folder(tmp_path: Path) -> Model:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    return Model(ModelKey("smol", "step-100"), "triton", "f00d", tmp_path)


def line(spec: pytriton.Spec, model: Model) -> str:
    told = pytriton.command(spec, model, host="127.0.0.1", port=8001)
    text = " ".join(told.argv).replace(str(model.weights), "WEIGHTS")
    assert os.path.isfile(told.argv[2])
    return text.replace(told.argv[2], "SERVER")


def test_without_options_the_name_is_the_model_key_as_triton_takes_it(gguf) -> None:
    assert line(pytriton.Spec(), gguf) == (
        "python3 -I SERVER --weights WEIGHTS --model-name smol-AT-q4 --engine gguf --host 127.0.0.1 --port 8001"
        " --max-batch-size 32 --queue-delay-us 5000 --kv-cache-gb 1"
    )


def test_every_option_of_a_gguf_file_is_said(gguf) -> None:
    spec = pytriton.Spec(
        python="/opt/pytriton/bin/python", max_batch_size=8, queue_delay_s=0.02, max_context=2048, threads=4,
        kv_cache_gb=2, triton={"http_thread_count": 8},
    )  # fmt: skip
    assert line(spec, gguf) == (
        "/opt/pytriton/bin/python -I SERVER --weights WEIGHTS --model-name smol-AT-q4 --engine gguf --host 127.0.0.1"
        " --port 8001 --max-batch-size 8 --queue-delay-us 20000 --max-context 2048 --threads 4 --kv-cache-gb 2"
        ' --triton-config {"http_thread_count": 8}'
    )


def test_a_hugging_face_folder_gets_the_torch_engine(folder) -> None:
    spec = pytriton.Spec(device="cuda", dtype="bfloat16", trust_remote_code=True)
    assert line(spec, folder) == (
        "python3 -I SERVER --weights WEIGHTS --model-name smol-AT-step-100 --engine torch --host 127.0.0.1 --port 8001"
        " --max-batch-size 32 --queue-delay-us 5000 --device cuda --dtype bfloat16 --trust-remote-code"
    )


def test_a_gguf_file_may_lie_in_a_folder(gguf, tmp_path) -> None:
    in_folder = Model(gguf.key, "triton", "f00d", tmp_path)
    assert f"--weights {tmp_path / 'm.gguf'} " in " ".join(
        pytriton.command(pytriton.Spec(), in_folder, host="h", port=1).argv
    )


def test_it_takes_three_ports_and_tells_metrics_on_the_third(gguf) -> None:
    told = pytriton.command(pytriton.Spec(), gguf, host="127.0.0.1", port=8001)
    assert (pytriton.N_PORTS, told.metrics_port, told.metrics_path) == (3, 2, "/metrics")


def test_it_is_healthy_when_the_model_is_ready_and_not_only_triton(gguf) -> None:
    told = pytriton.command(pytriton.Spec(), gguf, host="127.0.0.1", port=8001)
    assert (told.health_path, told.protocol, told.base_path) == ("/v2/models/smol-AT-q4/ready", "triton", "")


def test_only_a_gpu_is_counted() -> None:
    assert (pytriton.Spec().n_gpus, pytriton.Spec(device="cuda").n_gpus) == (0, 1)


def test_two_gguf_files_are_refused(tmp_path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="holds 2 GGUF files, and pytriton reads one"):
        pytriton.command(pytriton.Spec(), Model(ModelKey("a", "b"), "t", "f", tmp_path), host="h", port=1)


def test_a_file_of_another_kind_is_refused(tmp_path) -> None:
    (tmp_path / "m.bin").touch()
    with pytest.raises(ConfigError, match=r"is no \.gguf file"):
        pytriton.command(pytriton.Spec(), Model(ModelKey("a", "b"), "t", "f", tmp_path / "m.bin"), host="h", port=1)


def test_ports_are_the_leases_business() -> None:
    with pytest.raises(ValidationError, match=r"grpc_port: the lease and this backend choose that"):
        pytriton.Spec(triton={"grpc_port": 1})


# what the server says; all were provoked but those on libpython and /dev/shm
SAID = [
    (
        "error: No module named 'pytriton': this Python is of an environment without nvidia-pytriton",
        "`python` is of another environment",
    ),
    ("error: numpy 2.5.5 is installed; nvidia-pytriton needs numpy < 2", "install 'numpy<2' there"),
    (
        "error: libpython3.12.so.1.0 is not found, and Triton's Python backend needs it. Install the system's package",
        "Triton needs the library of this Python",
    ),
    ("error: /dev/shm is not there or not writable; Triton keeps its tensors in it", "mount it, or make it larger"),
    (
        "error: /x and the model's name (201 letters) are too long together for the address of a socket: set TMPDIR",
        "TMPDIR: /tmp",
    ),
    (
        "error: No module named 'gguf': this model's engine needs openvino-genai, gguf and pydantic beside",
        "the engine's packages are missing",
    ),
    ("error: cannot listen on 127.0.0.1:26001: Address already in use. Triton takes --port 26000", "ports in a row"),
    ("cannot start '/no/python': [Errno 2] No such file or directory: '/no/python'", "name the one of an environment"),
]


@pytest.mark.parametrize(("said", "advice"), SAID, ids=[advice for _, advice in SAID])
def test_a_failure_is_told_with_what_to_change(gguf, said, advice) -> None:
    causes = pytriton.command(pytriton.Spec(), gguf, host="h", port=1).causes
    assert advice in (likely_cause(["W1121 pinned_memory_manager.cc: CUDA is not there", said], causes) or "")
