"""What asking came to."""

from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from eval_pipelines.client.course import Course
from eval_pipelines.records import FailureKind, Response


@dataclass(slots=True)
class AskReport:
    """What asking came to: counts by outcome, tokens, latencies in seconds.

    Attributes:
        stopped: Why asking ended before everything was asked, in words for the reader; empty: it did not.
        n_truncated: Answers that the server cut at their length limit.
        course: How many were in flight over the time; None where that does not adapt.
        told: What interceptors have to say at the end, by their name; plain JSON values.
    """

    n_requests: int = 0
    n_answered: int = 0
    n_failed: int = 0
    n_not_asked: int = 0
    n_attempts: int = 0
    n_truncated: int = 0
    failures: Counter[FailureKind] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    wall_s: float = 0.0
    # eight bytes each: a million answers must not fill the memory
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    first_failure: str = ""
    stopped: str = ""
    course: Course | None = None
    told: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def n_done(self) -> int:
        """Requests with a final outcome."""
        return self.n_answered + self.n_failed

    def percentile_s(self, share: float) -> float | None:
        """Latency that `share` of the answers stayed below; None without answers."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    def count(self, response: Response) -> None:
        """Add one final outcome."""
        self.n_attempts += response.n_attempts
        if response.failure:
            self.n_failed += 1
            self.failures[response.failure.kind] += 1
            self.first_failure = self.first_failure or response.failure.message
            return
        self.n_answered += 1
        self.n_truncated += response.finish_reason == "length"
        self.latencies_s.append(response.latency_s)
        self.prompt_tokens += response.prompt_tokens or 0
        self.completion_tokens += response.completion_tokens or 0


Progress = Callable[[AskReport], None]
