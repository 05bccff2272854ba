"""SGLang: its OpenAI-compatible server for one model in Hugging Face's layout.

Needs   an environment of its own with the `sglang` package; imports no SGLang code
Limits  its key can only be given in the argument list, which every user can read: it gets none, so on a machine
        that is shared anyone can ask it through loopback
Source  SGLang documentation, "Server Arguments"
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from eval_pipelines.errors import ConfigError
from eval_pipelines.serving.backends import Cause, Model, ServerCommand
from eval_pipelines.serving.flags import arguments, check_extra_args, flag, program
from eval_pipelines.serving.weights import huggingface_folder

READS = frozenset({"huggingface"})
_NOT_FLAGS = {"python", "port", "extra_args"}
_WEIGHTS_AS: dict[str, tuple[str, ...]] = {"auto": ("*.safetensors",), "safetensors": ("*.safetensors",)}
_NODES = "one machine serves here; node_commands() writes the command lines for several"
_ELSEWHERE = {
    "--model-path": "it is the model's `weights`",
    "--model": "it is the model's `weights`",
    "--host": "the lease chooses it",
    "--served-model-name": "the server answers to the model key and to nothing else",
    "--sampling-defaults": "it is always `openai`, so that no file beside the weights changes how answers are sampled",
    "--api-key": "every user of the machine can read an argument list",
    "--admin-api-key": "every user of the machine can read an argument list",
    "--config": "a second file could contradict this one; write its entries here",
    "--tensor-parallel-size": "use `tp_size`",
    "--tp": "use `tp_size`",
    "--pipeline-parallel-size": "use `pp_size`",
    "--data-parallel-size": "use `dp_size`",
    "--dp": "use `dp_size`",
    "--expert-parallel-size": "use `ep_size`",
    "--ep": "use `ep_size`",
    "--enable-metrics": "it is always on: they are read while the server is asked",
    **dict.fromkeys(("--nnodes", "--node-rank", "--dist-init-addr", "--nccl-init-addr"), _NODES),
}
# of SGLang 0.5.23. It looks up every prompt token in its prefix cache.
_METRICS = {
    "n_running": "sglang:num_running_reqs",
    "n_waiting": "sglang:num_queue_reqs",
    "kv_cache_share": "sglang:token_usage",
    "prefix_cache_hits": "sglang:cached_tokens_total",
    "prefix_cache_queries": "sglang:prompt_tokens_total",
    "prompt_tokens": "sglang:prompt_tokens_total",
    "generation_tokens": "sglang:generation_tokens_total",
    "n_finished": "sglang:num_requests_total",
    "n_preempted": "sglang:num_retracted_requests_total",
}
_CAUSES = (
    Cause(
        r"no module named '?sglang",
        "SGLang is not installed there: name the Python of its environment in `python`",
    ),
    Cause(
        r"unrecognized arguments|invalid choice", "this version of SGLang does not take an argument: see `extra_args`"
    ),
    Cause(
        r"not enough memory\. please try to increase|cuda out of memory|outofmemoryerror",
        "the GPU's memory does not suffice: raise `mem_fraction_static` if the cache is too small, lower it or "
        "`chunked_prefill_size` if computing runs out, or raise `tp_size`",
    ),
    Cause(r"safetensorerror|incomplete metadata", "a weights file is cut short or damaged: copy the checkpoint again"),
    Cause(r"does not recognize this architecture|are not supported", "SGLang does not know the model's architecture"),
)


class Spec(BaseModel):
    """Options of `python -m sglang.launch_server`. What is left out is left to SGLang."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    python: str = Field(default="python3", min_length=1, description="The Python that has SGLang: a full path.")
    tp_size: int = Field(default=1, ge=1, description="GPUs that share each layer.")
    pp_size: int = Field(default=1, ge=1, description="Groups of GPUs that hold successive layers.")
    dp_size: int = Field(default=1, ge=1, description="Copies of the model, or of its attention, behind one address.")
    ep_size: int = Field(default=1, ge=1, description="GPUs that share the experts, for mixtures of experts.")
    enable_dp_attention: bool = Field(default=False, description="Copies of the attention only: within `tp_size`.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = Field(
        default=None, description="Type of weights and activations; default: the checkpoint's."
    )
    quantization: str | None = Field(default=None, description="Method, such as fp8; default: as config.json says.")
    load_format: str | None = Field(default=None, description="How weights are read: safetensors, pt, dummy …")
    context_length: int | None = Field(
        default=None, ge=1, description="Prompt plus answer in tokens; default: the model's."
    )
    mem_fraction_static: float | None = Field(default=None, gt=0, lt=1, description="Share for weights and cache.")
    max_running_requests: int | None = Field(default=None, ge=1, description="Requests computed at once.")
    chunked_prefill_size: int | None = Field(default=None, ge=-1, description="Tokens of a prompt at once; -1: all.")
    disable_radix_cache: bool = Field(default=False, description="Shared prompt beginnings are computed each time.")
    chat_template: str | None = Field(default=None, description="Name, or file (full path); default: the model's.")
    reasoning_parser: str | None = Field(default=None, description="Takes the reasoning out of an answer's text.")
    tokenizer_path: str | None = Field(default=None, description="Folder of another tokenizer than the checkpoint's.")
    trust_remote_code: bool = Field(default=False, description="Run the code that lies beside the weights.")
    random_seed: int | None = Field(default=None, ge=0, description="Seed of the server.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Fixed port; default: any free one.")
    extra_args: tuple[str, ...] = Field(default=(), description="Further arguments of the server, one word each.")

    @property
    def n_gpus(self) -> int:
        """GPUs over all nodes."""
        return self.tp_size * self.pp_size * (1 if self.enable_dp_attention else self.dp_size)

    @field_validator("python")
    @classmethod
    def _is_found_from_anywhere(cls, python: str) -> str:
        return program(python)

    @field_validator("extra_args")
    @classmethod
    def _says_nothing_twice(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        own = {flag(name): f"use `{name}`" for name in cls.model_fields if name != "extra_args"}
        check_extra_args(args, owned=own | _ELSEWHERE, gone={})
        return args


def command(spec: Spec, model: Model, *, host: str, port: int) -> ServerCommand:
    """The command line for one model on one machine. Raises ConfigError for weights SGLang cannot read."""
    return ServerCommand(
        argv=[*_launch(spec, model, host, port), *spec.extra_args],
        env={"PYTHONPATH": ""},
        causes=_CAUSES,
        metrics_path="/metrics",
        metric_names=_METRICS,
    )


def node_commands(
    spec: Spec, model: Model, *, nodes: Sequence[str], host: str, port: int, master_port: int = 50000
) -> list[list[str]]:
    """One command line per node, the first for the node that answers. Raises ConfigError if the GPUs do not divide."""
    if not nodes or spec.n_gpus % len(nodes):
        raise ConfigError(f"{model.key}: {spec.n_gpus} GPUs cannot be shared evenly by {len(nodes)} nodes")
    shared = _launch(spec, model, host, port)
    if len(nodes) > 1:
        shared += ["--dist-init-addr", f"{nodes[0]}:{master_port}", "--nnodes", str(len(nodes)), "--node-rank"]
        return [[*shared, str(rank), *spec.extra_args] for rank in range(len(nodes))]
    return [[*shared, *spec.extra_args]]


def _launch(spec: Spec, model: Model, host: str, port: int) -> list[str]:
    folder = huggingface_folder(model, server="SGLang", weights_as=_WEIGHTS_AS.get(spec.load_format or "auto", ()))
    # The served name is the model key, so a request meant for another checkpoint is refused, not answered.
    return [
        spec.python, "-m", "sglang.launch_server", "--model-path", str(folder), "--served-model-name", str(model.key),
        "--sampling-defaults", "openai", "--enable-metrics", *arguments(spec, leave_out=_NOT_FLAGS), "--host", host, "--port", str(port),
    ]  # fmt: skip
