"""What asking came to."""

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from eval_pipelines.client.course import Course
from eval_pipelines.client.failures import N_TO_STOP, POLICIES, what_to_check
from eval_pipelines.errors import AskingStoppedError
from eval_pipelines.records import Failure, FailureKind, Response


@dataclass(slots=True)
class AskReport:
    """What asking came to: counts by outcome, tokens, latencies in seconds.

    Attributes:
        stopped: Why asking ended before everything was asked, in words for the reader; empty: it did not.
        stopped_with: What the evaluation fails with because of that.
        stopped_at: When that was, in UTC.
        n_truncated: Answers that the server cut at their length limit.
        ttfts_s, inter_tokens_s: Of the answers that came as a stream: until the first token, and between tokens.
        n_denied_in_a_row: Requests that failed in a way that stops the asking, since the last answer.
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
    cached_prompt_tokens: int = 0
    wall_s: float = 0.0
    # eight bytes each: a million answers must not fill the memory
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    ttfts_s: "array[float]" = field(default_factory=lambda: array("d"))
    inter_tokens_s: "array[float]" = field(default_factory=lambda: array("d"))
    n_denied_in_a_row: int = 0
    first_failure: str = ""
    stopped: str = ""
    stopped_with: type[AskingStoppedError] = AskingStoppedError
    stopped_at: datetime | None = None
    course: Course | None = None
    told: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def n_done(self) -> int:
        """Requests with a final outcome."""
        return self.n_answered + self.n_failed

    @property
    def n_failed_of_server(self) -> int:
        """Failures that count against the budget: not the verdicts on a sample."""
        return sum(n for kind, n in self.failures.items() if POLICIES[kind].breaks_budget)

    def percentile_s(self, share: float) -> float | None:
        """Latency that `share` of the answers stayed below; None without answers."""
        return _percentile(self.latencies_s, share)

    @property
    def streamed(self) -> dict[str, Any]:
        """Fields of an Evaluation that streams tell; None where nothing was streamed."""
        return {
            "ttft_p50_s": _percentile(self.ttfts_s, 0.50),
            "ttft_p95_s": _percentile(self.ttfts_s, 0.95),
            "inter_token_p50_s": _percentile(self.inter_tokens_s, 0.50),
            "inter_token_p95_s": _percentile(self.inter_tokens_s, 0.95),
        }

    def count(self, response: Response, *, is_of_same_reply: bool = False) -> None:
        """Add one final outcome. `is_of_same_reply`: the same HTTP reply told the one before."""
        self.n_attempts += response.n_attempts
        if response.failure:
            self._count_failure(response.failure, is_of_same_reply)
            return
        self.n_answered += 1
        self.n_denied_in_a_row = 0
        self.n_truncated += response.finish_reason == "length"
        self.latencies_s.append(response.latency_s)
        if response.ttft_s is not None:
            self.ttfts_s.append(response.ttft_s)
        if response.inter_token_s is not None:
            self.inter_tokens_s.append(response.inter_token_s)
        self.prompt_tokens += response.prompt_tokens or 0
        self.completion_tokens += response.completion_tokens or 0
        self.cached_prompt_tokens += response.cached_prompt_tokens or 0

    def _count_failure(self, failed: Failure, is_of_same_reply: bool) -> None:
        self.n_failed += 1
        self.failures[failed.kind] += 1
        self.first_failure = self.first_failure or failed.message
        if is_of_same_reply or not POLICIES[failed.kind].stops_asking:
            return
        self.n_denied_in_a_row += 1
        if self.n_denied_in_a_row == N_TO_STOP and not self.stopped:
            status = f" (HTTP {failed.http_status})" if failed.http_status else ""
            self.stopped = (
                f"{N_TO_STOP} requests in a row were {failed.kind.value}{status} and none was answered in between: "
                f"{failed.message!r}. {what_to_check(failed)}"
            )


def _percentile(values: Sequence[float], share: float) -> float | None:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


Progress = Callable[[AskReport], None]
