"""What is run for the transformers server, as text, and its failures. The excerpts are what was printed when provoked."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.backends import likely_cause, transformers

pytestmark = pytest.mark.unit


@pytest.fixture
def model(tmp_path: Path) -> Model:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    return Model(ModelKey("llama", "step-100"), "gpu", "f00d", tmp_path)


def line(spec: transformers.Spec, model: Model) -> str:
    argv = [*transformers.command(spec, model, host="127.0.0.1", port=8001).argv]
    assert Path(argv[1]).is_file()
    argv[1] = Path(argv[1]).name
    return " ".join(argv).replace(str(model.weights), "WEIGHTS")


HEAD = "python3 transformers_server.py --model WEIGHTS --served-model-name llama@step-100"
TAIL = "--host 127.0.0.1 --port 8001"


def test_without_options_only_name_and_address_are_said(model) -> None:
    assert line(transformers.Spec(), model) == f"{HEAD} {TAIL}"


def test_every_option_becomes_its_flag(model) -> None:
    spec = transformers.Spec(
        python="/opt/hf/bin/python",
        pipeline_parallel_size=4,
        dtype="bfloat16",
        max_batch_size=32,
        max_batch_tokens=16384,
        max_model_len=8192,
        max_waiting=4096,
        attn_implementation="flash_attention_2",
        trust_remote_code=True,
        chat_template="/templates/chat.jinja",
        threads=8,
    )
    assert line(spec, model) == (
        HEAD.replace("python3", "/opt/hf/bin/python")
        + " --pipeline-parallel-size 4 --dtype bfloat16 --max-batch-size 32"
        " --max-batch-tokens 16384 --max-model-len 8192 --max-waiting 4096 --attn-implementation flash_attention_2"
        f" --trust-remote-code --chat-template /templates/chat.jinja --threads 8 {TAIL}"
    )


def test_it_takes_its_gpus_and_none_on_a_cpu(model) -> None:
    assert transformers.Spec(pipeline_parallel_size=4).n_gpus == 4
    assert transformers.Spec(device="cpu").n_gpus == 0
    assert line(transformers.Spec(device="cpu"), model) == f"{HEAD} --device cpu {TAIL}"


def test_gpus_on_a_cpu_are_refused() -> None:
    with pytest.raises(ValidationError, match="takes no GPUs"):
        transformers.Spec(device="cpu", pipeline_parallel_size=2)


@pytest.mark.parametrize("wrong", [{"chat_template": "chat.jinja"}, {"python": "venv/bin/python"}])
def test_a_path_that_depends_on_the_folder_is_refused(wrong) -> None:
    with pytest.raises(ValidationError, match="full path"):
        transformers.Spec(**wrong)


def test_a_gguf_file_is_refused_with_the_conversion(tmp_path) -> None:
    (tmp_path / "m.gguf").touch()
    model = Model(ModelKey("llama", "q4"), "gpu", "f00d", tmp_path / "m.gguf")
    with pytest.raises(ConfigError, match=r"is a GGUF file.*Transformers reads a Hugging Face folder"):
        transformers.command(transformers.Spec(), model, host="h", port=1)


def test_the_key_and_the_packages_of_this_environment_stay_out(model) -> None:
    told = transformers.command(transformers.Spec(), model, host="h", port=1)
    assert told.key_env == "TRANSFORMERS_API_KEY"
    assert told.env["PYTHONPATH"] == ""
    assert told.metric_names["n_waiting"] == "transformers_requests_waiting"


SAID = [
    ("cannot start 'pythn': [Errno 2] No such file or directory: 'pythn'", "no such Python"),
    ("ModuleNotFoundError: No module named 'torch'", "pip install torch transformers fastapi uvicorn"),
    ("error: device 'cuda' was asked for, and torch finds no CUDA device here", "set `device: cpu`"),
    ("error: 4 GPUs were asked for, and torch finds 2", "fewer GPUs than `pipeline_parallel_size`"),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "lower `max_batch_size`"),
    (
        "RuntimeError: unable to mmap 269060552 bytes from file </m/model.safetensors>: Cannot allocate memory (12)",
        "the memory does not suffice",
    ),
    ("error: max_model_len = 100000 is greater than the model's own 8192", "lower `max_model_len`"),
    (
        "ValueError: The checkpoint you are trying to load has model type `nosuch` but Transformers does not "
        "recognize this architecture. This could be because of an issue with the checkpoint.",
        "no causal model",
    ),
    (
        "ValueError: Unrecognized configuration class <class 'T5Config'> for this kind of AutoModel: "
        "AutoModelForCausalLM.",
        "no causal model",
    ),
    ("ValueError: Unrecognized model in /m. Should have a `model_type` key in its config.json.", "no causal model"),
    (
        "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, file "
        "not fully covered",
        "cut short or damaged",
    ),
    ("error: the weights lack 9 tensors of the model: model.layers.7.input_layernorm.weight …", "not all of them"),
    (
        "RuntimeError: You set `ignore_mismatched_sizes` to `False`, thus raising an error. For details look at the "
        "above report!",
        "not those of config.json",
    ),
    ("ValueError: Couldn't instantiate the backend tokenizer from one of:", "copy it beside the weights"),
    (
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the "
        "cached files.",
        "copy it beside the weights",
    ),
    ("OSError: You are trying to access a gated repo.", "code of a gated model"),
    (
        "ValueError: The repository code contains custom code which must be executed to correctly load the model.",
        "set `trust_remote_code: true`",
    ),
    (
        "ImportError: FlashAttention2 has been toggled on, but it cannot be used due to the following error: the "
        "package for FlashAttention2 doesn't seem to be installed.",
        "`attn_implementation` does not go with",
    ),
    ('ValueError: Specified `attn_implementation="nosuch"` is not supported.', "`attn_implementation` does not go"),
    ("error: 127.0.0.1:8000: [Errno 98] Address already in use", "leave `port` out"),
]


@pytest.mark.parametrize(("said", "advice"), SAID, ids=[said[:40] for said, _ in SAID])
def test_its_own_words_are_understood(model, said, advice) -> None:
    causes = transformers.command(transformers.Spec(), model, host="h", port=1).causes
    log = ["Traceback (most recent call last):", '  File "/x/transformers_server.py", line 62, in main', said]
    assert advice in (likely_cause(log, causes) or "")
