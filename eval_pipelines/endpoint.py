"""A live address that answers for exactly one model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from eval_pipelines.config.prices import Price

CAPABILITIES = (
    "chat", "completions", "echo_logprobs", "top_logprobs", "start_logprobs", "logprobs", "n", "seed", "stream", "tools",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Replica:
    """One server of several behind an endpoint.

    Attributes:
        url: Base URL of its routes, without a trailing slash.
        headers: Sent with every request to it. May hold a key: never printed, logged or stored.
        metrics_url: Where it tells its Prometheus metrics; None if it does not.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    metrics_url: str | None = None


class Watch(Protocol):
    """Who knows whether the servers of an endpoint live."""

    n_restarts: int

    async def settle(self, failed_at: float) -> int:
        """Wait until a server answers again, after a request to it had failed. Returns `n_restarts` as it is then.

        Args:
            failed_at: Of the monotonic clock.

        Raises:
            ServingError: none will come back; carries the last words of the one that died.
        """


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy on the way to an address. Loopback addresses are reached without it.

    Attributes:
        url: Where it listens (`http://proxy.example:3128`), without credentials.
        username: For Basic authentication; empty: none is sent.
    """

    url: str
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class DailyBudget:
    """How much may be spent in one UTC day by all who count together.

    Attributes:
        account: Who counts together: an address with the name of a key's variable, or the servers of a deployment.
        deployment: Whose `daily_tokens` and `daily_cost` these are.
        tokens: Prompts and answers together; None: no limit.
        cost: In 1e-12 of the currency; None: no limit.
    """

    account: str
    deployment: str
    tokens: int | None = None
    cost: int | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a lease yields. An asset never sees an address it did not lease.

    Attributes:
        url: Base URL of the routes, without a trailing slash (`http://127.0.0.1:8000/v1`); of the first replica.
        served_name: The model name the server answers to.
        offers: The CAPABILITIES that were asked for and seen to work. `top_logprobs` means that the server
            tells the best token at each position, so whether a continuation is greedy is known; `start_logprobs`
            that the first token of a text has a log-probability, too; `logprobs` that generated tokens have one;
            `seed` that the same one draws the same answer.
        lacks: What would have been of use and does not work there → why not.
        headers: Sent with every request. May hold a key: never printed, logged or stored.
        protocol: How it is spoken to: picks the files in client/dialects/.
        path_suffix: Ends every route; some servers answer only with a trailing slash.
        replicas: All servers that answer; empty means the one at `url`.
        metric_names: Our name of a server metric → its name in the server's Prometheus metrics.
        log_path: What the first server prints; None where someone else runs it.
        watch: Who knows whether our servers live; None where someone else runs them.
        renames: Our name of a request parameter → what this server calls it; None: it is left out.
        lists_models: False where the server's list of models says nothing about this model.
        requests_per_minute: Attempts that may start in any 60 s at each address; None: no limit.
        tokens_per_minute: Tokens that these attempts may hold, prompt and answer together; None: no limit.
        shared_folder: Where all processes that share a data root on this machine count against these limits, and share
            `max_in_flight`; None: this client is alone.
        key_env: Name of the variable that holds the key. An address and a key variable share one count.
        proxy: The proxy between here and there.
        min_in_flight: Never fewer are let on the wire, however the server does; equal to `max_in_flight`: no adapting.
        is_streamed: Answers are asked for as a stream, so that the time to the first token is known.
        idle_timeout_s: Seconds a stream may say nothing.
        price: What tokens cost, in `currency`; None where nobody says.
        daily_budget: How much may be spent in a day, counted in `budgets_folder`; None: no limit.
        text_start: The text of the token that begins texts there; empty: the server puts it before each text itself.
            None: nobody knows yet.
        n_per_request: Repeats of a question that one HTTP request may ask (`n`), where that is exact; 1: none.
    """

    url: str
    served_name: str
    backend: str
    max_in_flight: int = 32
    request_timeout_s: float = 300.0
    offers: frozenset[str] = frozenset()
    lacks: Mapping[str, str] = field(default_factory=dict)
    server_version: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    protocol: str = "openai"
    path_suffix: str = ""
    replicas: tuple[Replica, ...] = ()
    metric_names: Mapping[str, str] = field(default_factory=dict)
    log_path: Path | None = None
    watch: Watch | None = field(default=None, repr=False, compare=False)
    renames: Mapping[str, str | None] = field(default_factory=dict)
    lists_models: bool = True
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    shared_folder: Path | None = None
    key_env: str | None = None
    proxy: Proxy | None = None
    min_in_flight: int = 1
    is_streamed: bool = False
    idle_timeout_s: float = 60.0
    text_start: str | None = None
    n_per_request: int = 1
    price: "Price | None" = None
    currency: str = "USD"
    daily_budget: DailyBudget | None = None
    budgets_folder: Path | None = None

    @property
    def addresses(self) -> tuple[Replica, ...]:
        """Every server that answers for the model, at least one."""
        return self.replicas or (Replica(self.url, self.headers),)
