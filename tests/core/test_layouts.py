"""How weights lie on disk, and which deployment serves them."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from eval_pipelines.checkpoint_files import check_whole
from eval_pipelines.cli import main
from eval_pipelines.config import Config
from eval_pipelines.config.schema import config_schema
from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import ModelKey
from eval_pipelines.layouts import conversion, in_words, layout
from eval_pipelines.models import resolve

pytestmark = pytest.mark.unit

FOLDERS = [
    ("huggingface", ["config.json", "model.safetensors", "tokenizer.json"]),
    ("huggingface", ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"]),
    ("huggingface", ["config.json", "model.safetensors", "pytorch_model.bin", "adapter_config.json", "m.gguf"]),
    ("gguf", ["m-q4.gguf", "README.md"]),
    ("gguf", ["m.gguf", "config.json"]),
    ("lora", ["adapter_config.json", "adapter_model.safetensors"]),
    ("lora", ["adapter_config.json", "adapter_model.safetensors", "config.json"]),
    ("lora", ["adapter_config.json", "adapter_model.bin"]),
    ("megatron", ["latest_checkpointed_iteration.txt", "iter_0000100"]),
    ("megatron", [".metadata", "common.pt", "metadata.json", "__0_0.distcp", "run_config.yaml"]),
    ("megatron", ["weights", "context"]),
    ("megatron", ["mp_rank_00", "mp_rank_01"]),
    ("torch_distributed", [".metadata", "__0_0.distcp", "__1_0.distcp"]),
    ("trtllm_engine", ["config.json", "rank0.engine"]),
    ("trtllm_checkpoint", ["config.json", "rank0.safetensors", "rank1.safetensors"]),
    ("mistral", ["params.json", "consolidated.safetensors", "tekken.json"]),
    ("pickle", ["config.json", "pytorch_model.bin"]),
    ("unknown", ["config.json", "training_args.bin", "optimizer.pt"]),
    ("unknown", ["model.safetensors"]),
    ("unknown", []),
]


@pytest.mark.parametrize(("found", "names"), FOLDERS, ids=[f"{found}-{len(names)}" for found, names in FOLDERS])
def test_a_folders_layout_is_told_by_the_names_of_its_files(tmp_path: Path, found: str, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert layout(tmp_path) == found


@pytest.mark.parametrize(
    ("name", "found"), [("m.gguf", "gguf"), ("m.nemo", "megatron"), ("m.pt", "pickle"), ("m.safetensors", "unknown")]
)
def test_a_files_layout_is_told_by_its_name(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / name).touch()
    assert layout(tmp_path / name) == found


def test_what_is_not_there_has_no_layout(tmp_path: Path) -> None:
    assert layout(tmp_path / "x") == "unknown"
    assert in_words(tmp_path / "x") == "is not there"


def test_whole_weights_and_their_layout_agree(small_model: Path) -> None:
    assert check_whole(small_model) == layout(small_model) == layout(small_model.parent) == "gguf"


def test_a_conversion_goes_by_hugging_faces_layout_where_it_must(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").touch()
    line = conversion(tmp_path, ["gguf"]) or ""
    assert line.index("merge_and_unload()") < line.index("; then python convert_hf_to_gguf.py OUT --outtype f16")
    assert conversion(tmp_path, ["lora", "huggingface"]) is None, "it lies right already"
    (tmp_path / "rank0.engine").touch()
    assert conversion(tmp_path, ["huggingface"]) is None, "an engine cannot be turned back"


# routing

FILE = """
deployments:
  small: {backend: embedded}
  big: {backend: vllm}
  adapters: {backend: vllm, lora_base: /base}
  engines: {backend: trtllm, backend_name: tensorrt}
  brought: {backend: command, argv: [serve, "{port}"]}
  api: {backend: hosted, base_url: "http://127.0.0.1:9/v1"}
"""


def config(tmp_path: Path, text: str) -> Config:
    return Config.parse(FILE + text, path=tmp_path / "evals.yaml")


def weights(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "w"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["m.gguf"], "small"),
        (["config.json", "model.safetensors"], "big"),
        (["adapter_config.json", "adapter_model.safetensors"], "adapters"),
        (["config.json", "rank0.engine"], "engines"),
    ],
)
def test_the_first_deployment_that_reads_the_layout_serves_the_model(tmp_path: Path, names, chosen: str) -> None:
    weights(tmp_path, *names)
    text = "models: {m@a: {weights: w, deployment: [small, adapters, big, engines]}}"
    assert resolve(config(tmp_path, text), ModelKey("m", "a")).deployment == chosen


def test_the_order_decides_where_several_read_it(tmp_path: Path) -> None:
    weights(tmp_path, "config.json", "model.safetensors")
    for order, chosen in (("[engines, big]", "engines"), ("[big, engines]", "big")):
        told = config(tmp_path, f"models: {{m@a: {{weights: w, deployment: {order}}}}}")
        assert resolve(told, ModelKey("m", "a")).deployment == chosen


def test_weights_that_nobody_reads_are_refused_with_the_conversion(tmp_path: Path) -> None:
    folder = weights(tmp_path, "latest_checkpointed_iteration.txt")
    told = config(tmp_path, "models: {m@a: {weights: w, deployment: [small, big]}}")
    with pytest.raises(ConfigError) as caught:
        resolve(told, ModelKey("m", "a"))
    message = str(caught.value)
    assert message.startswith(f"m@a: {folder} is a NeMo or Megatron checkpoint, and 'small' (embedded) reads gguf; ")
    assert "'big' (vllm) reads huggingface. To convert it: python -c \"from megatron.bridge" in message
    assert f"BASE {folder} OUT" in message


def test_a_single_deployment_is_taken_as_it_is(tmp_path: Path) -> None:
    weights(tmp_path, "config.json", "model.safetensors")
    told = config(tmp_path, "models: {m@a: {weights: w, deployment: small}, m@b: {weights: w, deployment: [small]}}")
    assert resolve(told, ModelKey("m", "a")).deployment == resolve(told, ModelKey("m", "b")).deployment == "small"


def test_a_model_without_weights_goes_to_the_first_that_needs_none(tmp_path: Path) -> None:
    told = config(tmp_path, "models: {m@a: {deployment: [small, api, brought]}, m@b: {deployment: brought}}")
    assert resolve(told, ModelKey("m", "a")).deployment == "api"
    assert resolve(told, ModelKey("m", "b")).deployment == "brought"


def test_a_watched_checkpoint_is_routed_as_well(tmp_path: Path, small_model: Path) -> None:
    (tmp_path / "ckpts").mkdir()
    (tmp_path / "ckpts" / "step-1.gguf").symlink_to(small_model)
    told = config(
        tmp_path,
        "watched: [{path: ckpts, family: m, deployment: [big, small], suite: b}]\nbenchmarks: {b: {task: b}}",
    )
    assert resolve(told, ModelKey("m", "step-1")).deployment == "small"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("models: {m@a: {deployment: [small, bg], weights: w}}", "deployment[1]: no deployment is called 'bg'. Did"),
        ("models: {m@a: {deployment: [small, small], weights: w}}", "deployment: names a deployment twice"),
        ("models: {m@a: {deployment: [], weights: w}}", "models.m@a.deployment: must not be empty"),
        ("models: {m@a: {deployment: 3, weights: w}}", "models.m@a.deployment: must be a list, not a number"),
        ("models: {m@a: {deployment: [small, big]}}", "`weights` is missing: 'small' and 'big' serve from files, so"),
        (
            "watched: [{path: x, deployment: [small, api], suite: b}]\nbenchmarks: {b: {task: b}}",
            "deployment: 'api' does not serve from files",
        ),
        (
            "watched: [{path: x, deployment: brought, suite: b}]\nbenchmarks: {b: {task: b}}",
            "deployment: 'brought' does not serve from files",
        ),
    ],
)
def test_a_list_that_cannot_be_right_is_told_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, text)
    assert problem in str(caught.value)


def test_the_schema_takes_a_name_or_a_list_of_names() -> None:
    entries = config_schema()["properties"]
    for entry in (entries["models"]["additionalProperties"], entries["watched"]["items"]):
        kinds = {one["type"] for one in entry["properties"]["deployment"]["anyOf"]}
        assert kinds == {"string", "array"}


def test_config_check_says_where_a_model_goes_or_why_nowhere(tmp_path: Path) -> None:
    weights(tmp_path, "m.gguf")
    path = tmp_path / "evals.yaml"
    path.write_text(FILE + "models: {m@a: {weights: w, deployment: [big, small]}}")
    told = CliRunner().invoke(main, ["--config", str(path), "config", "check"])
    assert "w on small\n" in told.output
    path.write_text(FILE + "models: {m@a: {weights: w, deployment: [big, engines]}}")
    told = CliRunner().invoke(main, ["--config", str(path), "config", "check"])
    assert told.exit_code == 2
    assert "is a GGUF file, and 'big' (vllm) reads huggingface" in told.output


def test_the_identity_of_a_deployment_is_the_same_in_every_process(tmp_path: Path) -> None:
    engines = config(tmp_path, "").deployment("engines")
    assert engines.reads == ("huggingface", "trtllm_checkpoint", "trtllm_engine")
