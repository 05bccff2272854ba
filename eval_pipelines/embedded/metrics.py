"""Counters for /metrics, in Prometheus' text format."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["ok", "rejected", "failed", "cancelled"]
OUTCOMES: tuple[Outcome, ...] = ("ok", "rejected", "failed", "cancelled")


@dataclass
class Metrics:
    """Totals since the start. Latency is wall clock in seconds, of answered requests only."""

    requests: Counter[Outcome] = field(default_factory=Counter)
    prompt_tokens: int = 0
    generation_tokens: int = 0
    latency_sum_s: float = 0.0
    latency_count: int = 0

    def answered(self, *, prompt_tokens: int, generation_tokens: int, latency_s: float) -> None:
        """Count one request that was answered in full."""
        self.requests["ok"] += 1
        self.prompt_tokens += prompt_tokens
        self.generation_tokens += generation_tokens
        self.latency_sum_s += latency_s
        self.latency_count += 1

    def render(self, *, n_running: int, n_waiting: int, kv_cache_share: float) -> str:
        """The text a Prometheus server reads. `n_running` and `n_waiting` count prompts, not HTTP requests.

        `kv_cache_share` is what the last step used of the memory for keys and values, 0..1.
        """
        lines = [
            "# HELP embedded_requests_total Generation requests by outcome.",
            "# TYPE embedded_requests_total counter",
            *(f'embedded_requests_total{{outcome="{name}"}} {self.requests[name]}' for name in OUTCOMES),
        ]
        for name, kind, text, value in (
            ("sequences_running", "gauge", "Sequences in the engine.", n_running),
            ("sequences_waiting", "gauge", "Sequences waiting for the engine.", n_waiting),
            ("kv_cache_share", "gauge", "Share of the key-value memory in use.", round(kv_cache_share, 6)),
            ("prompt_tokens_total", "counter", "Prompt tokens of answered requests.", self.prompt_tokens),
            ("generation_tokens_total", "counter", "Tokens generated for them.", self.generation_tokens),
        ):
            lines += [f"# HELP embedded_{name} {text}", f"# TYPE embedded_{name} {kind}", f"embedded_{name} {value}"]
        lines += [
            "# HELP embedded_request_latency_seconds Wall clock of answered requests.",
            "# TYPE embedded_request_latency_seconds summary",
            f"embedded_request_latency_seconds_sum {self.latency_sum_s:.6f}",
            f"embedded_request_latency_seconds_count {self.latency_count}",
        ]
        return "\n".join(lines) + "\n"
