"""What is run for servers that are not installed here, as text."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.backends import llama_cpp, nim, ollama, tgi, trtllm

pytestmark = pytest.mark.unit
AT = {"host": "127.0.0.1", "port": 8001}


@pytest.fixture
def folder(tmp_path: Path) -> Model:
    """A model in Hugging Face's layout."""
    weights = tmp_path / "step-100"
    weights.mkdir()
    for name in ("config.json", "model.safetensors"):
        (weights / name).touch()
    return Model(ModelKey("llama", "step-100"), "gpu", "f00d", weights)


@pytest.fixture
def engine(tmp_path: Path) -> Model:
    """An engine that TensorRT-LLM built."""
    weights = tmp_path / "fp8-engine"
    weights.mkdir()
    for name in ("config.json", "rank0.engine", "rank1.engine"):
        (weights / name).touch()
    return Model(ModelKey("llama", "fp8"), "gpu", "f00d", weights)


@pytest.fixture
def gguf(tmp_path: Path) -> Model:
    (tmp_path / "m.gguf").touch()
    return Model(ModelKey("qwen3-4b", "q4"), "cpu", "f00d", tmp_path / "m.gguf")


def line(argv, model: Model) -> str:
    return " ".join(argv).replace(str(model.weights), "WEIGHTS")


# trtllm


def test_trtllm_says_only_where_it_listens_unless_told_more(folder) -> None:
    told = trtllm.command(trtllm.Spec(), folder, **AT)
    assert line(told.argv, folder) == "trtllm-serve WEIGHTS --host 127.0.0.1 --port 8001"
    assert (told.served_name, told.key_env, told.health_path) == ("step-100", None, "/health")


def test_trtllm_over_two_nodes_is_one_line_for_every_task_of_mpi(folder) -> None:
    spec = trtllm.Spec(tp_size=8, pp_size=2)
    lines = trtllm.node_commands(spec, folder, nodes=["10.0.0.1", "10.0.0.2"], **AT)
    assert [line(one, folder) for one in lines] == [
        "trtllm-llmapi-launch trtllm-serve WEIGHTS --tp_size 8 --pp_size 2 --host 127.0.0.1 --port 8001"
    ] * 2
    with pytest.raises(ConfigError, match="16 GPUs cannot be shared evenly by 3 nodes"):
        trtllm.node_commands(spec, folder, nodes=["a", "b", "c"], **AT)


def test_every_option_of_trtllm_becomes_its_flag(engine) -> None:
    spec = trtllm.Spec(
        executable="/opt/trtllm/bin/trtllm-serve",
        backend_name="tensorrt",
        tokenizer="/tokenizers/llama",
        tp_size=2,
        pp_size=2,
        cp_size=2,
        ep_size=2,
        max_batch_size=64,
        max_num_tokens=8192,
        max_seq_len=16384,
        kv_cache_free_gpu_memory_fraction=0.85,
        extra_llm_api_options="/etc/trtllm.yaml",
        reasoning_parser="deepseek-r1",
        trust_remote_code=True,
        extra_args=["--log_level", "info"],
    )
    assert spec.n_gpus == 8
    assert line(trtllm.command(spec, engine, **AT).argv, engine) == (
        "/opt/trtllm/bin/trtllm-serve WEIGHTS --backend tensorrt --tokenizer /tokenizers/llama --tp_size 2 --pp_size 2"
        " --cp_size 2 --ep_size 2 --max_batch_size 64 --max_num_tokens 8192 --max_seq_len 16384"
        " --kv_cache_free_gpu_memory_fraction 0.85 --extra_llm_api_options /etc/trtllm.yaml"
        " --reasoning_parser deepseek-r1 --trust_remote_code --host 127.0.0.1 --port 8001 --log_level info"
    )


def test_an_engine_is_read_by_the_tensorrt_backend_only(engine) -> None:
    assert "trtllm_engine" in trtllm.reads(trtllm.Spec(backend_name="tensorrt"))
    with pytest.raises(ConfigError, match="holds TensorRT-LLM engines"):
        trtllm.command(trtllm.Spec(), engine, **AT)


def test_experts_that_do_not_divide_the_gpus_are_refused() -> None:
    with pytest.raises(ValidationError, match="ep_size = 3 must divide tp_size"):
        trtllm.Spec(tp_size=4, ep_size=3)


# tgi


def test_two_tgi_servers_on_one_machine_do_not_meet(folder) -> None:
    told = tgi.command(tgi.Spec(), folder, **AT)
    assert line(told.argv, folder) == (
        "text-generation-launcher --model-id WEIGHTS --master-port 8002 --shard-uds-path /tmp/tgi-8001"
        " --hostname 127.0.0.1 --port 8001"
    )
    assert told.env["PROMETHEUS_PORT"] == "8003"
    assert (told.served_name, told.key_env, tgi.N_PORTS) == (str(folder.weights), "API_KEY", 3)


def test_every_option_of_tgi_becomes_its_flag(folder) -> None:
    spec = tgi.Spec(
        num_shard=4,
        sharded=True,
        quantize="fp8",
        kv_cache_dtype="fp8_e5m2",
        max_input_tokens=4000,
        max_total_tokens=4096,
        max_batch_prefill_tokens=8192,
        max_batch_total_tokens=65536,
        max_batch_size=64,
        max_concurrent_requests=512,
        max_top_n_tokens=5,
        cuda_memory_fraction=0.9,
        trust_remote_code=True,
        json_output=True,
        extra_args=["--disable-grammar-support"],
    )
    assert spec.n_gpus == 4
    assert line(tgi.command(spec, folder, **AT).argv, folder) == (
        "text-generation-launcher --model-id WEIGHTS --num-shard 4 --quantize fp8 --kv-cache-dtype fp8_e5m2"
        " --max-input-tokens 4000 --max-total-tokens 4096 --max-batch-prefill-tokens 8192"
        " --max-batch-total-tokens 65536 --max-batch-size 64 --max-concurrent-requests 512 --max-top-n-tokens 5"
        " --cuda-memory-fraction 0.9 --trust-remote-code --json-output --sharded true --master-port 8002"
        " --shard-uds-path /tmp/tgi-8001 --hostname 127.0.0.1 --port 8001 --disable-grammar-support"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantize": "fp8", "dtype": "bfloat16"}, "one of `quantize` and `dtype`"),
        ({"num_shard": 2, "sharded": False}, "sharded is false, and num_shard = 2"),
        ({"max_input_tokens": 4096, "max_total_tokens": 4096}, "must be more than max_input_tokens"),
    ],
)
def test_options_of_tgi_that_contradict_each_other_are_refused(options, words) -> None:
    with pytest.raises(ValidationError, match=words):
        tgi.Spec(**options)


# nim


def test_a_nim_is_told_by_variables_and_given_its_key_by_name(folder) -> None:
    spec = nim.Spec(
        model_profile="vllm-bf16-tp2",
        tensor_parallel_size=2,
        max_model_len=8192,
        variables={"NIM_DISABLE_CUDA_GRAPH": "1"},
    )
    told = nim.command(spec, folder, **AT)
    assert told.argv == []
    assert told.env == {
        "NIM_SERVED_MODEL_NAME": "llama@step-100",
        "NIM_SERVER_PORT": "8001",
        "NIM_MODEL_NAME": str(folder.weights),
        "NIM_MODEL_PATH": str(folder.weights),
        "NIM_MODEL_PROFILE": "vllm-bf16-tp2",
        "NIM_MAX_MODEL_LEN": "8192",
        "NIM_TENSOR_PARALLEL_SIZE": "2",
        "NIM_DISABLE_CUDA_GRAPH": "1",
    }
    assert told.pass_env == ("NGC_API_KEY",)
    assert (told.health_path, told.binds_all, spec.n_gpus) == ("/v1/health/ready", True, 2)


def test_a_nim_that_brings_its_model_needs_no_weights(folder) -> None:
    bare = Model(ModelKey("llama-3.1-8b", "nim"), "gpu", "f00d")
    assert not nim.needs_weights(nim.Spec())
    assert "NIM_MODEL_NAME" not in nim.command(nim.Spec(ngc_key_env=None), bare, **AT).env
    assert nim.command(nim.Spec(ngc_key_env=None), bare, **AT).pass_env == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variables": {"NIM_SERVED_MODEL_NAME": "x"}}, "answers to the model key"),
        ({"variables": {"NGC_API_KEY": "nvapi-123"}}, "never write the key"),
        ({"variables": {"HF_TOKEN": "x"}}, "is no variable of a NIM"),
        ({"ngc_key_env": "nvapi-123"}, "must be NGC_API_KEY"),
    ],
)
def test_what_a_nim_must_not_be_told_is_refused(options, words) -> None:
    with pytest.raises(ValidationError, match=words):
        nim.Spec(**options)


# ollama


def test_a_gguf_file_becomes_an_ollama_model_named_after_the_key(gguf) -> None:
    spec = ollama.Spec(
        executable="/opt/ollama/bin/ollama",
        models_folder="/store",
        num_parallel=4,
        context_length=8192,
        flash_attention=True,
        kv_cache_type="q8_0",
        max_queue=512,
        modelfile=["PARAMETER stop <|im_end|>"],
    )
    told = ollama.command(spec, gguf, **AT)
    assert told.argv[:2] == ["/bin/sh", "-c"]
    assert told.argv[3:] == [
        "/opt/ollama/bin/ollama",
        "qwen3-4b:q4",
        str(gguf.weights),
        f"FROM {gguf.weights}\nPARAMETER stop <|im_end|>",
        "",
    ]
    assert told.env == {
        "OLLAMA_HOST": "127.0.0.1:8001",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_MODELS": "/store",
        "OLLAMA_NUM_PARALLEL": "4",
        "OLLAMA_CONTEXT_LENGTH": "8192",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "OLLAMA_MAX_QUEUE": "512",
    }
    assert (told.served_name, told.health_path) == ("qwen3-4b:q4", "/v1/models/qwen3-4b:q4")


def test_a_pulled_model_is_copied_to_the_name_after_the_key() -> None:
    model = Model(ModelKey("llama3.2", "3b"), "cpu", "f00d", served_name="llama3.2:3b-instruct-q8_0")
    told = ollama.command(ollama.Spec(pull=True), model, **AT)
    assert told.argv[3:] == ["ollama", "llama3.2:3b", "llama3.2:3b-instruct-q8_0", "", "yes"]


def test_ollama_without_weights_and_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs `weights`.*or in `served_name`"):
        ollama.command(ollama.Spec(), Model(ModelKey("a", "b"), "cpu", "f00d"), **AT)


def test_a_modelfile_names_no_other_weights() -> None:
    with pytest.raises(ValidationError, match="FROM does not belong here"):
        ollama.Spec(modelfile=["FROM /other.gguf"])


# llama_cpp


def test_every_option_of_llama_cpp_becomes_its_flag(gguf) -> None:
    spec = llama_cpp.Spec(
        executable="/opt/llama.cpp/llama-server",
        threads=8,
        threads_batch=16,
        ctx_size=32768,
        parallel=8,
        batch_size=2048,
        ubatch_size=512,
        n_gpu_layers=99,
        split_mode="layer",
        tensor_split="3,1",
        cache_type_k="q8_0",
        cache_type_v="q8_0",
        chat_template_file="/templates/chat.jinja",
        seed=7,
        n_gpus=2,
        extra_args=["--cache-reuse", "256"],
    )
    told = llama_cpp.command(spec, gguf, **AT)
    assert line(told.argv, gguf) == (
        "/opt/llama.cpp/llama-server --model WEIGHTS --alias qwen3-4b@q4 --metrics --threads 8 --threads-batch 16"
        " --ctx-size 32768 --parallel 8 --batch-size 2048 --ubatch-size 512 --n-gpu-layers 99 --split-mode layer"
        " --tensor-split 3,1 --cache-type-k q8_0 --cache-type-v q8_0 --chat-template-file /templates/chat.jinja"
        " --seed 7 --host 127.0.0.1 --port 8001 --cache-reuse 256"
    )
    assert (told.key_env, told.metrics_path, told.served_name) == ("LLAMA_API_KEY", "/metrics", None)


def test_a_split_model_is_named_by_its_first_part(tmp_path) -> None:
    for part in (2, 1, 3):
        (tmp_path / f"big-0000{part}-of-00003.gguf").touch()
    model = Model(ModelKey("big", "q4"), "cpu", "f00d", tmp_path)
    assert f"--model {tmp_path}/big-00001-of-00003.gguf" in " ".join(
        llama_cpp.command(llama_cpp.Spec(), model, **AT).argv
    )
    (tmp_path / "other.gguf").touch()
    with pytest.raises(ConfigError, match=r"holds 4 \.gguf files\. Llama-server reads one GGUF file"):
        llama_cpp.command(llama_cpp.Spec(), model, **AT)


# all of them


@pytest.mark.parametrize(
    ("backend", "arg", "words"),
    [
        (trtllm, "--tp_size=2", "use `tp_size`"),
        (trtllm, "--backend", "use `backend_name`"),
        (trtllm, "--served_model_name", "name of its folder"),
        (trtllm, "--config", "use `extra_llm_api_options`"),
        (tgi, "--model-id", "the model's `weights`"),
        (tgi, "--api-key", "random key through its environment"),
        (tgi, "--max-input-length", "use `max_input_tokens`"),
        (tgi, "--shard-uds-path", "each server gets its own"),
        (llama_cpp, "--api-key", "random key through its environment"),
        (llama_cpp, "-ngl", "use `n_gpu_layers`"),
        (llama_cpp, "--alias", "answers to the model key"),
        (llama_cpp, "--draft-max", "was removed from the server: use `--spec-draft-n-max`"),
    ],
)
def test_an_extra_argument_that_breaks_the_contract_is_refused(backend, arg, words) -> None:
    with pytest.raises(ValidationError, match=words):
        backend.Spec(extra_args=[arg, "2"])


@pytest.mark.parametrize("backend", [trtllm, tgi, nim])
def test_a_gguf_file_is_refused_with_the_conversion(backend, gguf) -> None:
    with pytest.raises(ConfigError, match=r"is a GGUF file.* To convert it: python -c .*gguf_file=m\.gguf"):
        backend.command(backend.Spec(), gguf, **AT)


@pytest.mark.parametrize("backend", [ollama, llama_cpp])
def test_a_hugging_face_folder_is_refused_with_the_conversion(backend, folder) -> None:
    with pytest.raises(ConfigError, match=r"is a Hugging Face folder\. To convert it: python convert_hf_to_gguf\.py"):
        backend.command(backend.Spec(), folder, **AT)
