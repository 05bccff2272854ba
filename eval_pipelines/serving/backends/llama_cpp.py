"""llama_cpp: llama.cpp's own `llama-server` for one GGUF model, on CPUs or GPUs.

Needs   the `llama-server` command; imports no llama.cpp code
Offers  chat, completions. It ignores `echo`, so log-likelihoods of a given text are refused before anything is asked
Limits  it answers to any model name; that it has the right one is asked of /v1/models
Source  build b11549 of llama.cpp as the package xllamacpp carries it: its flags, its own words, its metrics
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from eval_pipelines.serving.backends import Cause, Model, ServerCommand
from eval_pipelines.serving.flags import arguments, check_extra_args, flag, program
from eval_pipelines.serving.weights import gguf_file

READS = frozenset({"gguf"})

_NOT_FLAGS = {"executable", "n_gpus", "port", "extra_args"}
_KEY = "each server gets a random key through its environment, which no other user can read"
_PLAIN = "servers here speak plain HTTP, and their routes start at /v1"
_HUB = "weights are the model's `weights`, on this machine"
_ELSEWHERE = {
    "--host": "the lease chooses it",
    "--model": "it is the model's `weights`",
    "-m": "it is the model's `weights`",
    "--alias": "the server answers to the model key",
    "-a": "the server answers to the model key",
    "--metrics": "it is always on",
    **dict.fromkeys(("--api-key", "--api-key-file"), _KEY),
    **dict.fromkeys(("--api-prefix", "--ssl-key-file", "--ssl-cert-file"), _PLAIN),
    **dict.fromkeys(("--hf-repo", "-hf", "-hfr", "--hf-file", "-hff", "--model-url", "-mu", "--docker-repo"), _HUB),
    **dict.fromkeys(("--models-dir", "--models-preset"), "one server serves one model here"),
}
_SHORT = {
    "-c": "ctx_size",
    "-np": "parallel",
    "-t": "threads",
    "-tb": "threads_batch",
    "-b": "batch_size",
    "-ub": "ubatch_size",
    "-ngl": "n_gpu_layers",
    "--gpu-layers": "n_gpu_layers",
    "-sm": "split_mode",
    "-ts": "tensor_split",
    "-ctk": "cache_type_k",
    "-ctv": "cache_type_v",
}
_DRAFT_MAX = "use `--spec-draft-n-max` or `--spec-ngram-mod-n-max`"
_DRAFT_MIN = "use `--spec-draft-n-min` or `--spec-ngram-mod-n-min`"
_REMOVED = {
    "--draft": _DRAFT_MAX,
    "--draft-n": _DRAFT_MAX,
    "--draft-max": _DRAFT_MAX,
    "--draft-min": _DRAFT_MIN,
    "--draft-n-min": _DRAFT_MIN,
}
_CAUSES = (
    Cause(
        r"cannot start .*no such file",
        "there is no such command: install llama.cpp and name its `llama-server` in `executable`",
    ),
    Cause(
        r"error: invalid argument|error while handling argument|expected value for argument",
        "this build of llama.cpp does not take an argument: see `extra_args`",
    ),
    Cause(
        r"the argument has been removed",
        "an argument was removed from llama.cpp; the line names its successor: see `extra_args`",
    ),
    Cause(
        r"not within the file bounds|corrupted|invalid magic|failed to read (magic|header|key-value pairs|tensor)|"
        r"encountered (bad_alloc|length_error) error",
        "the weights are damaged or still being written: copy the file again",
    ),
    Cause(r"unknown model architecture", "this build of llama.cpp does not know the model's architecture: update it"),
    Cause(
        r"unable to allocate|failed to allocate|out of memory|failed to fit params",
        "weights or cache do not fit the memory: lower `ctx_size`, `parallel` or `n_gpu_layers`, or set `cache_type_k`",
    ),
    Cause(r"couldn't bind http server socket", "the port is taken: leave `port` out, or choose a free one"),
)


class Spec(BaseModel):
    """Options of `llama-server`. What is left out is left to llama.cpp."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    executable: str = Field(
        default="llama-server", min_length=1, description="The command: on the PATH, or a full path."
    )
    threads: int | None = Field(default=None, ge=1, description="CPU threads that generate; default: all cores.")
    threads_batch: int | None = Field(default=None, ge=1, description="CPU threads that read prompts.")
    ctx_size: int | None = Field(
        default=None, ge=0, description="Tokens of all slots together; 0: the model's own context."
    )
    parallel: int | None = Field(
        default=None, ge=1, description="Slots: requests computed at once. They share `ctx_size` evenly."
    )
    batch_size: int | None = Field(default=None, ge=1, description="Tokens handed over in one step.")
    ubatch_size: int | None = Field(default=None, ge=1, description="Tokens computed in one step.")
    n_gpu_layers: int | None = Field(default=None, ge=0, description="Layers on the GPUs; 0: none.")
    split_mode: Literal["none", "layer", "row"] | None = Field(
        default=None, description="How several GPUs share the model."
    )
    tensor_split: str | None = Field(
        default=None, pattern=r"^[\d.]+(,[\d.]+)*$", description="Share of each GPU, such as `3,1`."
    )
    cache_type_k: str | None = Field(default=None, description="Type of cached keys, such as f16 or q8_0.")
    cache_type_v: str | None = Field(default=None, description="Type of cached values, such as f16 or q8_0.")
    chat_template_file: str | None = Field(
        default=None, pattern="^/", description="File (full path); default: the model's own template."
    )
    seed: int | None = Field(default=None, ge=0, description="Seed of the server; a request's own seed comes first.")
    n_gpus: int = Field(default=0, ge=0, description="GPUs to reserve for it; 0: it computes on CPUs.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Fixed port; default: any free one.")
    extra_args: tuple[str, ...] = Field(default=(), description="Further arguments of the server, one word each.")

    @field_validator("executable")
    @classmethod
    def _is_found_from_anywhere(cls, executable: str) -> str:
        return program(executable)

    @field_validator("extra_args")
    @classmethod
    def _says_nothing_twice(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        own = {flag(name): f"use `{name}`" for name in cls.model_fields if name not in ("extra_args", "n_gpus")}
        own |= {short: f"use `{name}`" for short, name in _SHORT.items()}
        check_extra_args(args, owned=own | _ELSEWHERE, gone=_REMOVED)
        return args


def command(spec: Spec, model: Model, *, host: str, port: int) -> ServerCommand:
    """The command line for one GGUF model. Raises ConfigError for weights it cannot read."""
    weights = gguf_file(model, server="llama-server", may_be_split=True)
    argv = [spec.executable, "--model", str(weights), "--alias", str(model.key), "--metrics"]
    argv += [*arguments(spec, leave_out=_NOT_FLAGS), "--host", host, "--port", str(port), *spec.extra_args]
    return ServerCommand(
        argv=argv,
        key_env="LLAMA_API_KEY",
        causes=_CAUSES,
        metrics_path="/metrics",
        metric_names={
            "n_running": "llamacpp:requests_processing",
            "n_waiting": "llamacpp:requests_deferred",
            "prompt_tokens": "llamacpp:prompt_tokens_total",
            "prefix_cache_hits": "llamacpp:prompt_tokens_cached_total",
            "generation_tokens": "llamacpp:tokens_predicted_total",
        },
    )
