"""trtllm: TensorRT-LLM's OpenAI-compatible server, `trtllm-serve`, for one checkpoint or one built engine.

Needs   the `trtllm-serve` command (usually in a container); imports no TensorRT-LLM code
Offers  chat, completions
Limits  it takes no key, so on a machine that is shared anyone can ask it through loopback; it calls the model by the
        name of its folder
Source  TensorRT-LLM documentation 0.18 to 1.1, "trtllm-serve"; not run here
"""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eval_pipelines.errors import ConfigError
from eval_pipelines.serving.backends import Cause, Model, ServerCommand
from eval_pipelines.serving.flags import arguments, check_extra_args, flag, flag_with_underscores, program
from eval_pipelines.serving.weights import huggingface_folder, some_weights

READS = frozenset({"huggingface", "trtllm_engine", "trtllm_checkpoint"})

_NOT_FLAGS = {"executable", "port", "extra_args"}
_NODES = "one machine serves here"
_ELSEWHERE = {
    "--host": "the lease chooses it",
    "--served-model-name": "the server is expected to call the model by the name of its folder",
    "--config": "use `extra_llm_api_options`",
    "--free-gpu-memory-fraction": "use `kv_cache_free_gpu_memory_fraction`",
    "--tensor-parallel-size": "use `tp_size`",
    "--pipeline-parallel-size": "use `pp_size`",
    "--context-parallel-size": "use `cp_size`",
    "--moe-expert-parallel-size": "use `ep_size`",
    **dict.fromkeys(("--metadata-server-config-file", "--server-role", "--disagg-cluster-uri"), _NODES),
}
_CAUSES = (
    Cause(
        r"cannot start .*no such file",
        "there is no such command: give the deployment a container, or name `trtllm-serve` in `executable`",
    ),
    Cause(
        r"no such option|invalid value for|got unexpected extra argument|missing argument",
        "this release of TensorRT-LLM does not take an argument: see `extra_args`",
    ),
    Cause(
        r"was built (with|by) a different|serialized engine.*version|deserialize.*engine.*(fail|version)|"
        r"engine plan file is not compatible|incompatible.*engine",
        "the engine was built by another release, or for another kind of GPU: build it again here, or serve the "
        "checkpoint with `backend_name: pytorch`",
    ),
    Cause(
        r"cuda out of memory|outofmemoryerror|out of memory|insufficient memory",
        "the GPU's memory does not suffice: lower `kv_cache_free_gpu_memory_fraction`, `max_batch_size` or "
        "`max_seq_len`, or raise `tp_size`",
    ),
    Cause(
        r"world size .*(does not match|mismatch|!=)|mpi.*slots available|not enough gpus",
        "the parallel sizes do not fit the GPUs that the server sees, or those the engine was built for",
    ),
    Cause(r"safetensorerror|incomplete metadata", "a weights file is cut short or damaged: copy the checkpoint again"),
    Cause(
        r"unknown architecture|does not recognize this architecture|unsupported model",
        "TensorRT-LLM does not know the model's architecture",
    ),
)


class Spec(BaseModel):
    """Options of `trtllm-serve`. What is left out is left to TensorRT-LLM."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    executable: str = Field(
        default="trtllm-serve", min_length=1, description="The command: on the PATH, or a full path."
    )
    backend_name: Literal["pytorch", "tensorrt", "_autodeploy"] | None = Field(
        default=None, description="What computes; engines need `tensorrt`. TensorRT-LLM's own `--backend`."
    )
    tokenizer: str | None = Field(
        default=None, description="Folder of the tokenizer: engines bring none; default: the checkpoint's."
    )
    tp_size: int = Field(default=1, ge=1, description="GPUs that share each layer.")
    pp_size: int = Field(default=1, ge=1, description="Groups of GPUs that hold successive layers.")
    cp_size: int = Field(default=1, ge=1, description="GPUs that split one context. Multiplies the number of GPUs.")
    ep_size: int | None = Field(default=None, ge=1, description="GPUs that share the experts: within `tp_size`.")
    max_batch_size: int | None = Field(default=None, ge=1, description="Requests computed at once.")
    max_num_tokens: int | None = Field(default=None, ge=1, description="Tokens computed in one step.")
    max_seq_len: int | None = Field(default=None, ge=1, description="Prompt plus answer in tokens.")
    kv_cache_free_gpu_memory_fraction: float | None = Field(
        default=None, gt=0, lt=1, description="Share for keys and values of the memory that the weights leave."
    )
    extra_llm_api_options: str | None = Field(
        default=None, pattern="^/", description="YAML file (full path) with the rest: quantisation, speculation …"
    )
    reasoning_parser: str | None = Field(default=None, description="Takes the reasoning out of an answer's text.")
    trust_remote_code: bool = Field(default=False, description="Run the code that lies beside the weights.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Fixed port; default: any free one.")
    extra_args: tuple[str, ...] = Field(default=(), description="Further arguments of the server, one word each.")

    @property
    def n_gpus(self) -> int:
        """Tensor * pipeline * context parallel."""
        return self.tp_size * self.pp_size * self.cp_size

    @field_validator("executable")
    @classmethod
    def _is_found_from_anywhere(cls, executable: str) -> str:
        return program(executable)

    @field_validator("tokenizer")
    @classmethod
    def _is_a_full_path(cls, tokenizer: str | None) -> str | None:
        if tokenizer is not None and not tokenizer.startswith("/"):
            raise ValueError("must be a full path: the server starts in another folder")
        return tokenizer

    @field_validator("extra_args")
    @classmethod
    def _says_nothing_twice(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        own = {flag(name): f"use `{name}`" for name in cls.model_fields if name != "extra_args"}
        check_extra_args(args, owned=own | {"--backend": "use `backend_name`"} | _ELSEWHERE, gone={})
        return args

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.ep_size is not None and (self.tp_size * self.cp_size) % self.ep_size:
            raise ValueError(f"ep_size = {self.ep_size} must divide tp_size * cp_size = {self.tp_size * self.cp_size}")
        return self


def reads(spec: Spec) -> frozenset[str]:
    """Engines, and the checkpoints they are built from, only with `backend_name: tensorrt`."""
    return READS if spec.backend_name == "tensorrt" else frozenset({"huggingface"})


def node_commands(spec: Spec, model: Model, *, nodes: Sequence[str], host: str, port: int) -> list[list[str]]:
    """One command line per node, all the same: started together under MPI (`srun --mpi=pmix`), one task for each GPU.

    The first task answers; the others end when it does, as MPI ends them.

    Raises:
        ConfigError: the GPUs do not divide by the nodes.
    """
    if not nodes or spec.n_gpus % len(nodes):
        raise ConfigError(f"{model.key}: {spec.n_gpus} GPUs cannot be shared evenly by {len(nodes)} nodes")
    argv = list(command(spec, model, host=host, port=port).argv)
    return [argv] if len(nodes) == 1 else [["trtllm-llmapi-launch", *argv] for _ in nodes]


def command(spec: Spec, model: Model, *, host: str, port: int) -> ServerCommand:
    """The command line for one model on one machine. Raises ConfigError for weights TensorRT-LLM cannot read."""
    if spec.backend_name == "tensorrt":
        folder = some_weights(model, server="TensorRT-LLM", reads=READS)
    else:
        folder = huggingface_folder(model, server="TensorRT-LLM's PyTorch backend")
    argv = [spec.executable, str(folder)]
    if spec.backend_name is not None:
        argv += ["--backend", spec.backend_name]
    # Its command line knows words with underscores only.
    argv += arguments(spec, leave_out={*_NOT_FLAGS, "backend_name"}, flag=flag_with_underscores)
    return ServerCommand(
        argv=[*argv, "--host", host, "--port", str(port), *spec.extra_args],
        env={"PYTHONPATH": ""},
        causes=_CAUSES,
        served_name=folder.name,
    )
