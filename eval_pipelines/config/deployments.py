"""What `deployments` and `machine` of `evals.yaml` may hold: how models are served, and how they are asked."""

import os
import re
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import AfterValidator, BaseModel, Field, SerializeAsAny, field_validator, model_validator

from eval_pipelines.config.prices import UNITS, Prices
from eval_pipelines.config.specs import SpecRecord
from eval_pipelines.container_spec import Container
from eval_pipelines.endpoint import DailyBudget
from eval_pipelines.errors import ConfigError


def _literal(value: str) -> str:
    if re.search(r"\$\{[^}]*\}", value) or re.fullmatch(r"\$\w+", value):
        raise ValueError(
            "variables are not expanded here: write the value itself. The server inherits the environment anyway, "
            "and a key belongs in `api_key_env: NAME_OF_THE_VARIABLE`"
        )
    return value


_WEEK_S = 7 * 86_400.0


class MayName(Protocol):
    """A deployment, or its options: what may say how an address calls its model."""

    @property
    def served_name(self) -> str | None: ...


def asked_for(there: MayName, served_name: str | None, key: object) -> str:
    """The name that is really sent to an address that someone else runs.

    Args:
        served_name: As the model's entry says; None: it does not.
        key: The model's; sent where neither says.
    """
    return served_name or there.served_name or str(key)


class Machine(SpecRecord):
    """The machine that serves: what every project and process on it shares."""

    gpus: Literal["auto"] | tuple[str, ...] = Field(
        default="auto", description="How many, or their indexes or UUIDs; default: as the driver's tool tells."
    )
    folder: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / f"eval-pipelines-{os.getuid()}",
        description="Where the GPUs and ports in use are noted. All who use the same GPUs must name the same folder.",
    )

    @field_validator("gpus", mode="before")
    @classmethod
    def _as_names(cls, gpus: Any) -> Any:
        if isinstance(gpus, int) and not isinstance(gpus, bool) and gpus >= 0:
            return tuple(str(index) for index in range(gpus))
        return tuple(str(gpu) for gpu in gpus) if isinstance(gpus, list | tuple) else gpus

    @field_validator("gpus")
    @classmethod
    def _are_names(cls, gpus: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(gpus, tuple) and (
            len({*gpus}) < len(gpus) or not all(re.fullmatch(r"[\w.:-]+", g) for g in gpus)
        ):
            raise ValueError("must be a number, a list of different indexes or UUIDs, or auto")
        return gpus


class DeploymentFields(SpecRecord):
    """What every deployment has, whatever its backend."""

    backend: str = Field(min_length=1, description="the name of a file in eval_pipelines/serving/backends/")
    max_in_flight: int = Field(default=32, ge=1, description="Requests in flight at once.")
    min_in_flight: int = Field(
        default=1, ge=1, description="Never fewer, however it does. As much as max_in_flight: always so many."
    )
    keep_warm_s: float = Field(default=60, ge=0, description="Seconds a server we started outlives its last lease.")
    ready_timeout_s: float = Field(
        default=300, gt=0, le=_WEEK_S, description="Seconds a server may take until it answers."
    )
    request_timeout_s: float = Field(default=300, gt=0, le=_WEEK_S, description="Seconds one attempt may take.")
    stream: bool = Field(
        default=False, description="Ask for answers as a stream: the time to the first token is known."
    )
    idle_timeout_s: float = Field(default=60, gt=0, le=_WEEK_S, description="Seconds a stream may say nothing.")
    text_start: str | None = Field(
        default=None,
        exclude=True,
        description="The token that begins texts, as text (`<|endoftext|>`), for log-likelihoods of whole documents; "
        "default: as the server tells.",
    )
    # how much may be spent is no property of a server: with another budget, the one that runs serves on
    daily_tokens: int | None = Field(
        default=None, ge=1, exclude=True, description="Tokens per UTC day, prompts and answers, over all processes."
    )
    daily_cost: float | None = Field(
        default=None, gt=0, exclude=True, description="Money per UTC day, in the currency of `prices`, as they say."
    )
    replicas: int = Field(default=1, ge=1, le=256, description="Servers to start, each with GPUs of its own.")
    gpus: int | None = Field(
        default=None, ge=0, description="GPUs of one server; default: as its parallelism says. 0: it runs on a CPU."
    )
    container: Container | None = Field(default=None, description="Run the server in a container.")
    max_restarts: int = Field(default=2, ge=0, description="How often a server that died while it was used comes back.")
    env: dict[str, Annotated[str, AfterValidator(_literal)]] = Field(
        default_factory=dict, description="Added to the server's environment, literally. No secrets."
    )

    @model_validator(mode="after")
    def _floor_lies_below_ceiling(self) -> Self:
        if self.min_in_flight > self.max_in_flight:
            raise ValueError(f"min_in_flight is more than max_in_flight, which is {self.max_in_flight}")
        return self


class Deployment(DeploymentFields):
    """The operator's declaration of how to serve a family of models."""

    name: str
    spec: SerializeAsAny[BaseModel] = Field(description="The backend's own options, an instance of its `Spec`.")
    needs_weights: bool = Field(description="Whether a model must name weights for it.")
    reads: tuple[str, ...] = Field(default=(), description="Layouts of weights it can load, sorted; see layouts.py.")
    is_started_here: bool = Field(default=True, description="False where someone else runs the server.")
    prices: Prices = Field(default=Prices(), exclude=True, description="What tokens cost.")

    @classmethod
    def of(
        cls, name: str, head: DeploymentFields, spec: BaseModel, backend: ModuleType, prices: Prices | None = None
    ) -> Self:
        """What the file says of a deployment, and what its backend says of these options."""
        reads = backend.reads(spec) if hasattr(backend, "reads") else backend.READS
        return cls(
            name=name,
            spec=spec,
            # sorted: it is part of a server's identity, and a set has no order
            reads=tuple(sorted(reads)),
            needs_weights=backend.needs_weights(spec) if hasattr(backend, "needs_weights") else bool(reads),
            is_started_here=not hasattr(backend, "bind"),
            prices=prices or Prices(),
            **dict(head),
        )

    @property
    def served_name(self) -> str | None:
        """What its options say the address calls the model; None: they do not say, as of a server we start."""
        named: str | None = getattr(self.spec, "served_name", None)
        return named

    @property
    def asking(self) -> dict[str, Any]:
        """Fields of an Endpoint that say how it is asked."""
        return {
            "max_in_flight": self.max_in_flight,
            "min_in_flight": self.min_in_flight,
            "request_timeout_s": self.request_timeout_s,
            "is_streamed": self.stream,
            "idle_timeout_s": self.idle_timeout_s,
            "text_start": self.text_start,
        }

    def paying(self, served_name: str, url: str = "", key_env: str | None = None) -> dict[str, Any]:
        """Fields of an Endpoint that say what an answer costs, and how much may be spent.

        Args:
            url: The first address that someone else runs; empty: the servers of this deployment count together.
            key_env: Name of the variable that holds the key for it.

        Raises:
            ConfigError: the deployment has a `daily_cost`, and nobody says what this model costs.
        """
        price = self.prices.of(served_name)
        if self.daily_cost is not None and price is None:
            raise ConfigError(
                f"deployment {self.name!r} has a daily_cost, and there is no price for {served_name!r}. Add it in "
                f"evals.yaml under prices.per_million_tokens, or budget with daily_tokens. Nothing was asked."
            )
        with_key = f" with the key in {key_env}" if key_env else ""
        budget = DailyBudget(
            account=f"{url}{with_key}" if url else f"servers of {self.name}",
            deployment=self.name,
            tokens=self.daily_tokens,
            cost=None if self.daily_cost is None else round(self.daily_cost * UNITS),
        )
        is_limited = (budget.tokens, budget.cost) != (None, None)
        return {"price": price, "currency": self.prices.currency, "daily_budget": budget if is_limited else None}

    @property
    def n_gpus(self) -> int:
        """GPUs of one server: as declared, else what its parallelism multiplies to."""
        return self.gpus if self.gpus is not None else int(getattr(self.spec, "n_gpus", 0))

    @property
    def options(self) -> dict[str, Any]:
        """The backend's own options as plain JSON values, only those that were given."""
        return self.spec.model_dump(mode="json", exclude_unset=True)
