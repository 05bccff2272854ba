"""What is run for NeMo Export-Deploy, as text."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.backends import likely_cause, nemo

pytestmark = pytest.mark.unit


def model_in(folder: Path) -> Model:
    return Model(ModelKey("nemotron", "step-100"), "gpu", "f00d", folder)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    (tmp_path / "iter_0000100").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("100\n")
    return model_in(tmp_path)


def line(argv, model: Model) -> str:
    return " ".join(argv).replace(str(model.weights), "CKPT")


SCRIPT = (
    " /opt/Export-Deploy/scripts/deploy/nlp/deploy_inframework_triton.py --megatron_checkpoint CKPT/iter_0000100"
    " --model_type gpt --triton_model_name nemotron-AT-step-100"
)
SIZES = (
    " --tensor_model_parallel_size {} --pipeline_model_parallel_size {} --context_parallel_size {}"
    " --expert_model_parallel_size {} --expert_tensor_parallel_size {}"
)


def test_without_options_one_gpu_serves_the_latest_iteration(model) -> None:
    told = nemo.command(nemo.Spec(), model, host="127.0.0.1", port=8080)
    assert line(told.argv, model) == (
        "torchrun --standalone --nnodes 1 --nproc-per-node 1" + SCRIPT + " --server_address 127.0.0.1"
        " --server_port 8080 --triton_http_address 127.0.0.1 --triton_port 8081 --num_gpus 1 --num_nodes 1"
        + SIZES.format(1, 1, 1, 1, 1)
    )


def test_every_option_becomes_its_flag(model) -> None:
    spec = nemo.Spec(
        torchrun="/opt/venv/bin/torchrun", export_deploy="/src/Export-Deploy", model_type="mamba",
        tensor_model_parallel_size=4, pipeline_model_parallel_size=2, context_parallel_size=2,
        expert_model_parallel_size=8, expert_tensor_parallel_size=1, sequence_parallel=True, max_batch_size=16,
        inference_max_seq_length=8192, micro_batch_size=2, enable_flash_decode=True, enable_cuda_graphs=True,
        legacy_ckpt=True, legacy_model_format=True, extra_args=["--triton_model_version", "2"],
    )  # fmt: skip
    assert line(nemo.command(spec, model, host="127.0.0.1", port=8080).argv, model) == (
        "/opt/venv/bin/torchrun --standalone --nnodes 1 --nproc-per-node 16"
        + SCRIPT.replace("/opt/Export", "/src/Export").replace("gpt", "mamba")
        + " --server_address 127.0.0.1 --server_port 8080 --triton_http_address 127.0.0.1 --triton_port 8081"
        " --num_gpus 16 --num_nodes 1" + SIZES.format(4, 2, 2, 8, 1)
        + " --max_batch_size 16 --inference_max_seq_length 8192 --micro_batch_size 2 --sequence_parallel"
        " --enable_flash_decode --enable_cuda_graphs --legacy_ckpt --legacy_model_format --triton_model_version 2"
    )  # fmt: skip


def test_each_node_gets_the_same_line_but_its_rank(model) -> None:
    spec = nemo.Spec(tensor_model_parallel_size=8, pipeline_model_parallel_size=2)
    lines = nemo.node_commands(spec, model, nodes=["10.0.0.1", "10.0.0.2"], host="0.0.0.0", port=8080)
    assert [line(one, model) for one in lines] == [
        f"torchrun --nnodes 2 --nproc-per-node 8 --master-addr 10.0.0.1 --master-port 29500 --node-rank {rank}"
        + SCRIPT + " --server_address 0.0.0.0 --server_port 8080 --triton_http_address 0.0.0.0 --triton_port 8081"
        " --num_gpus 8 --num_nodes 2" + SIZES.format(8, 2, 1, 1, 1)
        for rank in (0, 1)
    ]  # fmt: skip


def test_the_proxy_is_told_where_triton_is(model) -> None:
    told = nemo.command(nemo.Spec(), model, host="127.0.0.1", port=8080)
    assert told.env == {
        "PYTHONPATH": "", "TRITON_HTTP_ADDRESS": "127.0.0.1", "TRITON_PORT": "8081",
        "PYTRITON_TRITON_CONFIG_METRICS_PORT": "8082",
    }  # fmt: skip


def test_it_is_healthy_when_triton_is_and_its_routes_end_in_a_slash(model) -> None:
    told = nemo.command(nemo.Spec(), model, host="127.0.0.1", port=8080)
    assert (told.health_path, told.base_path, told.path_suffix, told.protocol) == (
        "/v1/triton_health", "/v1", "/", "openai",
    )  # fmt: skip
    assert (nemo.N_PORTS, told.metrics_port) == (3, 2)


def test_its_clients_send_the_name_as_triton_has_it(model) -> None:
    assert nemo.served_name(model) == "nemotron-AT-step-100"


@pytest.mark.parametrize(
    ("sizes", "n_gpus"),
    [((1, 1, 1, 1, 1), 1), ((4, 2, 1, 1, 1), 8), ((2, 1, 2, 1, 1), 4), ((1, 1, 1, 8, 1), 8), ((4, 2, 1, 8, 2), 32)],
)
def test_gpus_are_the_fewest_that_layers_and_experts_divide(sizes, n_gpus) -> None:
    names = ("tensor_model", "pipeline_model", "context", "expert_model", "expert_tensor")
    spec = nemo.Spec(**{f"{name}_parallel_size": size for name, size in zip(names, sizes, strict=True)})
    assert spec.n_gpus == n_gpus


def test_gpus_that_do_not_divide_by_the_nodes_are_refused(model) -> None:
    with pytest.raises(ConfigError, match="4 GPUs cannot be shared evenly by 3 nodes"):
        nemo.node_commands(nemo.Spec(tensor_model_parallel_size=4), model, nodes=["a", "b", "c"], host="h", port=1)


def test_sequence_parallel_needs_tensor_parallel() -> None:
    with pytest.raises(ValidationError, match="raise tensor_model_parallel_size"):
        nemo.Spec(sequence_parallel=True)


@pytest.mark.parametrize(
    "arg",
    ["-tps", "--tensor_model_parallel_size=2", "--triton_port", "-sp", "--num_gpus", "-mc", "--triton_model_name"],
)  # fmt: skip
def test_a_flag_that_belongs_elsewhere_is_refused(arg) -> None:
    with pytest.raises(ValidationError, match="does not belong here"):
        nemo.Spec(extra_args=[arg, "2"])


@pytest.mark.parametrize("name", [".metadata", "run_config.yaml", "mp_rank_00"])
def test_the_folder_of_one_iteration_is_taken_as_it_is(tmp_path, name) -> None:
    (tmp_path / name).touch()
    told = nemo.command(nemo.Spec(), model_in(tmp_path), host="127.0.0.1", port=1)
    assert f"--megatron_checkpoint {tmp_path} " in " ".join(told.argv)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (("config.json", "model.safetensors"), "is no Megatron checkpoint.*import_ckpt"),
        (("weights", "context"), "is a NeMo 2 checkpoint, which Export-Deploy 0.7 no longer reads"),
        ((), "is no Megatron checkpoint"),
    ],
)
def test_another_layout_is_refused_with_what_to_do(tmp_path, files, problem) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=problem):
        nemo.command(nemo.Spec(), model_in(tmp_path), host="h", port=1)


def test_an_iteration_that_is_not_there_is_told(model) -> None:
    (model.weights / "latest_checkpointed_iteration.txt").write_text("200")
    with pytest.raises(ConfigError, match=r"names '200' as its latest iteration, and there is no .*iter_0000200"):
        nemo.command(nemo.Spec(), model, host="h", port=1)


def test_a_hugging_face_folder_is_served_by_triton_alone(tmp_path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    [told] = nemo.huggingface_commands(
        nemo.Spec(tensor_model_parallel_size=2, max_batch_size=8), model_in(tmp_path), nodes=["h"], host="127.0.0.1",
        port=8000,
    )  # fmt: skip
    assert line(told, model_in(tmp_path)) == (
        "torchrun --standalone --nnodes 1 --nproc-per-node 2 /opt/Export-Deploy/scripts/deploy/nlp/"
        "deploy_inframework_hf_triton.py --hf_model_id_path CKPT --triton_model_name nemotron-AT-step-100"
        " --triton_http_address 127.0.0.1 --triton_port 8000 --tp_plan auto --max_batch_size 8"
    )


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("cannot start 'torchrun': [Errno 2] No such file or directory: 'torchrun'", "run inside NeMo's container"),
        ("python: can't open file '/opt/Export-Deploy/scripts/deploy/nlp/deploy_inframework_triton.py'", "`export_deploy`"),
        ("E1121 main.cc: failed to start GRPC service: Unavailable - Socket '127.0.0.1:8001' already in use", "port 8001"),
    ],
)  # fmt: skip
def test_a_failure_is_told_with_what_to_change(model, said, advice) -> None:
    assert advice in (likely_cause([said], nemo.command(nemo.Spec(), model, host="h", port=1).causes) or "")
