"""transformers: this project's small OpenAI-compatible server for causal models of Hugging Face, on a CPU or on GPUs.

Needs   a Python with torch, transformers (4.56 or newer), fastapi, uvicorn, and accelerate for several GPUs
Offers  chat, completions, log-likelihood by echo, the best tokens at each position
Limits  for models that faster servers do not know: no streaming, no tensor parallel
Source  serving/servers/transformers_server.py
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eval_pipelines.serving.backends import Cause, Model, ServerCommand
from eval_pipelines.serving.flags import arguments, program
from eval_pipelines.serving.weights import huggingface_folder

_SERVER = Path(__file__).parent.parent / "servers" / "transformers_server.py"
# the server's packages come from its own environment, not from ours
_ENV = {"PYTHONPATH": "", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
_METRICS = {
    "n_running": "transformers_requests_running",
    "n_waiting": "transformers_requests_waiting",
    "prompt_tokens": "transformers_prompt_tokens_total",
    "generation_tokens": "transformers_generation_tokens_total",
    "n_finished": "transformers_requests_total",
}
_CAUSES = (
    Cause(
        r"cannot start .*no such file",
        "there is no such Python: name that of an environment with torch and transformers in `python`",
    ),
    Cause(
        r"no module named '?(torch|transformers|fastapi|uvicorn)\b",
        "a package is missing from the environment of `python`: pip install torch transformers fastapi uvicorn",
    ),
    Cause(
        r"requires `?accelerate|no module named '?accelerate",
        "several GPUs need accelerate: pip install it in the environment of `python`",
    ),
    Cause(
        r"finds no cuda device|torch not compiled with cuda|no nvidia driver|driver.*(too old|insufficient)",
        "torch sees no GPU: install its CUDA build and a driver, or set `device: cpu`",
    ),
    Cause(r"gpus were asked for", "this machine lends the server fewer GPUs than `pipeline_parallel_size`"),
    Cause(
        r"out of memory|outofmemory|(can.t|cannot) allocate memory|not enough memory",
        "the memory does not suffice: raise `pipeline_parallel_size`, set `dtype: bfloat16`, or lower `max_batch_size`, "
        "`max_batch_tokens` or `max_model_len`",
    ),
    Cause(r"max_model_len = \d+ is greater than", "the context is longer than the model's own: lower `max_model_len`"),
    Cause(
        r"does not recognize this architecture|unrecognized (model|configuration class)|keeps no past_key_values",
        "this is no causal model that this version of transformers knows: a newer one, or another backend",
    ),
    Cause(
        r"safetensorerror|incomplete metadata|file not fully covered|headertoolarge|invalidheader",
        "a weights file is cut short or damaged: copy the checkpoint again",
    ),
    Cause(
        r"the weights lack \d+ tensors|no file named .*safetensors|ignore_mismatched_sizes",
        "the weights are not those of config.json, or not all of them: copy the checkpoint again",
    ),
    Cause(
        r"gated repo|gatedrepoerror|repositorynotfound|localentrynotfound|offline mode is enabled|couldn't connect to"
        r"|hfvalidationerror|can't load (the )?(tokenizer|configuration)|couldn't instantiate the backend tokenizer"
        r"|need to have sentencepiece",
        "something is wanted that is not in the folder, or not on this machine (a tokenizer, code of a gated model): "
        "copy it beside the weights",
    ),
    Cause(
        r"trust_remote_code=true|contains custom code which must be executed|requires you to execute the",
        "the checkpoint carries its own code: set `trust_remote_code: true` if you trust it",
    ),
    Cause(
        r"has been toggled on, but|does not support an attention implementation|attn_implementation=.* is not supported",
        "`attn_implementation` does not go with this model or this environment: leave it out",
    ),
)


READS = frozenset({"huggingface"})


class Spec(BaseModel):
    """Options of serving/servers/transformers_server.py."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    python: str = Field(default="python3", min_length=1, description="The Python that has torch and transformers.")
    device: Literal["cuda", "cpu"] = Field(default="cuda", description="Where it computes.")
    pipeline_parallel_size: int = Field(
        default=1, ge=1, description="GPUs that hold successive layers; more than one needs accelerate."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="Type of weights and activations; auto: the checkpoint's."
    )
    max_batch_size: int = Field(
        default=16, ge=1, description="Sequences computed at once; their keys and values take memory."
    )
    max_batch_tokens: int = Field(
        default=4096, ge=1, description="Prompt tokens computed at once; their logits take memory."
    )
    max_model_len: int | None = Field(
        default=None, ge=1, description="Prompt plus answer in tokens; default: the model's."
    )
    max_waiting: int = Field(default=1024, ge=1, description="Sequences that may wait; more are refused for now.")
    attn_implementation: str | None = Field(
        default=None, description="eager, sdpa, flash_attention_2 …; default: transformers' choice."
    )
    trust_remote_code: bool = Field(default=False, description="Run the code that lies beside the weights.")
    chat_template: str | None = Field(default=None, description="File (full path); default: the model's.")
    threads: int | None = Field(default=None, ge=1, description="CPU threads; default: all.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Fixed port; default: any free one.")

    @property
    def n_gpus(self) -> int:
        """GPUs it takes: none on a CPU."""
        return self.pipeline_parallel_size if self.device == "cuda" else 0

    @field_validator("python")
    @classmethod
    def _is_found_from_anywhere(cls, python: str) -> str:
        return program(python)

    @field_validator("chat_template")
    @classmethod
    def _is_a_full_path(cls, path: str | None) -> str | None:
        if path is not None and not path.startswith("/"):
            raise ValueError("must be a full path: the server starts in another folder")
        return path

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.device == "cpu" and self.pipeline_parallel_size > 1:
            raise ValueError(
                f"device = 'cpu' takes no GPUs: leave out pipeline_parallel_size = {self.pipeline_parallel_size}"
            )
        return self


def command(spec: Spec, model: Model, *, host: str, port: int) -> ServerCommand:
    """The command line for one model. Raises ConfigError for weights transformers cannot read."""
    folder = huggingface_folder(model, server="transformers")
    # The served name is the model key, so a request meant for another checkpoint is refused, not answered.
    return ServerCommand(
        argv=[
            spec.python, str(_SERVER), "--model", str(folder), "--served-model-name", str(model.key),
            *arguments(spec, leave_out={"python", "port"}), "--host", host, "--port", str(port),
        ],
        env=_ENV,
        key_env="TRANSFORMERS_API_KEY",
        causes=_CAUSES,
        metrics_path="/metrics",
        metric_names=_METRICS,
    )  # fmt: skip
