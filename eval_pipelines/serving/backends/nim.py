"""nim: an NVIDIA NIM for language models: a container image that brings its server, and often its weights.

Needs   a `container` with the image; the variable NGC_API_KEY where the image fetches weights. Imports no server code
Offers  chat, completions
Limits  it takes no key, and listens on every interface: the container needs a network of its own, with its port
        published on loopback
Source  NIM for LLMs 1.x documentation, "Configure a NIM", and 2.0 to 3.0, "Environment Variables"; not run here
"""

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator

from eval_pipelines.serving.backends import Cause, Model, ServerCommand
from eval_pipelines.serving.weights import huggingface_folder

READS = frozenset({"huggingface"})
NEEDS_CONTAINER = True

_OWNED = {
    "NIM_SERVED_MODEL_NAME": "the server answers to the model key and to nothing else",
    "NIM_SERVER_PORT": "the lease chooses it",
    "NIM_MODEL_NAME": "it is the model's `weights`",
    "NIM_MODEL_PATH": "it is the model's `weights`",
    "NIM_MODEL_PROFILE": "use `model_profile`",
    "NIM_MAX_MODEL_LEN": "use `max_model_len`",
    "NIM_TENSOR_PARALLEL_SIZE": "use `tensor_parallel_size`",
    "NIM_PIPELINE_PARALLEL_SIZE": "use `pipeline_parallel_size`",
    "NIM_LOG_LEVEL": "use `log_level`",
    "NGC_API_KEY": "it is read from the environment: name the variable in `ngc_key_env`, never write the key",
}
_CAUSES = (
    Cause(
        r"ngc.*(401|403|unauthorized|forbidden|authentication)|invalid ngc api key|ngc_api_key.*(not set|missing|required)",
        "the key for NGC is missing or refused: set NGC_API_KEY where Dagster runs",
    ),
    Cause(
        r"(profile .*(not found|not compatible|does not exist|invalid))|no (compatible|valid) profile",
        "no profile of this image fits these GPUs: leave `model_profile` out, or list them with `list-model-profiles` "
        "in the image",
    ),
    Cause(
        r"could not select device driver|nvidia-container-cli|unknown flag: --gpus",
        "the container runtime knows no GPUs: install NVIDIA's container toolkit on that machine",
    ),
    Cause(
        r"unable to find image|pull access denied|manifest unknown|image not known",
        "the image is not on this machine and cannot be fetched: log in to its registry, or pull it before",
    ),
    Cause(
        r"cuda out of memory|outofmemoryerror",
        "the GPU's memory does not suffice: lower `max_model_len`, or choose a profile for more GPUs",
    ),
)


class Spec(BaseModel):
    """Options of a NIM, which takes them as variables."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model_profile: str | None = Field(default=None, description="Id of a profile in the image; default: the best fit.")
    tensor_parallel_size: int = Field(default=1, ge=1, description="GPUs that share each layer.")
    pipeline_parallel_size: int = Field(default=1, ge=1, description="Groups of GPUs that hold successive layers.")
    max_model_len: int | None = Field(default=None, ge=1, description="Prompt plus answer in tokens.")
    log_level: str | None = Field(default=None, description="Such as INFO or DEBUG.")
    ngc_key_env: str | None = Field(
        default="NGC_API_KEY", description="Variable that holds the key for NGC, where Dagster runs; null: none needed."
    )
    variables: dict[str, str] = Field(
        default_factory=dict, description="Further NIM_… variables, literally. No secrets: they stand in this file."
    )
    port: int | None = Field(default=None, ge=1, le=65535, description="Fixed port; default: any free one.")

    @property
    def n_gpus(self) -> int:
        """Tensor * pipeline parallel."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @field_validator("ngc_key_env")
    @classmethod
    def _is_what_the_image_reads(cls, name: str | None) -> str | None:
        if name not in (None, "NGC_API_KEY"):
            raise ValueError(
                "must be NGC_API_KEY: the container takes it from the environment under its own name, so that its "
                "value is in no argument list. (If a key stands here: take it out, and make a new one.)"
            )
        return name

    @field_validator("variables")
    @classmethod
    def _says_nothing_twice(cls, variables: dict[str, str]) -> dict[str, str]:
        problems = [f"{name} does not belong here: {_OWNED[name]}" for name in variables if name in _OWNED]
        problems += [
            f"{name} is no variable of a NIM: put it into the deployment's `env`"
            for name in variables
            if name not in _OWNED and not re.fullmatch(r"NIM_[A-Z0-9_]+", name)
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return variables


def needs_weights(_spec: Spec) -> bool:
    """Most images bring their model along."""
    return False


def command(spec: Spec, model: Model, *, host: str, port: int) -> ServerCommand:  # noqa: ARG001 - it binds all
    """What the image is told. Raises ConfigError for weights that are no Hugging Face folder."""
    # The served name is the model key, so a request meant for another checkpoint is refused, not answered.
    env = {"NIM_SERVED_MODEL_NAME": str(model.key), "NIM_SERVER_PORT": str(port)}
    if model.weights is not None:
        # the first is the name in NIM 1.x, the second in NIM 2.0 and later
        env |= dict.fromkeys(("NIM_MODEL_NAME", "NIM_MODEL_PATH"), str(huggingface_folder(model, server="NIM")))
    for name in ("model_profile", "max_model_len", "tensor_parallel_size", "pipeline_parallel_size", "log_level"):
        value = getattr(spec, name)
        if value != Spec.model_fields[name].default:
            env[f"NIM_{name.upper()}"] = str(value)
    return ServerCommand(
        argv=[],
        env={**env, **spec.variables},
        health_path="/v1/health/ready",
        causes=_CAUSES,
        metrics_path="/v1/metrics",
        metric_names={
            "n_running": "num_requests_running",
            "n_waiting": "num_requests_waiting",
            "kv_cache_share": "gpu_cache_usage_perc",
            "prompt_tokens": "prompt_tokens_total",
            "generation_tokens": "generation_tokens_total",
        },
        pass_env=(spec.ngc_key_env,) if spec.ngc_key_env else (),
        binds_all=True,
    )
