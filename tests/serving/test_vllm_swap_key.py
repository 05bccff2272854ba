"""Which checkpoints may share a warm vLLM, and what its workers' word is compared with; without a vLLM."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.backends import vllm
from eval_pipelines.serving.backends._vllm_seen import differences
from eval_pipelines.serving.backends._vllm_swap import FOLDER
from eval_pipelines.serving.safetensors import UnreadableError, rounded, tensors
from tests.serving.vllm_cpu.checkpoints import lora_adapter, narrower, with_noise, write_safetensors

pytestmark = pytest.mark.unit
WIDTH, N_MLP, N_VOCAB = 8, 16, 40
FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}


def spec_of(**more: object) -> vllm.Spec:
    return vllm.Spec(**{"hot_swap": True, **more})


def key_of(folder: Path, spec: vllm.Spec | None = None, *, key: str = "smol@a") -> str | None:
    return vllm.swap_key(spec or spec_of(), Model(ModelKey.parse(key), "gpu", "f00d", folder))


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A tiny checkpoint in Hugging Face's layout."""
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "intermediate_size": N_MLP}))
    (folder / "tokenizer.json").write_text("{}")
    random = np.random.default_rng(0)
    shapes = {"model.embed_tokens": (N_VOCAB, WIDTH), "model.norm": (WIDTH,)}
    shapes |= {f"model.layers.0.self_attn.{one}_proj": (WIDTH, WIDTH) for one in "qkvo"}
    shapes |= {f"model.layers.0.mlp.{one}_proj": (N_MLP, WIDTH) for one in ("gate", "up")}
    shapes["model.layers.0.mlp.down_proj"] = (WIDTH, N_MLP)
    named = {f"{name}.weight": ("BF16", random.standard_normal(shape)) for name, shape in shapes.items()}
    write_safetensors(folder / "model.safetensors", named)
    return folder


def test_the_next_checkpoint_of_a_family_shares_the_server(first, tmp_path) -> None:
    second = with_noise(first, tmp_path / "second", noise=0.1, seed=1)
    (second / "trainer_state.json").write_text('{"global_step": 200}')
    assert key_of(first) is not None
    assert key_of(second, key="smol@b") == key_of(first)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"])
def test_what_makes_answers_besides_the_weights_must_be_the_same(first, tmp_path, name) -> None:
    second = with_noise(first, tmp_path / "second", noise=0.1, seed=1)
    (second / name).write_text('{"changed": true}')
    assert key_of(second) not in (None, key_of(first))


def test_another_shape_a_missing_tensor_another_family_other_options_start_another_server(first, tmp_path) -> None:
    lacking = with_noise(first, tmp_path / "lacking", noise=0.1, seed=1, without="model.norm.weight")
    longer = spec_of(max_model_len=64)
    keys = [
        key_of(first), key_of(narrower(first, tmp_path / "narrower")), key_of(lacking), key_of(first, key="other@a"),
        key_of(first, longer),
    ]  # fmt: skip
    assert None not in keys
    assert len(set(keys)) == 5


def test_what_cannot_be_swapped_has_no_key(first, tmp_path) -> None:
    assert key_of(first, spec_of(hot_swap=False)) is None
    quantised = with_noise(first, tmp_path / "fp8", noise=0.0, seed=0)
    (quantised / "config.json").write_text('{"quantization_config": {"quant_method": "fp8"}}')
    assert key_of(quantised) is None
    assert key_of(lora_adapter(first, tmp_path / "adapter", seed=0, size=1.0)) is None
    cut = with_noise(first, tmp_path / "cut", noise=0.0, seed=0)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-1])
    assert key_of(cut) is None
    assert key_of(tmp_path / "nowhere") is None


def test_adapters_share_the_server_of_their_base_and_whole_models_do_not(first, tmp_path) -> None:
    other = with_noise(first, tmp_path / "other", noise=0.1, seed=1)
    (other / "config.json").write_text("{}")
    one, two = (lora_adapter(first, tmp_path / name, seed=n, size=1.0) for n, name in enumerate(("one", "two")))
    on_first, on_other = spec_of(lora_base=str(first)), spec_of(lora_base=str(other))
    assert key_of(one, on_first) == key_of(two, on_first) != key_of(one, on_other)
    assert key_of(other, on_first) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantization": "fp8"}, "quantization"),
        ({"data_parallel_size": 2}, "data_parallel_size"),
        ({"speculative_config": {"method": "ngram"}}, "speculative_config"),
        ({"lora_modules": {"a": "/a"}}, "lora_modules without lora_base"),
        ({"extra_args": ("--worker-extension-cls", "x.Y")}, "--worker-extension-cls in extra_args"),
    ],
)
def test_options_that_hide_what_is_served_do_not_go_with_hot_swap(options, words) -> None:
    with pytest.raises(ValidationError, match=f"hot_swap does not go with {words}"):
        spec_of(**options)


def test_the_server_is_started_with_the_gate_and_finds_it_on_its_path_alone(first) -> None:
    command = vllm.command(spec_of(), Model(ModelKey("smol", "a"), "gpu", "f", first), host="h", port=1)
    line = " ".join(command.argv)
    assert "--middleware eval_pipelines_gate.Gate --worker-extension-cls eval_pipelines_weights.Weights" in line
    assert command.env["PYTHONPATH"] == str(FOLDER)
    assert {path.name for path in FOLDER.glob("*.py")} == {"eval_pipelines_gate.py", "eval_pipelines_weights.py"}
    script = "import eval_pipelines_gate as g, eval_pipelines_weights as w; g.Gate, w.Weights"
    subprocess.run([sys.executable, "-S", "-c", script], env={"PYTHONPATH": str(FOLDER)}, check=True)
    with pytest.raises(ConfigError, match="several nodes"):
        vllm.node_commands(
            spec_of(tensor_parallel_size=2), Model(ModelKey("smol", "a"), "gpu", "f", first),
            nodes=["a", "b"], host="h", port=1,
        )  # fmt: skip


def word_of(folder: Path) -> dict:
    """What a worker that holds the folder's weights would tell."""
    files = {name: one.values() for name, one in tensors(folder).items()}
    qkv = np.concatenate([files[f"model.layers.0.self_attn.{one}.weight"] for one in FUSED["qkv_proj"]])
    held = {"model.layers.0.self_attn.qkv_proj": qkv, "model.embed_tokens": files["model.embed_tokens.weight"]}
    rows, columns = [0, 9, 17, 23], [0, 7]
    matrices = {
        name: {
            "tensor": f"{name}.weight", "dtype": "bfloat16", "shape": list(values.shape), "rows": rows,
            "columns": columns, "values": values[np.ix_(rows, columns)].flatten().tolist(),
        }
        for name, values in held.items()
    }  # fmt: skip
    norm = files["model.norm.weight"].tobytes()
    vector = {"dtype": "bfloat16", "length": WIDTH, "sha256": hashlib.sha256(norm).hexdigest()}
    return {"vectors": {"model.norm.weight": vector}, "matrices": matrices, "unset": [], "fused": FUSED}


def test_workers_that_hold_the_files_weights_differ_in_nothing(first) -> None:
    assert differences(tensors(first), [word_of(first)]) == []


def test_one_number_of_the_weights_before_is_found(first, tmp_path) -> None:
    files = tensors(with_noise(first, tmp_path / "second", noise=0.1, seed=1))
    word, old = word_of(tmp_path / "second"), word_of(first)
    assert differences(files, [word]) == []
    qkv = "model.layers.0.self_attn.qkv_proj"
    word["matrices"][qkv]["values"][3] = old["matrices"][qkv]["values"][3]
    assert differences(files, [word]) == [f"{qkv} does not compute with what is in the files"]
    stale = word_of(tmp_path / "second") | {"vectors": old["vectors"]}
    assert differences(files, [stale]) == ["model.norm.weight is not as in the files"]


def test_weights_that_were_not_loaded_or_that_nobody_knows_are_told(first) -> None:
    word = word_of(first) | {"unset": ["model.layers.0.mlp.experts.w2"]}
    word["vectors"]["model.extra"] = word["vectors"]["model.norm.weight"]
    word["matrices"]["model.embed_tokens"]["values"][0] = None
    assert differences(tensors(first), [word]) == [
        "model.layers.0.mlp.experts.w2 was not loaded",
        "the files have no model.extra",
        "model.embed_tokens does not compute with what is in the files",
    ]


def test_shards_of_several_workers_are_compared_where_they_are_whole(first) -> None:
    shard = word_of(first)
    embedding = shard["matrices"]["model.embed_tokens"]
    embedding["shape"] = [N_VOCAB // 2, WIDTH]
    embedding["values"] = [0.5] * 8  # rows of the shard, which are not those of the whole
    assert differences(tensors(first), [shard, shard]) == []
    assert differences(tensors(first), [shard]) != []


def test_rounding_to_bfloat16_goes_to_the_nearest_and_to_even() -> None:
    found = rounded(np.array([1.0, 1.00390625, 1.01171875, 3.14159274], dtype="<f4"), "bfloat16")
    assert found.tolist() == [1.0, 1.0, 1.015625, 3.140625]


def test_a_tensor_of_a_type_that_is_not_read_is_named(tmp_path) -> None:
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(UnreadableError, match="holds F8_E4M3"):
        tensors(tmp_path)
