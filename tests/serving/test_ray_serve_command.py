"""What is run for Ray Serve and for vLLM on a Ray cluster, as text."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.backends import likely_cause, ray_serve, vllm

pytestmark = pytest.mark.unit


@pytest.fixture
def model(tmp_path: Path) -> Model:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    return Model(ModelKey("llama", "step-100"), "gpu", "f00d", tmp_path)


def told(spec: ray_serve.Spec, model: Model) -> dict[str, Any]:
    """The command line as flag → value, JSON read."""
    argv = [*ray_serve.command(spec, model, host="127.0.0.1", port=8001).argv]
    assert Path(argv[1]).is_file()
    words = [word.replace(str(model.weights), "WEIGHTS") for word in argv]
    read = {
        flag: json.loads(value) if value[0] == "{" else value
        for flag, value in zip(words[2::2], words[3::2], strict=True)
    }
    return {"python": words[0], **read}


SHARED = {
    "python": "python3", "--app": "ray.serve.llm:build_openai_app", "--name": "llama-step-100",
    "--route-prefix": "/", "--host": "127.0.0.1", "--port": "8001",
}  # fmt: skip


def test_without_options_one_replica_of_vllm_on_one_gpu_is_built(model) -> None:
    config = {
        "model_loading_config": {"model_id": "llama@step-100", "model_source": "WEIGHTS"},
        "engine_kwargs": {"tensor_parallel_size": 1, "pipeline_parallel_size": 1, "generation_config": "vllm"},
        "deployment_config": {},
    }
    assert told(ray_serve.Spec(), model) == {**SHARED, "--args": {"llm_configs": [config]}}
    assert ray_serve.Spec().n_gpus == 1


def test_every_option_of_vllm_has_its_place_in_the_configuration(model) -> None:
    spec = ray_serve.Spec(
        python="/opt/ray/bin/python",
        tensor_parallel_size=8,
        pipeline_parallel_size=2,
        accelerator_type="H100",
        engine_kwargs={"max_model_len": 32768, "enable_prefix_caching": True},
        llm_config={"placement_group_config": {"strategy": "SPREAD"}},
        min_replicas=1,
        max_replicas=4,
        target_ongoing_requests=64,
        max_ongoing_requests=128,
        address="10.0.0.1:6379",
        route_prefix="/llama",
    )
    assert told(spec, model) == {
        **SHARED,
        "python": "/opt/ray/bin/python",
        "--address": "10.0.0.1:6379",
        "--route-prefix": "/llama",
        "--args": {
            "llm_configs": [
                {
                    "model_loading_config": {"model_id": "llama@step-100", "model_source": "WEIGHTS"},
                    "accelerator_type": "H100",
                    "engine_kwargs": {
                        "tensor_parallel_size": 8,
                        "pipeline_parallel_size": 2,
                        "generation_config": "vllm",
                        "max_model_len": 32768,
                        "enable_prefix_caching": True,
                    },
                    "deployment_config": {
                        "autoscaling_config": {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 64.0},
                        "max_ongoing_requests": 128,
                    },
                    "placement_group_config": {"strategy": "SPREAD"},
                }
            ]
        },
    }
    assert spec.n_gpus == 0, "the cluster's, not this machine's"
    assert spec.model_copy(update={"address": None}).n_gpus == 8 * 2 * 4
    command = ray_serve.command(spec, model, host="h", port=1)
    assert (command.base_path, command.health_path) == ("/llama/v1", "/llama/v1/models")


def test_an_own_application_gets_model_name_and_replicas(model) -> None:
    spec = ray_serve.Spec(
        app="serving.app:Model", app_dir="/apps", app_args={"batch": 8}, gpus_per_replica=2, num_replicas=3,
        key_env="APP_KEY", num_cpus=16, object_store_memory_bytes=10**9, dashboard_port=8265,
    )  # fmt: skip
    assert told(spec, model) == {
        **SHARED,
        "--app": "serving.app:Model",
        "--args": {"served_model_name": "llama@step-100", "weights": "WEIGHTS", "batch": 8},
        "--options": {"num_replicas": 3, "ray_actor_options": {"num_gpus": 2}},
        "--app-dir": "/apps",
        "--num-cpus": "16",
        "--object-store-memory-bytes": "1000000000",
        "--dashboard-port": "8265",
    }
    assert spec.n_gpus == 6
    assert ray_serve.command(spec, model, host="h", port=1).key_env == "APP_KEY"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"app": "a:b", "tensor_parallel_size": 2}, "tensor_parallel_size does not go with `app`"),
        ({"gpus_per_replica": 2}, "gpus_per_replica does not go with vLLM"),
        ({"num_replicas": 2, "max_replicas": 4}, "give one of num_replicas and max_replicas"),
        ({"min_replicas": 2}, "max_replicas must be given"),
        ({"min_replicas": 3, "max_replicas": 2}, "be at least min_replicas"),
        ({"address": "a:1", "num_cpus": 2}, "num_cpus is for a Ray of its own"),
        ({"address": "a:1", "app": "a:b", "key_env": "KEY"}, "key_env does not go with `address`"),
        ({"engine_kwargs": {"tensor_parallel_size": 2}}, "use `tensor_parallel_size`"),
        ({"app": "no colon"}, "app"),
        ({"address": "auto"}, "address"),
        ({"app": "a:b", "app_dir": "apps"}, "full path"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, words) -> None:
    with pytest.raises(ValidationError, match=words):
        ray_serve.Spec(**options)


def test_weights_vllm_cannot_read_are_refused(tmp_path) -> None:
    (tmp_path / "m.gguf").touch()
    model = Model(ModelKey("llama", "q4"), "gpu", "f00d", tmp_path / "m.gguf")
    with pytest.raises(ConfigError, match="is a GGUF file"):
        ray_serve.command(ray_serve.Spec(), model, host="h", port=1)


def lines(spec: vllm.Spec, model: Model, nodes: list[str]) -> list[list[str]]:
    commands = ray_serve.vllm_on_ray(spec, model, nodes=nodes, host="0.0.0.0", port=8000)
    return [[" ".join(argv).replace(str(model.weights), "WEIGHTS") for argv in node] for node in commands]


def test_vllm_on_a_ray_cluster_is_a_head_its_workers_and_one_server(model) -> None:
    spec = vllm.Spec(executable="/opt/vllm/bin/vllm", tensor_parallel_size=8, pipeline_parallel_size=2)
    start = "/opt/vllm/bin/ray start --disable-usage-stats --num-gpus 8 --node-ip-address"
    serve = " ".join(vllm.command(spec, model, host="0.0.0.0", port=8000).argv).replace(str(model.weights), "WEIGHTS")
    assert "--tensor-parallel-size 8 --pipeline-parallel-size 2" in serve
    assert lines(spec, model, ["10.0.0.1", "10.0.0.2"]) == [
        [
            f"{start} 10.0.0.1 --head --port 6379 --include-dashboard=false",
            f"{serve} --distributed-executor-backend ray",
        ],
        [f"{start} 10.0.0.2 --address 10.0.0.1:6379 --block"],
    ]


def test_ray_is_looked_for_beside_vllm_and_else_on_the_path(model) -> None:
    assert lines(vllm.Spec(), model, ["a"])[0][0].startswith("ray start --disable-usage-stats --num-gpus 1 ")


def test_gpus_that_do_not_divide_by_the_nodes_are_refused(model) -> None:
    with pytest.raises(ConfigError, match="4 GPUs cannot be shared evenly by 3 nodes"):
        lines(vllm.Spec(tensor_parallel_size=4), model, ["a", "b", "c"])


def test_another_executor_is_refused(model) -> None:
    with pytest.raises(ConfigError, match="on Ray it is always `ray`"):
        lines(vllm.Spec(extra_args=["--distributed_executor_backend=mp"]), model, ["a"])


SAID = [
    ("cannot start 'pythn': [Errno 2] No such file or directory: 'pythn'", "no such Python"),
    ("ModuleNotFoundError: No module named 'ray'", "pip install 'ray[serve]'"),
    ("ModuleNotFoundError: No module named 'pyarrow'", "pip install 'ray[llm]'"),
    ("ImportError: Neither vLLM nor SGLang is installed", "pip install 'ray[llm]'"),
    ("ModuleNotFoundError: No module named 'nosuch'", "the module's folder in `app_dir`"),
    ("AttributeError: module 'mods' has no attribute 'x'", "MODULE:NAME"),
    ("error: mods:build is no deployment: only one can be given num_replicas", "no class under @serve.deployment"),
    ("error: no Ray answers at 127.0.0.1:6399: [Errno 111] Connection refused", "no Ray answers at `address`"),
    ("error: Serve already runs on 10.0.0.1:6379: stop it, or deploy there", "belongs to others"),
    ("OSError: [Errno 98] Address already in use", "leave `port` out"),
]


@pytest.mark.parametrize(("said", "advice"), SAID, ids=[said[:40] for said, _ in SAID])
def test_its_own_words_are_understood(model, said, advice) -> None:
    causes = ray_serve.command(ray_serve.Spec(), model, host="h", port=1).causes
    assert advice in (likely_cause(["Traceback (most recent call last):", said], causes) or "")
