"""What is run for vLLM, as text: one machine and several, and what is refused before anything is started."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from eval_pipelines.config import Config
from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.backends import vllm
from eval_pipelines.serving.backends._vllm_words import ELSEWHERE, REMOVED

pytestmark = pytest.mark.unit


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "step-100"
    folder.mkdir()
    (folder / "config.json").touch()
    (folder / "model.safetensors").touch()
    return folder


def model(weights: Path | None) -> Model:
    return Model(ModelKey("llama", "step-100"), "gpu", "f00d", weights)


def argv(weights: Path | None, **options) -> str:
    told = vllm.command(vllm.Spec(**options), model(weights), host="127.0.0.1", port=8001)
    return " ".join(told.argv).replace(str(weights), "WEIGHTS")


def test_without_options_only_name_address_and_neutral_sampling_are_said(checkpoint) -> None:
    assert argv(checkpoint) == (
        "vllm serve WEIGHTS --served-model-name llama@step-100 --generation-config vllm --host 127.0.0.1 --port 8001"
    )


def test_every_option_becomes_its_flag(checkpoint) -> None:
    line = argv(
        checkpoint,
        executable="/opt/vllm/bin/vllm",
        tensor_parallel_size=8,
        pipeline_parallel_size=2,
        data_parallel_size=4,
        decode_context_parallel_size=2,
        prefill_context_parallel_size=1,
        enable_expert_parallel=True,
        dtype="bfloat16",
        quantization="fp8",
        load_format="safetensors",
        max_model_len=8192,
        kv_cache_memory_bytes=2**30,
        max_num_seqs=64,
        max_num_batched_tokens=4096,
        enforce_eager=True,
        enable_prefix_caching=False,
        speculative_config={"method": "ngram", "num_speculative_tokens": 4},
        lora_modules={"poet": "/adapters/poet"},
        max_lora_rank=32,
        chat_template="/templates/chat.jinja",
        reasoning_parser="deepseek_r1",
        tokenizer="/tokenizers/llama",
        trust_remote_code=True,
        seed=7,
        extra_args=["--kv-cache-dtype", "fp8"],
    )
    assert line == (
        "/opt/vllm/bin/vllm serve WEIGHTS --served-model-name llama@step-100 --generation-config vllm"
        " --tensor-parallel-size 8 --pipeline-parallel-size 2 --data-parallel-size 4 --decode-context-parallel-size 2"
        " --enable-expert-parallel --dtype bfloat16 --quantization fp8 --load-format safetensors --max-model-len 8192"
        " --kv-cache-memory-bytes 1073741824 --max-num-seqs 64 --max-num-batched-tokens 4096 --enforce-eager"
        ' --no-enable-prefix-caching --speculative-config {"method": "ngram", "num_speculative_tokens": 4}'
        " --max-lora-rank 32 --chat-template /templates/chat.jinja --reasoning-parser deepseek_r1"
        " --tokenizer /tokenizers/llama --trust-remote-code --seed 7 --enable-lora --lora-modules poet=/adapters/poet"
        " --host 127.0.0.1 --port 8001 --kv-cache-dtype fp8"
    )


def test_the_key_travels_through_the_environment(checkpoint) -> None:
    told = vllm.command(vllm.Spec(), model(checkpoint), host="127.0.0.1", port=8001)
    assert told.key_env == "VLLM_API_KEY"
    assert "--api-key" not in told.argv
    assert told.health_path == "/health"


def test_our_own_packages_stay_out_of_the_servers_environment(checkpoint) -> None:
    assert vllm.command(vllm.Spec(), model(checkpoint), host="h", port=1).env["PYTHONPATH"] == ""


def test_a_prefix_context_parallel_size_multiplies_the_gpus_and_a_decode_one_does_not() -> None:
    sizes = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "data_parallel_size": 3}
    assert vllm.Spec(**sizes).n_gpus == 24
    assert vllm.Spec(**sizes, decode_context_parallel_size=2).n_gpus == 24
    assert vllm.Spec(**sizes, prefill_context_parallel_size=2).n_gpus == 48


# several nodes


def test_each_node_gets_the_same_line_but_its_rank_and_only_the_first_answers(checkpoint) -> None:
    spec = vllm.Spec(tensor_parallel_size=8, pipeline_parallel_size=2, extra_args=["--kv-cache-dtype", "fp8"])
    lines = vllm.node_commands(spec, model(checkpoint), nodes=["10.0.0.1", "10.0.0.2"], host="0.0.0.0", port=8000)
    shared = (
        "vllm serve WEIGHTS --served-model-name llama@step-100 --generation-config vllm"
        " --tensor-parallel-size 8 --pipeline-parallel-size 2"
        " --distributed-executor-backend mp --nnodes 2 --master-addr 10.0.0.1 --master-port 29501"
    )
    assert [" ".join(line).replace(str(checkpoint), "WEIGHTS") for line in lines] == [
        f"{shared} --node-rank 0 --host 0.0.0.0 --port 8000 --kv-cache-dtype fp8",
        f"{shared} --node-rank 1 --headless --kv-cache-dtype fp8",
    ]


def test_one_node_is_an_ordinary_server(checkpoint) -> None:
    (line,) = vllm.node_commands(vllm.Spec(), model(checkpoint), nodes=["10.0.0.1"], host="127.0.0.1", port=8001)
    assert line == list(vllm.command(vllm.Spec(), model(checkpoint), host="127.0.0.1", port=8001).argv)


@pytest.mark.parametrize("nodes", [[], ["a", "b", "c"]])
def test_gpus_that_do_not_divide_by_the_nodes_are_refused(checkpoint, nodes) -> None:
    with pytest.raises(ConfigError, match=f"4 GPUs cannot be shared evenly by {len(nodes)} nodes"):
        vllm.node_commands(vllm.Spec(tensor_parallel_size=4), model(checkpoint), nodes=nodes, host="h", port=1)


def test_ray_is_not_for_several_nodes(checkpoint) -> None:
    spec = vllm.Spec(tensor_parallel_size=2, extra_args=["--distributed_executor_backend=ray"])
    with pytest.raises(ConfigError, match="--distributed-executor-backend in extra_args"):
        vllm.node_commands(spec, model(checkpoint), nodes=["a", "b"], host="h", port=1)


# refused while evals.yaml is read


@pytest.mark.parametrize("flag", sorted(REMOVED))
def test_a_removed_flag_is_refused_with_its_successor(flag) -> None:
    with pytest.raises(ValidationError, match=f"{flag} was removed from the server: \\S+"):
        vllm.Spec(extra_args=[flag, "1"])


@pytest.mark.parametrize("flag", sorted(ELSEWHERE))
def test_a_flag_that_belongs_elsewhere_is_refused(flag) -> None:
    with pytest.raises(ValidationError, match=f"{flag} does not belong here"):
        vllm.Spec(extra_args=[flag])


@pytest.mark.parametrize(
    ("arg", "field"),
    [
        ("--tensor-parallel-size", "tensor_parallel_size"),
        ("--tensor_parallel_size=2", "tensor_parallel_size"),
        ("--tensor-parallel", "tensor_parallel_size"),
        ("-tp", "tensor_parallel_size"),
        ("--no-enable-prefix-caching", "enable_prefix_caching"),
        ("--speculative-config.method", "speculative_config"),
        ("--port", "port"),
        ("--gpu-memory-utilization", "gpu_memory_utilization"),
    ],
)
def test_a_flag_with_a_field_of_its_own_is_refused_in_any_spelling(arg, field) -> None:
    with pytest.raises(ValidationError, match=f"does not belong here: use `{field}`"):
        vllm.Spec(extra_args=["--kv-cache-dtype", "fp8", arg])


def test_negative_numbers_and_json_are_no_flags() -> None:
    args = ("--long-prefill-token-threshold", "-1", "--hf-overrides", '{"a": "--port"}')
    assert vllm.Spec(extra_args=args).extra_args == args


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpu_memory_utilization": 0.9, "kv_cache_memory_bytes": 1}, "the second overrides it"),
        ({"tensor_parallel_size": 4, "decode_context_parallel_size": 3}, "must divide tensor_parallel_size = 4"),
        ({"executable": "venv/bin/vllm"}, "a full path"),
        ({"lora_base": "base"}, "a full path"),
        ({"lora_modules": {"lora-base": "/a"}}, "choose another"),
        ({"max_model_len": 0}, "at least 1"),
        ({"swap_space": 4}, "Extra inputs"),
    ],
)
def test_options_that_cannot_be_right_are_refused(options, words) -> None:
    with pytest.raises(ValidationError, match=words):
        vllm.Spec(**options)


def test_a_removed_flag_is_told_with_its_line_in_evals_yaml() -> None:
    text = "deployments:\n  gpu:\n    backend: vllm\n    extra_args: [--swap-space, '4']\n"
    with pytest.raises(ConfigError, match=r"evals.yaml:4: deployments.gpu.extra_args: .*--swap-space was removed"):
        Config.parse(text, path=Path("evals.yaml"))


# weights


def refusal(weights: Path | None, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        argv(weights, **options)
    return str(caught.value)


def test_a_gguf_file_is_refused_with_the_conversion(tmp_path) -> None:
    (tmp_path / "m.gguf").touch()
    for weights in (tmp_path / "m.gguf", tmp_path):
        assert (
            "is a GGUF file, which the `embedded` and `llama_cpp` backends read. To convert it: python -c"
            in refusal(weights)
        )
        assert f"{tmp_path} OUT gguf_file=m.gguf" in refusal(weights)


def test_a_folder_without_its_config_or_without_weights_is_refused(checkpoint) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    assert "holds no weights (*.safetensors); *.bin are pickles" in refusal(checkpoint)
    (checkpoint / "config.json").unlink()
    assert "has no config.json: copy it" in refusal(checkpoint)


def test_weights_of_another_format_are_left_to_vllm_when_it_is_named(checkpoint) -> None:
    (checkpoint / "model.safetensors").unlink()
    assert "--load-format dummy" in argv(checkpoint, load_format="dummy")
    (checkpoint / "config.json").rename(checkpoint / "params.json")
    assert "--load-format mistral" in argv(checkpoint, load_format="mistral")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            "latest_checkpointed_iteration.txt",
            'NeMo or Megatron checkpoint. To convert it: python -c "from megatron.bridge',
        ),
        (".metadata", "torch.distributed checkpoint. To convert it: python -m torch.distributed"),
        ("adapter_config.json", "is a LoRA adapter. Name the model it extends in `lora_base`"),
    ],
)
def test_another_layout_is_recognised_and_refused_with_the_conversion(tmp_path, file, words) -> None:
    (tmp_path / file).touch()
    assert words in refusal(tmp_path)


def test_a_model_without_weights_is_refused() -> None:
    assert "needs `weights`" in refusal(None)


def test_a_lora_adapter_is_served_under_the_model_key_beside_its_base(checkpoint, tmp_path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").touch()
    assert argv(adapter, lora_base=str(checkpoint), max_lora_rank=64) == (
        f"vllm serve {checkpoint} --served-model-name lora-base --generation-config vllm --max-lora-rank 64"
        " --enable-lora --lora-modules llama@step-100=WEIGHTS --host 127.0.0.1 --port 8001"
    )


def test_whole_weights_do_not_go_with_a_lora_base(checkpoint) -> None:
    assert "its weights must be a LoRA adapter" in refusal(checkpoint, lora_base=str(checkpoint))
