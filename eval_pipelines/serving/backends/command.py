"""command: any server that speaks OpenAI's routes, by its command line.

Needs   the program on this machine; `{port}`, `{host}`, `{weights}` and `{model_key}` are filled in
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from eval_pipelines.errors import ConfigError
from eval_pipelines.layouts import LAYOUTS
from eval_pipelines.serving.backends import Model, ServerCommand
from eval_pipelines.serving.metrics import MetricName

# a name, and labels that pick some of its series
_Series = Annotated[str, Field(pattern=r'^[a-zA-Z_:][\w:]*(\{\w+="[^"\\]*"(,\w+="[^"\\]*")*\})?$')]

# nobody here knows what the program reads: the operator does
READS = LAYOUTS


class Spec(BaseModel):
    """Options of a server started by its command line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    argv: tuple[str, ...] = Field(
        min_length=1, description="Program and arguments; {port} {host} {weights} {model_key}."
    )
    health_path: str = Field(default="/health", pattern="^/", description="Route that answers 200 once it listens.")
    base_path: str = Field(default="/v1", description="Where the OpenAI-style routes start.")
    key_env: str | None = Field(default=None, description="Variable through which the server takes its clients' key.")
    metrics_path: str = Field(default="/metrics", pattern="^/", description="Route of its Prometheus metrics.")
    metric_names: dict[MetricName, _Series] = Field(
        default_factory=dict, description="Our name of a server metric → its name there; none: they are not read."
    )
    port: int | None = Field(default=None, ge=1, le=65535, description="Fixed port; default: any free one.")

    @field_validator("argv")
    @classmethod
    def _only_known_fields(cls, argv: tuple[str, ...]) -> tuple[str, ...]:
        for part in argv:
            try:
                part.format(**dict.fromkeys(("port", "host", "weights", "model_key"), ""))
            except (KeyError, IndexError, ValueError):
                raise ValueError(
                    "only {port}, {host}, {weights} and {model_key} are filled in; write {{ and }} for braces"
                ) from None
        return argv


def needs_weights(spec: Spec) -> bool:
    """A command line that names no weights brings them itself."""
    return any("{weights}" in part for part in spec.argv)


def reads(spec: Spec) -> frozenset[str]:
    """Whatever its `{weights}` are; nothing without."""
    return READS if needs_weights(spec) else frozenset()


def command(spec: Spec, model: Model, *, host: str, port: int) -> ServerCommand:
    """The command line, filled in. Raises ConfigError if it needs weights and the model has none."""
    if model.weights is None and needs_weights(spec):
        raise ConfigError(f"{model.key}: deployment {model.deployment!r} uses {{weights}}, and the model names none")
    values = {"port": port, "host": host, "weights": str(model.weights), "model_key": str(model.key)}
    return ServerCommand(
        argv=[part.format(**values) for part in spec.argv],
        key_env=spec.key_env,
        health_path=spec.health_path,
        base_path=spec.base_path,
        metrics_path=spec.metrics_path if spec.metric_names else None,
        metric_names={str(name): series for name, series in spec.metric_names.items()},
    )
