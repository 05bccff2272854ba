"""What a checkpoint's layout means to the servers of this project."""

import struct
from pathlib import Path

import pytest

from eval_pipelines.config import Config
from eval_pipelines.errors import ConfigError, StartError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.backends import command, embedded, likely_cause, vllm
from eval_pipelines.serving.lease import lease

KEY = ModelKey("m", "a")


def model(weights: Path | None) -> Model:
    return Model(KEY, "one", "f00d", weights)


@pytest.mark.unit
def test_the_embedded_server_refuses_a_hugging_face_folder_with_the_whole_conversion(tmp_path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError) as caught:
        embedded.command(embedded.Spec(), model(tmp_path), host="h", port=1)
    assert str(caught.value) == (
        f"m@a: {tmp_path} is a Hugging Face folder. To convert it: python convert_hf_to_gguf.py {tmp_path} "
        "--outtype f16 --outfile OUT.gguf (in a checkout of llama.cpp). The embedded server reads one GGUF file; "
        "otherwise give the model a deployment whose backend reads this layout."
    )


@pytest.mark.unit
def test_the_embedded_server_takes_no_parts(tmp_path) -> None:
    for part in (1, 2):
        (tmp_path / f"m-0000{part}-of-00002.gguf").touch()
    with pytest.raises(ConfigError, match=r"holds 2 \.gguf files"):
        embedded.command(embedded.Spec(), model(tmp_path), host="h", port=1)


@pytest.mark.unit
def test_a_command_line_without_weights_needs_none() -> None:
    bare, filled = command.Spec(argv=["serve", "{port}"]), command.Spec(argv=["serve", "{weights}"])
    assert (command.needs_weights(bare), command.reads(bare)) == (False, frozenset())
    assert (command.needs_weights(filled), command.reads(filled)) == (True, command.READS)
    text = "deployments: {one: {backend: command, argv: [serve, '{port}']}}\nmodels: {m@a: {deployment: one}}"
    assert Config.parse(text, path=Path("/nowhere/evals.yaml")).models["m@a"].weights is None


@pytest.mark.unit
def test_what_vllm_reads_depends_on_its_options() -> None:
    assert vllm.reads(vllm.Spec()) == {"huggingface"}
    assert vllm.reads(vllm.Spec(lora_base="/base")) == {"lora"}
    assert vllm.reads(vllm.Spec(load_format="pt")) == {"huggingface", "pickle"}
    assert vllm.reads(vllm.Spec(load_format="mistral")) == {"mistral"}


# what the embedded server printed when each file was damaged on purpose
SAID = [
    (
        "error: /m.gguf is truncated: it has 60,000,000 bytes and needs 98,362,432. Copy or download it again.",
        "damaged",
    ),
    (
        "error: /m.gguf is a truncated or damaged GGUF file: its header ends early. Copy or download it again.",
        "damaged",
    ),
    ("error: /m.gguf is no GGUF file: it has 10 bytes. Fetch it again.", "damaged"),
    ("error: /m.gguf holds no tensors: it is a vocabulary or an empty file, not a model.", "damaged"),
    ("error: tensor blk.29.ffn_up.weight is of the unknown type 77: update the gguf package.", "newer kind of GGUF"),
    ("error: /m.gguf is GGUF version 9; this server reads versions 2 and 3 (little-endian).", "newer kind of GGUF"),
    ("error: OpenVINO cannot load m.gguf: unordered_map::at", "it is damaged, or of an architecture"),
    ("IndexError: map::at", "it is damaged, or of an architecture"),
    ("[load_gguf] tensor blk.29.ffn_up.weight has incompatible last dim shape: 999", "damaged or still being written"),
    ("error: openvino_genai not installed. Run: pip install 'eval-pipelines[embedded]'", "install the extra"),
]


@pytest.mark.unit
@pytest.mark.parametrize(("said", "advice"), SAID, ids=[said[-40:] for said, _ in SAID])
def test_the_embedded_servers_own_words_are_understood(said: str, advice: str, tmp_path) -> None:
    (tmp_path / "m.gguf").touch()
    causes = embedded.command(embedded.Spec(), model(tmp_path), host="h", port=1).causes
    assert advice in (likely_cause(["loading", said], causes) or "")


def cut(data: bytes) -> bytes:
    return data[:60_000_000]


def with_an_unknown_type(data: bytes) -> bytes:
    at = data.index(b"blk.29.ffn_up.weight") + len(b"blk.29.ffn_up.weight")
    at += 4 + 8 * struct.unpack_from("<I", data, at)[0]
    return data[:at] + struct.pack("<I", 77) + data[at + 4 :]


def without_its_tokens(data: bytes) -> bytes:
    return data.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz", 1)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut, with_an_unknown_type, without_its_tokens], ids=lambda one: one.__name__)
async def test_a_damaged_gguf_file_is_told_as_such(tmp_path, small_model, damage) -> None:
    pytest.importorskip("openvino_genai", reason="the extra 'embedded' is not installed")
    weights = tmp_path / "m.gguf"
    weights.write_bytes(damage(small_model.read_bytes()))
    how = Config.parse("deployments: {one: {backend: embedded, keep_warm_s: 0}}", path=Path("/nowhere/evals.yaml"))
    with pytest.raises(StartError, match=r"Likely cause: .*damaged"):
        async with lease(model(weights), how.deployment("one"), needs=("chat",), leases=tmp_path, secrets_={}):
            pass
