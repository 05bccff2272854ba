"""embedded: this project's own small OpenAI-compatible server for GGUF models on a CPU.

Needs   the `embedded` extra (`pip install 'eval-pipelines[embedded]'`); imports no server code
Offers  chat, completions, log-likelihood by echo; only the chosen token's log-probability is known
"""

import sys

from pydantic import BaseModel, ConfigDict, Field

from eval_pipelines.serving.backends import Cause, Model, ServerCommand
from eval_pipelines.serving.weights import gguf_file

READS = frozenset({"gguf"})

_CAUSES = (
    Cause(
        r"openvino.*(not installed|no module)|embedded.*extra",
        "install the extra: pip install 'eval-pipelines[embedded]'",
    ),
    Cause(
        r"truncated|ends early|no gguf|not a gguf|holds no tensors|incompatible last dim",
        "the weights are damaged or still being written: copy the file again",
    ),
    Cause(
        r"is gguf version|of the unknown type",
        "the weights are damaged, or of a newer kind of GGUF than this server reads: convert them as f16",
    ),
    Cause(
        r"(unordered_)?map::at|cannot read the tokenizer",
        "the file lacks what the server looks for: it is damaged, or of an architecture that OpenVINO does not read "
        "from GGUF; the `llama_cpp` backend reads more",
    ),
)

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

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threads: int | None = Field(default=None, ge=1, description="CPU threads; default: all.")
    max_context: int | None = Field(default=None, ge=128, description="Longest prompt plus answer, in tokens.")
    kv_cache_gb: int = Field(default=1, ge=1, description="Memory for keys and values, in GiB.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Fixed port; default: any free one.")


def command(spec: Spec, model: Model, *, host: str, port: int) -> ServerCommand:
    """The command line for one GGUF model. Raises ConfigError for weights it cannot read."""
    weights = gguf_file(model, server="the embedded server")
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
        argv=argv, key_env="EMBEDDED_API_KEY", metrics_path="/metrics", metric_names=_METRICS, causes=_CAUSES
    )
