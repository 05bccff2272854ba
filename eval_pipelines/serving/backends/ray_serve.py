"""ray_serve: an application on Ray Serve: vLLM by `ray.serve.llm`, or any application by its import path.

Needs   a Python with ray[serve]; ray[llm] for vLLM; imports neither
Limits  `ray.serve.llm` takes no key: on a machine that is shared anyone can ask it through loopback
Source  Ray 2.60 documentation, "Serve LLM", "Serve: Autoscaling"; serving/servers/ray_serve_app.py
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import slug
from eval_pipelines.layouts import LAYOUTS
from eval_pipelines.serving.backends import Cause, Model, ServerCommand, vllm
from eval_pipelines.serving.flags import names, program
from eval_pipelines.serving.weights import huggingface_folder

_SERVER = Path(__file__).parent.parent / "servers" / "ray_serve_app.py"
_LLM = "ray.serve.llm:build_openai_app"
# the server's packages come from its own environment, not from ours
_ENV = {"PYTHONPATH": "", "RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
_LLM_ONLY = ("tensor_parallel_size", "pipeline_parallel_size", "accelerator_type", "engine_kwargs", "llm_config")
_APP_ONLY = ("app_args", "app_dir", "gpus_per_replica", "key_env")
_SCALING = ("min_replicas", "max_replicas", "target_ongoing_requests")
_CAUSES = (
    Cause(
        r"cannot start .*no such file",
        "there is no such Python: name that of an environment with ray[serve] in `python`",
    ),
    Cause(
        r"no module named '?(ray|starlette|fastapi)\b|cannot import name 'serve'",
        "Ray Serve is not installed there: pip install 'ray[serve]' in the environment of `python`",
    ),
    Cause(
        r"neither vllm nor sglang is installed|no module named '?(vllm|pyarrow)\b",
        "ray.serve.llm needs an engine: pip install 'ray[llm]' in the environment of `python`",
    ),
    Cause(
        r"no ray answers at|could not find any running ray instance|failed to connect to gcs",
        "no Ray answers at `address`: start it, or leave `address` out",
    ),
    Cause(
        r"authenticationerror|invalid or missing authentication token",
        "the cluster wants a token: set RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH in `env`",
    ),
    Cause(r"serve already runs on", "the cluster's Serve belongs to others: deploy there, and bind it with `hosted`"),
    Cause(
        r"is no deployment: only one can be given",
        "`app` names no class under @serve.deployment: leave the replicas to it, or name such a class",
    ),
    Cause(r"no module named|has no attribute", "`app` is not found: MODULE:NAME, and the module's folder in `app_dir`"),
    Cause(r"unrecognized arguments|invalid choice", "this file and ray_serve_app.py are not of one version"),
)  # fmt: skip


READS = LAYOUTS


class Spec(BaseModel):
    """Options of serving/servers/ray_serve_app.py, and of `ray.serve.llm` or the operator's own application."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    python: str = Field(default="python3", min_length=1, description="The Python that has Ray Serve: a full path.")
    app: str | None = Field(
        default=None, pattern=r"^[\w.]+:[\w.]+$",
        description="MODULE:NAME of an own deployment, or of a function that builds an application; default: vLLM.",
    )  # fmt: skip
    app_dir: str | None = Field(default=None, description="Folder that holds the module of `app`: a full path.")
    app_args: dict[str, Any] = Field(
        default_factory=dict, description="What `app` gets, beside `weights` and `served_model_name`. No secrets."
    )
    gpus_per_replica: int = Field(default=0, ge=0, description="GPUs of each replica of `app`.")
    key_env: str | None = Field(default=None, description="Variable through which `app` takes its clients' key.")
    tensor_parallel_size: int = Field(default=1, ge=1, description="vLLM: GPUs that share each layer.")
    pipeline_parallel_size: int = Field(
        default=1, ge=1, description="vLLM: groups of GPUs that hold successive layers."
    )
    accelerator_type: str | None = Field(default=None, description="vLLM: kind of GPU to ask Ray for, such as H100.")
    engine_kwargs: dict[str, Any] = Field(default_factory=dict, description="vLLM: further arguments of its engine.")
    llm_config: dict[str, Any] = Field(default_factory=dict, description="vLLM: further entries of Ray's LLMConfig.")
    num_replicas: int | None = Field(default=None, ge=1, description="Copies of the model; default: one.")
    min_replicas: int | None = Field(default=None, ge=0, description="Fewest copies, in place of `num_replicas`.")
    max_replicas: int | None = Field(default=None, ge=1, description="Most copies, in place of `num_replicas`.")
    target_ongoing_requests: float | None = Field(default=None, gt=0, description="Requests per copy to scale to.")
    max_ongoing_requests: int | None = Field(default=None, ge=1, description="Requests a copy takes at once.")
    address: str | None = Field(
        default=None, pattern=r"^[^:/]+:\d+$", description="A running cluster (HOST:PORT); default: a Ray of its own."
    )
    route_prefix: str = Field(default="/", pattern="^/", description="Where the application's routes start.")
    num_cpus: int | None = Field(default=None, ge=1, description="CPUs of its own Ray; default: all.")
    object_store_memory_bytes: int | None = Field(
        default=None, ge=80_000_000, description="Shared memory of its own Ray; default: 30 % of the machine's."
    )
    dashboard_port: int | None = Field(
        default=None, ge=1, le=65535, description="Dashboard of its own Ray, on loopback; default: none."
    )
    port: int | None = Field(default=None, ge=1, le=65535, description="Fixed port; default: any free one.")

    @property
    def n_gpus(self) -> int:
        """GPUs of this machine, with as many replicas as there may be: none of them in a cluster, which has its own."""
        if self.address:
            return 0
        each = self.gpus_per_replica if self.app else self.tensor_parallel_size * self.pipeline_parallel_size
        return each * (self.max_replicas or self.num_replicas or 1)

    @field_validator("python")
    @classmethod
    def _is_found_from_anywhere(cls, python: str) -> str:
        return program(python)

    @field_validator("app_dir")
    @classmethod
    def _is_a_full_path(cls, path: str | None) -> str | None:
        if path is not None and not path.startswith("/"):
            raise ValueError("must be a full path: the server starts in another folder")
        return path

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        foreign = [name for name in (_LLM_ONLY if self.app else _APP_ONLY) if name in self.model_fields_set]
        if foreign:
            whose = "`app`: it is vLLM's" if self.app else "vLLM: it is that of an own `app`"
            raise ValueError(f"{', '.join(foreign)} does not go with {whose}")
        scaling = [name for name in _SCALING if getattr(self, name) is not None]
        if scaling and self.num_replicas is not None:
            raise ValueError(
                f"give one of num_replicas and {', '.join(scaling)}: the second means as many as are needed"
            )
        if scaling and (self.max_replicas or 0) < max(1, self.min_replicas or 0):
            raise ValueError("max_replicas must be given, and be at least min_replicas")
        own = [name for name in ("num_cpus", "object_store_memory_bytes", "dashboard_port") if getattr(self, name)]
        if self.address and own:
            raise ValueError(f"{', '.join(own)} is for a Ray of its own, not for the cluster at {self.address}")
        if self.address and self.key_env:
            raise ValueError("key_env does not go with `address`: replicas inherit the cluster's environment, not ours")
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            if name in self.engine_kwargs:
                raise ValueError(f"engine_kwargs: use `{name}`, which also says how many GPUs are taken")
        return self


def needs_weights(spec: Spec) -> bool:
    """An application of one's own may bring them itself."""
    return spec.app is None


def reads(spec: Spec) -> frozenset[str]:
    """Hugging Face folders for vLLM; whatever an application of one's own reads."""
    return READS if spec.app else frozenset({"huggingface"})


def command(spec: Spec, model: Model, *, host: str, port: int) -> ServerCommand:
    """The command line for one model. Raises ConfigError for weights vLLM cannot read."""
    # The served name is the model key, so a request meant for another checkpoint is refused, not answered.
    if spec.app:
        told: dict[str, Any] = {
            "served_model_name": str(model.key),
            "weights": str(model.weights or ""),
            **spec.app_args,
        }
        app = ["--app", spec.app, "--args", json.dumps(told), "--options", json.dumps(_options(spec))]
    else:
        app = ["--app", _LLM, "--args", json.dumps({"llm_configs": [_llm_config(spec, model)]})]
    optional = {
        "--app-dir": spec.app_dir, "--address": spec.address, "--num-cpus": spec.num_cpus,
        "--object-store-memory-bytes": spec.object_store_memory_bytes, "--dashboard-port": spec.dashboard_port,
    }  # fmt: skip
    further = [word for name, value in optional.items() if value is not None for word in (name, str(value))]
    prefix = spec.route_prefix.rstrip("/")
    return ServerCommand(
        argv=[
            spec.python, str(_SERVER), *app, *further, "--name", slug(str(model.key)),
            "--route-prefix", spec.route_prefix, "--host", host, "--port", str(port),
        ],
        env=_ENV,
        key_env=spec.key_env,
        # Serve's own health route answers long before a replica does
        health_path=f"{prefix}/v1/models",
        base_path=f"{prefix}/v1",
        causes=_CAUSES,
    )  # fmt: skip


def vllm_on_ray(
    spec: vllm.Spec, model: Model, *, nodes: Sequence[str], host: str, port: int, ray_port: int = 6379
) -> list[list[list[str]]]:
    """Command lines, in order, for each node of a Ray cluster on which plain vLLM spreads; the first node answers.

    `ray start` of the first node returns at once, those of the others stay until the cluster ends. The first node's
    vLLM must wait until all have joined: `ray status`. Each process must have the same RAY_AUTH_MODE and, unless that is
    `disabled`, the same token.

    Args:
        spec: How vLLM would be started on one machine; `ray` is looked for beside its `executable`.
        nodes: Addresses under which the nodes reach each other.

    Raises:
        ConfigError: the GPUs do not divide by the nodes, or an extra argument names another executor.
    """
    if not nodes or spec.n_gpus % len(nodes):
        raise ConfigError(f"{model.key}: {spec.n_gpus} GPUs cannot be shared evenly by {len(nodes)} nodes")
    executor = "--distributed-executor-backend"
    if executor in names(spec.extra_args):
        raise ConfigError(f"{model.key}: {executor} in extra_args: on Ray it is always `ray`")
    ray = str(Path(spec.executable).with_name("ray")) if "/" in spec.executable else "ray"
    here = [ray, "start", "--disable-usage-stats", "--num-gpus", str(spec.n_gpus // len(nodes)), "--node-ip-address"]
    head = [*here, nodes[0], "--head", "--port", str(ray_port), "--include-dashboard=false"]
    serve = [*vllm.command(spec, model, host=host, port=port).argv, executor, "ray"]
    others = [[*here, node, "--address", f"{nodes[0]}:{ray_port}", "--block"] for node in nodes[1:]]
    return [[head, serve], *([other] for other in others)]


def _llm_config(spec: Spec, model: Model) -> dict[str, Any]:
    """An entry of `llm_configs`."""
    folder = huggingface_folder(model, server="vLLM")
    kind = {"accelerator_type": spec.accelerator_type} if spec.accelerator_type else {}
    return {
        "model_loading_config": {"model_id": str(model.key), "model_source": str(folder)},
        **kind,
        "engine_kwargs": {
            "tensor_parallel_size": spec.tensor_parallel_size,
            "pipeline_parallel_size": spec.pipeline_parallel_size,
            # no file beside the weights may change how answers are sampled
            "generation_config": "vllm",
            **spec.engine_kwargs,
        },
        "deployment_config": _options(spec),
        **spec.llm_config,
    }


def _options(spec: Spec) -> dict[str, Any]:
    """What `Deployment.options()` and `deployment_config` both take."""
    scaling = {name: value for name in _SCALING if (value := getattr(spec, name)) is not None}
    told: dict[str, Any] = {"autoscaling_config": scaling} if scaling else {}
    for name in ("num_replicas", "max_ongoing_requests"):
        if getattr(spec, name) is not None:
            told[name] = getattr(spec, name)
    if spec.gpus_per_replica:
        told["ray_actor_options"] = {"num_gpus": spec.gpus_per_replica}
    return told
