"""pytriton: NVIDIA's Triton Inference Server on this machine, by PyTriton, for GGUF and Hugging Face models.

Needs   an environment of its own with `nvidia-pytriton` 0.7 and numpy < 2, and the engine's packages: for GGUF files
        openvino-genai, gguf and pydantic (CPU); for Hugging Face folders torch and transformers
Offers  chat, completions, log-likelihood; the best token (is_greedy) for Hugging Face folders only
Limits  Triton asks its clients for no key: on a machine that is shared anyone can ask it through loopback
Source  PyTriton 0.7 documentation
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from eval_pipelines.client.dialects.triton import model_name
from eval_pipelines.errors import ConfigError
from eval_pipelines.serving import servers
from eval_pipelines.serving.backends import Cause, Model, ServerCommand
from eval_pipelines.serving.flags import program
from eval_pipelines.serving.weights import huggingface_folder

READS = frozenset({"gguf", "huggingface"})
N_PORTS = 3  # HTTP, gRPC, metrics
_SCRIPT = Path(servers.__file__).with_name("pytriton_server.py")
_OWNED = {
    "model_repository", "http_address", "http_port", "grpc_address", "grpc_port", "metrics_address", "metrics_port",
    "allow_http", "allow_gpu_metrics", "exit_timeout_secs",
}  # fmt: skip
_METRICS = {"n_waiting": "nv_inference_pending_request_count"}
_CAUSES = (
    Cause(
        r"cannot start .*no such file",
        "there is no such Python: name the one of an environment with nvidia-pytriton in `python`",
    ),
    Cause(
        r"environment without nvidia-pytriton",
        "`python` is of another environment: install nvidia-pytriton there, or name the right one",
    ),
    Cause(
        r"nvidia-pytriton needs numpy < 2|stub process .* is not healthy",
        "numpy 2 is in the server's environment: install 'numpy<2' there",
    ),
    Cause(
        r"libpython3\.\d+\.so\S* is not found|cannot open shared object file",
        "Triton needs the library of this Python: install it, or use a Python built with --enable-shared",
    ),
    Cause(r"GLIBC_\S+. not found", "Triton needs glibc 2.35 or later: a newer system, or a container"),
    Cause(
        r"/shm is not there|no space left on device|unable to (create|initialize) shared memory",
        "Triton keeps its tensors in /dev/shm: mount it, or make it larger (containers: --shm-size 1g)",
    ),
    Cause(r"too long together|AF_UNIX path too long", "set `env: {TMPDIR: /tmp}`, or shorten the model key"),
    Cause(
        r"this model's engine needs|no module named '?(openvino|gguf|torch|transformers)",
        "the engine's packages are missing beside nvidia-pytriton in the environment of `python`",
    ),
    Cause(r"truncated|ends early|not a gguf|is no gguf", "the weights are damaged or still being written"),
    Cause(
        r"cannot listen on|failed to start (http|grpc|metrics) service",
        "one of three ports in a row is taken: leave `port` out, or choose another",
    ),
    Cause(r"--max-context \d+ is more than", "lower `max_context`, or raise `kv_cache_gb`"),
)


class Spec(BaseModel):
    """Options of the PyTriton server. What is left out is left to it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    python: str = Field(
        default="python3", min_length=1, description="The Python that has nvidia-pytriton: a full path."
    )
    max_batch_size: int = Field(default=32, ge=1, description="Requests that Triton puts together at most.")
    queue_delay_s: float = Field(
        default=0.005, ge=0, le=10, description="Seconds a request waits for others to share its batch."
    )
    max_context: int | None = Field(default=None, ge=128, description="Longest prompt plus answer, in tokens.")
    threads: int | None = Field(default=None, ge=1, description="CPU threads of the engine; default: all.")
    kv_cache_gb: int = Field(default=1, ge=1, description="GGUF: memory for keys and values, in GiB.")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Hugging Face: where the model computes.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="Hugging Face: type of weights and activations; auto: the checkpoint's."
    )
    trust_remote_code: bool = Field(default=False, description="Run the code that lies beside the weights.")
    triton: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="Further fields of PyTriton's TritonConfig, such as http_thread_count."
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65533,
        description="Fixed port (HTTP; gRPC and metrics take the next two); default: free.",
    )

    @property
    def n_gpus(self) -> int:
        """One where it computes on a GPU."""
        return int(self.device == "cuda")

    @field_validator("python")
    @classmethod
    def _is_found_from_anywhere(cls, python: str) -> str:
        return program(python)

    @field_validator("triton")
    @classmethod
    def _leaves_addresses_to_the_lease(cls, fields: dict[str, bool | int | float | str]) -> dict[str, object]:
        barred = sorted(_OWNED & {*fields})
        if barred:
            raise ValueError(f"{', '.join(barred)}: the lease and this backend choose that")
        return {**fields}


def command(spec: Spec, model: Model, *, host: str, port: int) -> ServerCommand:
    """The command line for one model. Raises ConfigError for weights that no engine reads."""
    engine, weights = _engine(model)
    # The model's name is its key, so a request meant for another checkpoint is refused, not answered.
    name = model_name(str(model.key))
    argv = [
        spec.python, "-I", str(_SCRIPT), "--weights", str(weights), "--model-name", name, "--engine", engine,
        "--host", host, "--port", str(port), "--max-batch-size", str(spec.max_batch_size),
        "--queue-delay-us", str(round(spec.queue_delay_s * 1e6)),
    ]  # fmt: skip
    argv += ["--max-context", str(spec.max_context)] if spec.max_context else []
    argv += ["--threads", str(spec.threads)] if spec.threads else []
    if engine == "gguf":
        argv += ["--kv-cache-gb", str(spec.kv_cache_gb)]
    else:
        argv += ["--device", spec.device, "--dtype", spec.dtype, *["--trust-remote-code"] * spec.trust_remote_code]
    argv += ["--triton-config", json.dumps(spec.triton)] if spec.triton else []
    return ServerCommand(
        argv=argv,
        env={"PYTHONPATH": ""},
        health_path=f"/v2/models/{name}/ready",
        base_path="",
        protocol="triton",
        metrics_port=2,
        metrics_path="/metrics",
        metric_names=_METRICS,
        causes=_CAUSES,
    )


def _engine(model: Model) -> tuple[str, Path]:
    """Which engine reads the weights, and the file or folder it reads."""
    weights = model.weights
    if weights is None:
        raise ConfigError(f"{model.key}: pytriton needs `weights`, a .gguf file or a Hugging Face folder")
    files = [weights] if weights.is_file() else sorted(weights.glob("*.gguf"))
    if files and not (weights / "config.json").is_file():
        if len(files) != 1 or files[0].suffix != ".gguf":
            found = "is no .gguf file" if weights.is_file() else f"holds {len(files)} GGUF files"
            raise ConfigError(f"{model.key}: {weights} {found}, and pytriton reads one")
        return "gguf", files[0]
    return "torch", huggingface_folder(model, server="pytriton")
