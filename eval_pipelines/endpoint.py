"""A live address that answers for exactly one model."""

from collections.abc import Mapping
from dataclasses import dataclass, field

CAPABILITIES = ("chat", "completions", "echo_logprobs", "top_logprobs")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a lease yields. An asset never sees an address it did not lease.

    Attributes:
        url: Base URL of the OpenAI-style routes, without a trailing slash (`http://127.0.0.1:8000/v1`).
        served_name: The model name the server answers to.
        offers: The CAPABILITIES that were asked for and seen to work. `top_logprobs` means that the server
            tells the best token at each position, so whether a continuation is greedy is known.
        headers: Sent with every request. May hold a key: never printed, logged or stored.
    """

    url: str
    served_name: str
    backend: str
    max_in_flight: int = 32
    request_timeout_s: float = 300.0
    offers: frozenset[str] = frozenset()
    server_version: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
