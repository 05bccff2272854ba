"""What is run for SGLang, as text."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.backends import sglang

pytestmark = pytest.mark.unit


@pytest.fixture
def model(tmp_path: Path) -> Model:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    return Model(ModelKey("llama", "step-100"), "gpu", "f00d", tmp_path)


def line(argv, model: Model) -> str:
    return " ".join(argv).replace(str(model.weights), "WEIGHTS")


HEAD = "python3 -m sglang.launch_server --model-path WEIGHTS --served-model-name llama@step-100 --sampling-defaults openai --enable-metrics"


def test_without_options_only_name_address_neutral_sampling_and_metrics_are_said(model) -> None:
    told = sglang.command(sglang.Spec(), model, host="127.0.0.1", port=8001)
    assert line(told.argv, model) == f"{HEAD} --host 127.0.0.1 --port 8001"
    assert told.key_env is None


def test_every_option_becomes_its_flag(model) -> None:
    spec = sglang.Spec(
        python="/opt/sglang/bin/python",
        tp_size=8,
        pp_size=2,
        dp_size=4,
        ep_size=8,
        enable_dp_attention=True,
        dtype="bfloat16",
        quantization="fp8",
        load_format="safetensors",
        context_length=8192,
        mem_fraction_static=0.85,
        max_running_requests=64,
        chunked_prefill_size=-1,
        disable_radix_cache=True,
        chat_template="/templates/chat.jinja",
        reasoning_parser="qwen3",
        tokenizer_path="/tokenizers/llama",
        trust_remote_code=True,
        random_seed=7,
        extra_args=["--kv-cache-dtype", "fp8_e5m2"],
    )
    told = sglang.command(spec, model, host="127.0.0.1", port=8001)
    assert line(told.argv, model) == (
        HEAD.replace("python3", "/opt/sglang/bin/python")
        + " --tp-size 8 --pp-size 2 --dp-size 4 --ep-size 8 --enable-dp-attention --dtype bfloat16 --quantization fp8"
        " --load-format safetensors --context-length 8192 --mem-fraction-static 0.85 --max-running-requests 64"
        " --chunked-prefill-size -1 --disable-radix-cache --chat-template /templates/chat.jinja"
        " --reasoning-parser qwen3 --tokenizer-path /tokenizers/llama --trust-remote-code --random-seed 7"
        " --host 127.0.0.1 --port 8001 --kv-cache-dtype fp8_e5m2"
    )


def test_each_node_gets_the_same_line_but_its_rank(model) -> None:
    lines = sglang.node_commands(
        sglang.Spec(tp_size=16), model, nodes=["10.0.0.1", "10.0.0.2"], host="0.0.0.0", port=8000
    )
    assert [line(one, model) for one in lines] == [
        f"{HEAD} --tp-size 16 --host 0.0.0.0 --port 8000 --dist-init-addr 10.0.0.1:50000 --nnodes 2 --node-rank {rank}"
        for rank in (0, 1)
    ]


def test_gpus_that_do_not_divide_by_the_nodes_are_refused(model) -> None:
    with pytest.raises(ConfigError, match="4 GPUs cannot be shared evenly by 3 nodes"):
        sglang.node_commands(sglang.Spec(tp_size=4), model, nodes=["a", "b", "c"], host="h", port=1)


def test_copies_of_the_attention_take_no_gpus_of_their_own() -> None:
    assert sglang.Spec(tp_size=8, dp_size=4).n_gpus == 32
    assert sglang.Spec(tp_size=8, dp_size=4, enable_dp_attention=True).n_gpus == 8


@pytest.mark.parametrize("arg", ["--tp", "--tp-size=2", "--tensor-parallel-size", "--api-key", "--nnodes", "--port"])
def test_a_flag_that_belongs_elsewhere_is_refused(arg) -> None:
    with pytest.raises(ValidationError, match="does not belong here"):
        sglang.Spec(extra_args=[arg, "2"])


def test_a_gguf_file_is_refused_with_the_conversion(tmp_path) -> None:
    (tmp_path / "m.gguf").touch()
    model = Model(ModelKey("llama", "q4"), "gpu", "f00d", tmp_path / "m.gguf")
    with pytest.raises(ConfigError, match=r"is a GGUF file.*SGLang reads a Hugging Face folder"):
        sglang.command(sglang.Spec(), model, host="h", port=1)
