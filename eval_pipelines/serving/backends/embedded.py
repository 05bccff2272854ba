"""embedded: this project's own small OpenAI-compatible server for GGUF models on a CPU.

Needs   the `embedded` extra (`pip install 'eval-pipelines[embedded]'`); imports no server code
Offers  chat, completions, log-likelihood by echo; only the chosen token's log-probability is known
"""

import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from eval_pipelines.errors import ConfigError
from eval_pipelines.serving.backends import Cause, Model, ServerCommand

_METRICS = {
    "n_running": "embedded_sequences_running",
    "n_waiting": "embedded_sequences_waiting",
    "kv_cache_share": "embedded_kv_cache_share",
    "prompt_tokens": "embedded_prompt_tokens_total",
    "generation_tokens": "embedded_generation_tokens_total",
    "n_finished": "embedded_requests_total",
}


class Spec(BaseModel):
    """Options of the embedded server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: int | None = Field(default=None, ge=1, description="CPU threads; default: all.")
    max_context: int | None = Field(default=None, ge=128, description="Longest prompt plus answer, in tokens.")
    kv_cache_gb: int = Field(default=1, ge=1, description="Memory for keys and values, in GiB.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Fixed port; default: any free one.")


def command(spec: Spec, model: Model, *, host: str, port: int) -> ServerCommand:
    """The command line for one GGUF model. Raises ConfigError for weights it cannot read."""
    weights = _gguf_file(model)
    # The served name is the model key, so a request meant for another checkpoint is refused, not answered.
    argv = [
        sys.executable, "-m", "eval_pipelines.embedded.cli", "serve",
        "--weights", str(weights), "--served-model-name", str(model.key), "--host", host, "--port", str(port),
        "--kv-cache-gb", str(spec.kv_cache_gb),
    ]  # fmt: skip
    if spec.threads:
        argv += ["--threads", str(spec.threads)]
    if spec.max_context:
        argv += ["--max-context", str(spec.max_context)]
    return ServerCommand(
        argv=argv,
        key_env="EMBEDDED_API_KEY",
        metrics_path="/metrics",
        metric_names=_METRICS,
        causes=(
            Cause(
                r"openvino.*(not installed|no module)|embedded.*extra",
                "install the extra: pip install 'eval-pipelines[embedded]'",
            ),
            Cause(r"truncated|ends early|no gguf|not a gguf", "the weights are damaged or still being written"),
        ),
    )


def _gguf_file(model: Model) -> Path:
    if model.weights is None:
        raise ConfigError(f"{model.key}: the embedded server needs `weights`, a .gguf file or a folder that holds one")
    files = [model.weights] if model.weights.is_file() else sorted(model.weights.glob("*.gguf"))
    if len(files) != 1 or files[0].suffix != ".gguf":
        raise ConfigError(
            f"{model.key}: the embedded server reads one GGUF file, and {model.weights} "
            f"{'is none' if model.weights.is_file() else f'holds {len(files)}'}. Convert the checkpoint to GGUF "
            f"(llama.cpp's convert_hf_to_gguf.py), or give it a deployment whose backend reads its layout."
        )
    return files[0]
