"""vLLM: its OpenAI-compatible server for one model in Hugging Face's layout, or for a LoRA adapter of one.

Needs   the `vllm` command in an environment of its own; imports no vLLM code
Offers  chat, completions, log-likelihood by echo, the best tokens at each position
Source  vLLM 0.32 documentation, "OpenAI-Compatible Server", "Parallelism and Scaling"; `vllm serve --help=all`
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eval_pipelines.errors import ConfigError
from eval_pipelines.serving.backends import Model, ServerCommand
from eval_pipelines.serving.backends._vllm_swap import BARRED, FLAGS, FOLDER, swap, swap_key
from eval_pipelines.serving.backends._vllm_words import CAUSES, ELSEWHERE, METRICS, REMOVED, SHORT
from eval_pipelines.serving.flags import arguments, check_extra_args, flag, names, program
from eval_pipelines.serving.weights import huggingface_folder, is_adapter

__all__ = ["Spec", "command", "node_commands", "swap", "swap_key"]

# no usage reports; and the server's packages come from its own environment, not from ours
_ENV = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONPATH": ""}
_BASE_NAME = "lora-base"
READS = frozenset({"huggingface", "lora", "mistral", "pickle"})
# Seen with 0.32, in float32 bit for bit; its child i of a request with a seed has the seed plus i. More at once would
# leave fewer requests to spread, and lose more if one is cut off.
N_PER_REQUEST = 8
_NOT_FLAGS = {"executable", "port", "extra_args", "hot_swap", "lora_base", "lora_modules"}
_NOT_SWAPPED = ("quantization", "load_format", "speculative_config")
_WEIGHTS_AS: dict[str, tuple[str, ...]] = {"auto": ("*.safetensors",), "safetensors": ("*.safetensors",)}


class Spec(BaseModel):
    """Options of `vllm serve`. What is left out is left to vLLM."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    executable: str = Field(
        default="vllm", min_length=1, description="The `vllm` command: on the PATH, or a full path."
    )
    tensor_parallel_size: int = Field(default=1, ge=1, description="GPUs that share each layer.")
    pipeline_parallel_size: int = Field(default=1, ge=1, description="Groups of GPUs that hold successive layers.")
    data_parallel_size: int = Field(default=1, ge=1, description="Copies of the model behind one address.")
    decode_context_parallel_size: int = Field(
        default=1, ge=1, description="Ranks that share the cache of one context. Takes no GPUs of its own."
    )
    prefill_context_parallel_size: int = Field(
        default=1, ge=1, description="Ranks that split one prompt. Multiplies the number of GPUs."
    )
    enable_expert_parallel: bool = Field(default=False, description="Whole experts per GPU, for mixtures of experts.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = Field(
        default=None, description="Type of weights and activations; default: the checkpoint's."
    )
    quantization: str | None = Field(default=None, description="Method, such as fp8; default: as config.json says.")
    load_format: str | None = Field(default=None, description="How weights are read: safetensors, pt, dummy, mistral …")
    max_model_len: int | Literal["auto"] | None = Field(
        default=None, description="Prompt plus answer in tokens; default: the model's; auto: what fits the memory."
    )
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1, description="Share of each GPU's memory.")
    kv_cache_memory_bytes: int | None = Field(
        default=None, ge=1, description="Keys and values per GPU, in place of the share. Always set it on a CPU."
    )
    max_num_seqs: int | None = Field(default=None, ge=1, description="Requests computed at once.")
    max_num_batched_tokens: int | None = Field(default=None, ge=1, description="Tokens computed in one step.")
    enforce_eager: bool = Field(
        default=False, description="No compilation, no CUDA graphs: starts faster, runs slower."
    )
    enable_prefix_caching: bool | None = Field(default=None, description="Shared prompt beginnings are computed once.")
    speculative_config: dict[str, Any] | None = Field(default=None, description="Speculative decoding, as vLLM's JSON.")
    lora_base: str | None = Field(
        default=None, description="Folder of the model that LoRA adapters (the weights) extend."
    )
    lora_modules: dict[str, str] = Field(default_factory=dict, description="Further adapters to load: name → folder.")
    max_lora_rank: int | None = Field(default=None, ge=1, description="Highest rank of an adapter; vLLM's default: 16.")
    chat_template: str | None = Field(default=None, description="File (full path) or one line; default: the model's.")
    reasoning_parser: str | None = Field(default=None, description="Takes the reasoning out of an answer's text.")
    tokenizer: str | None = Field(default=None, description="Folder of another tokenizer than the checkpoint's.")
    trust_remote_code: bool = Field(default=False, description="Run the code that lies beside the weights.")
    seed: int | None = Field(default=None, ge=0, description="Seed of the server; a request's own seed comes first.")
    hot_swap: bool = Field(
        default=False, description="The next checkpoint of a family is loaded into the warm server, where that works."
    )
    port: int | None = Field(default=None, ge=1, le=65535, description="Fixed port; default: any free one.")
    extra_args: tuple[str, ...] = Field(default=(), description="Further arguments of `vllm serve`, one word each.")

    @property
    def n_gpus(self) -> int:
        """GPUs over all nodes: tensor * pipeline * data * prefill context parallel."""
        sizes = (self.tensor_parallel_size, self.pipeline_parallel_size, self.prefill_context_parallel_size)
        return sizes[0] * sizes[1] * sizes[2] * self.data_parallel_size

    @field_validator("executable")
    @classmethod
    def _is_found_from_anywhere(cls, executable: str) -> str:
        return program(executable)

    @field_validator("lora_base", "lora_modules")
    @classmethod
    def _are_full_paths(cls, value: Any) -> Any:
        paths = value.values() if isinstance(value, dict) else [value] if value else []
        if not all(path.startswith("/") for path in paths):
            raise ValueError("must be a full path: the server starts in another folder")
        return value

    @field_validator("max_model_len")
    @classmethod
    def _is_a_length(cls, length: int | str | None) -> int | str | None:
        if isinstance(length, int) and length < 1:
            raise ValueError("must be at least 1")
        return length

    @field_validator("extra_args")
    @classmethod
    def _says_nothing_twice(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        own = {flag(name): f"use `{name}`" for name in cls.model_fields if name != "extra_args"}
        own |= {short: f"use `{name}`" for short, name in SHORT.items()}
        check_extra_args(args, owned=own | ELSEWHERE, gone=REMOVED)
        return args

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.gpu_memory_utilization is not None and self.kv_cache_memory_bytes is not None:
            raise ValueError("give one of gpu_memory_utilization and kv_cache_memory_bytes: the second overrides it")
        dcp, tp = self.decode_context_parallel_size, self.tensor_parallel_size
        if self.prefill_context_parallel_size == 1 and tp % dcp:
            raise ValueError(f"decode_context_parallel_size = {dcp} must divide tensor_parallel_size = {tp}")
        if _BASE_NAME in self.lora_modules:
            raise ValueError(f"lora_modules: {_BASE_NAME!r} is the name of the base model; choose another")
        if self.hot_swap:
            self._check_swappable()
        return self

    def _check_swappable(self) -> None:
        given = [name for name in _NOT_SWAPPED if getattr(self, name) is not None]
        given += ["data_parallel_size"] if self.data_parallel_size > 1 else []
        given += ["lora_modules without lora_base"] if self.lora_modules and not self.lora_base else []
        given += [f"{one} in extra_args" for one in BARRED if one in names(self.extra_args)]
        if given:
            raise ValueError(f"hot_swap does not go with {', '.join(given)}: weights could not be seen to be replaced")


def reads(spec: Spec) -> frozenset[str]:
    """Adapters where a base is named; else folders whose files `load_format` reads."""
    if spec.lora_base is not None:
        return frozenset({"lora"})
    if spec.load_format == "mistral":
        return frozenset({"mistral"})
    return frozenset({"huggingface"} if (spec.load_format or "auto") in _WEIGHTS_AS else {"huggingface", "pickle"})


def command(spec: Spec, model: Model, *, host: str, port: int) -> ServerCommand:
    """The command line for one model on one machine. Raises ConfigError for weights vLLM cannot read."""
    return ServerCommand(
        argv=[*_serve(spec, model), "--host", host, "--port", str(port), *spec.extra_args],
        env={**_ENV, "PYTHONPATH": str(FOLDER)} if spec.hot_swap else _ENV,
        key_env="VLLM_API_KEY",
        causes=CAUSES,
        metrics_path="/metrics",
        metric_names=METRICS,
    )


def node_commands(
    spec: Spec, model: Model, *, nodes: Sequence[str], host: str, port: int, master_port: int = 29501
) -> list[list[str]]:
    """One command line per node, the first for the node that answers.

    The others serve no HTTP and do not end when the first does: who starts them must stop each one, and a dead one
    is only noticed by the next request, not by /health.

    Args:
        nodes: Addresses under which the nodes reach each other.

    Raises:
        ConfigError: the GPUs do not divide by the nodes, or an extra argument does not go with several nodes.
    """
    if not nodes or spec.n_gpus % len(nodes):
        raise ConfigError(f"{model.key}: {spec.n_gpus} GPUs cannot be shared evenly by {len(nodes)} nodes")
    if len(nodes) == 1:
        return [list(command(spec, model, host=host, port=port).argv)]
    if spec.hot_swap:
        raise ConfigError(f"{model.key}: hot_swap does not go with several nodes")
    barred = {"--distributed-executor-backend", "--api-server-count", "-asc"} & {*names(spec.extra_args)}
    if barred:
        raise ConfigError(f"{model.key}: {', '.join(sorted(barred))} in extra_args does not go with several nodes")
    shared = [*_serve(spec, model), "--distributed-executor-backend", "mp", "--nnodes", str(len(nodes))]
    shared += ["--master-addr", nodes[0], "--master-port", str(master_port)]
    own = [["--host", host, "--port", str(port)] if rank == 0 else ["--headless"] for rank in range(len(nodes))]
    return [[*shared, "--node-rank", str(rank), *mine, *spec.extra_args] for rank, mine in enumerate(own)]


def _serve(spec: Spec, model: Model) -> list[str]:
    weights_as = _WEIGHTS_AS.get(spec.load_format or "auto", ())
    config = "params.json" if spec.load_format == "mistral" else "config.json"
    adapters = dict(spec.lora_modules)
    # The served name is the model key, so a request meant for another checkpoint is refused, not answered.
    name = str(model.key)
    if spec.lora_base is not None:
        if model.weights is None or not is_adapter(model.weights):
            raise ConfigError(f"{model.key}: `lora_base` is set, so its weights must be a LoRA adapter (PEFT's folder)")
        adapters = {name: str(model.weights), **adapters}
        model, name = replace(model, weights=Path(spec.lora_base)), _BASE_NAME
    elif model.weights is not None and is_adapter(model.weights):
        raise ConfigError(
            f"{model.key}: {model.weights} is a LoRA adapter. Name the model it extends in `lora_base`, "
            f"or merge it (PEFT: merge_and_unload(), then save_pretrained())."
        )
    folder = huggingface_folder(model, server="vLLM", config=config, weights_as=weights_as)
    argv = [spec.executable, "serve", str(folder), "--served-model-name", name, "--generation-config", "vllm"]
    argv += arguments(spec, leave_out=_NOT_FLAGS)
    if spec.hot_swap:
        argv += FLAGS
    if adapters:
        argv += ["--enable-lora", "--lora-modules", *(f"{one}={path}" for one, path in adapters.items())]
    return argv
