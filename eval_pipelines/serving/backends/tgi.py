"""tgi: Hugging Face's text-generation-inference for one model in Hugging Face's layout.

Needs   the `text-generation-launcher` command (usually in a container); imports no server code
Offers  chat, completions. It echoes no prompt, so log-likelihoods of a given text are refused
Limits  it calls the model by the path of its folder, and takes other names for adapters
Source  `text-generation-launcher --help`, in its documentation; not run here
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eval_pipelines.serving.backends import Cause, Model, ServerCommand
from eval_pipelines.serving.flags import arguments, check_extra_args, flag, program
from eval_pipelines.serving.weights import huggingface_folder

READS = frozenset({"huggingface"})
# the second is where the shards of one model meet, the third Prometheus's in releases that have one of its own
N_PORTS = 3

_NOT_FLAGS = {"executable", "sharded", "port", "extra_args"}
_ELSEWHERE = {
    "--hostname": "the lease chooses it",
    "--model-id": "it is the model's `weights`",
    "--revision": "weights lie on this machine: their bytes are the revision",
    "--api-key": "each server gets a random key through its environment, which no other user can read",
    "--max-input-length": "use `max_input_tokens`",
    **dict.fromkeys(("--master-addr", "--master-port", "--shard-uds-path"), "each server gets its own"),
    **dict.fromkeys(("--ngrok", "--ngrok-authtoken", "--ngrok-edge"), "servers here are reached from here only"),
}
_CAUSES = (
    Cause(
        r"cannot start .*no such file",
        "there is no such command: give the deployment a container, or name the launcher in `executable`",
    ),
    Cause(
        r"unexpected argument|invalid value .* for '|error: the argument|a value is required for",
        "this release of TGI does not take an argument: see `extra_args`",
    ),
    Cause(
        r"cuda out of memory|outofmemoryerror|not enough memory to handle",
        "the GPU's memory does not suffice: lower `max_batch_prefill_tokens`, `max_total_tokens` or "
        "`cuda_memory_fraction`, set `quantize`, or raise `num_shard`",
    ),
    Cause(
        r"`?max_input_(tokens|length)`? must be|`?max_total_tokens`? must be|`?max_batch_prefill_tokens`? must be|"
        r"`?max_batch_total_tokens`? must be",
        "the token limits do not fit each other; the line says which",
    ),
    Cause(r"safetensorerror|incomplete metadata", "a weights file is cut short or damaged: copy the checkpoint again"),
    Cause(r"unsupported model type|is not supported", "TGI does not know the model's architecture or the setting"),
    Cause(
        r"num_shard.* is higher than|more than the number of gpus|sharded.*but only found",
        "`num_shard` needs more GPUs than the server sees",
    ),
)


class Spec(BaseModel):
    """Options of `text-generation-launcher`. What is left out is left to TGI."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    executable: str = Field(
        default="text-generation-launcher", min_length=1, description="The command: on the PATH, or a full path."
    )
    num_shard: int | None = Field(default=None, ge=1, description="GPUs that share the model; default: one.")
    sharded: bool | None = Field(default=None, description="Whether the model is shared by several GPUs at all.")
    quantize: str | None = Field(default=None, description="Method, such as fp8, awq, gptq, eetq or bitsandbytes.")
    dtype: Literal["float16", "bfloat16"] | None = Field(
        default=None, description="Type of weights and activations; does not go with `quantize`."
    )
    kv_cache_dtype: str | None = Field(default=None, description="Type of cached keys and values, such as fp8_e5m2.")
    max_input_tokens: int | None = Field(default=None, ge=1, description="Longest prompt in tokens.")
    max_total_tokens: int | None = Field(default=None, ge=1, description="Prompt plus answer in tokens.")
    max_batch_prefill_tokens: int | None = Field(default=None, ge=1, description="Prompt tokens read in one step.")
    max_batch_total_tokens: int | None = Field(default=None, ge=1, description="Tokens of all requests at once.")
    max_batch_size: int | None = Field(default=None, ge=1, description="Requests computed at once.")
    max_concurrent_requests: int | None = Field(
        default=None, ge=1, description="Requests taken before others are refused; TGI's default: 128."
    )
    max_top_n_tokens: int | None = Field(default=None, ge=0, description="Most alternatives told for a token.")
    cuda_memory_fraction: float | None = Field(default=None, gt=0, le=1, description="Share of each GPU's memory.")
    trust_remote_code: bool = Field(default=False, description="Run the code that lies beside the weights.")
    json_output: bool = Field(default=False, description="Log lines as JSON.")
    port: int | None = Field(default=None, ge=1, le=65533, description="Fixed port; the next two are taken as well.")
    extra_args: tuple[str, ...] = Field(default=(), description="Further arguments of the launcher, one word each.")

    @property
    def n_gpus(self) -> int:
        """GPUs that share the model."""
        return self.num_shard or 1

    @field_validator("executable")
    @classmethod
    def _is_found_from_anywhere(cls, executable: str) -> str:
        return program(executable)

    @field_validator("extra_args")
    @classmethod
    def _says_nothing_twice(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        own = {flag(name): f"use `{name}`" for name in cls.model_fields if name != "extra_args"}
        check_extra_args(args, owned=own | _ELSEWHERE, gone={})
        return args

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.quantize is not None and self.dtype is not None:
            raise ValueError("give one of `quantize` and `dtype`: TGI takes them for contradictory")
        if self.sharded is False and self.n_gpus > 1:
            raise ValueError(f"sharded is false, and num_shard = {self.num_shard}")
        if (self.max_input_tokens or 0) >= (self.max_total_tokens or float("inf")):
            raise ValueError("max_total_tokens must be more than max_input_tokens: it counts the answer as well")
        return self


def command(spec: Spec, model: Model, *, host: str, port: int) -> ServerCommand:
    """The command line for one model. Raises ConfigError for weights TGI cannot read."""
    folder = str(huggingface_folder(model, server="TGI"))
    argv = [spec.executable, "--model-id", folder, *arguments(spec, leave_out=_NOT_FLAGS)]
    if spec.sharded is not None:
        argv += ["--sharded", str(spec.sharded).lower()]
    # Two servers on one machine must not meet in the defaults of these.
    argv += ["--master-port", str(port + 1), "--shard-uds-path", f"/tmp/tgi-{port}"]  # noqa: S108 - no file of ours
    return ServerCommand(
        argv=[*argv, "--hostname", host, "--port", str(port), *spec.extra_args],
        # by variable, which releases that do not know them leave alone
        env={"PROMETHEUS_PORT": str(port + 2), "USAGE_STATS": "off", "PYTHONPATH": ""},
        key_env="API_KEY",
        causes=_CAUSES,
        metrics_path="/metrics",
        metric_names={
            "n_running": "tgi_batch_current_size",
            "n_waiting": "tgi_queue_size",
            "prompt_tokens": "tgi_request_input_length_sum",
            "generation_tokens": "tgi_request_generated_tokens_sum",
        },
        # Any other name would be taken for an adapter; the folder is this model's and no other's.
        served_name=folder,
    )
