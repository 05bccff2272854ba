"""What travels between the rooms: plain, frozen, checked values.

Nothing here knows Dagster, HTTP or SQL. Times are aware UTC datetimes, durations seconds (`_s`),
shares lie in [0, 1].
"""

from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from eval_pipelines.keys import cell_name, digest


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)


class Record(BaseModel):
    """Frozen, and refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class FailureKind(StrEnum):
    """Why a request has no answer. Decided from status, body and timing; never from a score."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    OVERLOADED = "overloaded"
    REJECTED = "rejected"
    DENIED = "denied"
    MALFORMED = "malformed"
    EMPTY = "empty"
    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTER = "content_filter"
    UNSUPPORTED = "unsupported"


class Failure(Record):
    """One request that got no answer."""

    kind: FailureKind
    message: str = Field(max_length=2000, description="The server's own words, shortened. Never a secret.")
    http_status: int | None = None


Operation = Literal["chat", "completion", "loglikelihood", "loglikelihood_rolling"]
LIKELIHOODS: frozenset[Operation] = frozenset({"loglikelihood", "loglikelihood_rolling"})
_NEEDS: dict[Operation, tuple[str, ...]] = {
    "chat": ("messages",),
    "completion": ("prompt",),
    "loglikelihood": ("prompt", "continuation"),
    "loglikelihood_rolling": ("continuation",),
}


class Place(NamedTuple):
    """Where in its benchmark a request belongs: what is kept of it beside its answer."""

    sample_id: str
    subtask: str
    part: int
    repeat: int
    operation: str


class Request(Record):
    """What is sent for one part of one sample, once. Pure data: it does not say where it goes."""

    sample_id: str = Field(description="Stable within the benchmark: `<subtask>/<index>`.")
    subtask: str = Field(description="The named part of the benchmark; the benchmark's own name if it has none.")
    part: int = Field(default=0, ge=0, description="Which request of the sample: the index of a choice.")
    repeat: int = Field(default=0, ge=0)
    operation: Operation
    messages: tuple[dict[str, str], ...] | None = Field(default=None, description="For `chat`.")
    prompt: str | None = Field(
        default=None, description="For `completion`; the context for `loglikelihood`, empty: none."
    )
    continuation: str | None = Field(
        default=None,
        description="The text whose probability is asked: for `loglikelihood` after the prompt, for "
        "`loglikelihood_rolling` as a document of its own, each token after all before it.",
    )
    params: dict[str, Any] = Field(default_factory=dict, description="max_tokens, temperature, stop, seed …")

    @model_validator(mode="after")
    def _carries_what_its_operation_needs(self) -> "Request":
        missing = [name for name in _NEEDS[self.operation] if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a {self.operation} request needs {' and '.join(missing)}")
        return self

    @property
    def is_likelihood(self) -> bool:
        """Whether a probability is asked, and no text."""
        return self.operation in LIKELIHOODS

    @property
    def is_from_start(self) -> bool:
        """Whether a probability of a text is asked with nothing before it."""
        return self.operation == "loglikelihood_rolling" or (self.operation == "loglikelihood" and not self.prompt)

    @property
    def place(self) -> Place:
        """Where in its benchmark it belongs."""
        return Place(self.sample_id, self.subtask, self.part, self.repeat, self.operation)

    @cached_property
    def digest(self) -> str:
        """Address of the answer, together with the model's fingerprint: a hash of what is sent, not of where."""
        return digest(
            [self.operation, self.messages, self.prompt, self.continuation, self.params, self.repeat], n_bytes=16
        )


class Response(Record):
    """What came back for one request: an answer (text or log-likelihood) or a failure; never both, never neither."""

    request_digest: str
    text: str | None = None
    reasoning: str | None = Field(default=None, description="Where the server tells it apart from the text.")
    logprob: float | None = Field(default=None, description="Natural log of the continuation's probability.")
    is_greedy: bool | None = Field(default=None, description="None where the server cannot tell.")
    failure: Failure | None = None
    finish_reason: str | None = None
    n_attempts: int = Field(ge=1)
    latency_s: float = Field(ge=0, description="Wall clock of the last attempt: first byte sent to last byte read.")
    ttft_s: float | None = Field(default=None, ge=0, description="Time to first token. None unless streamed.")
    inter_token_s: float | None = Field(
        default=None, ge=0, description="Mean time between parts with text, a token each as a rule, after the first."
    )
    prompt_tokens: int | None = Field(default=None, ge=0, description="As the server counted; None if it did not say.")
    completion_tokens: int | None = Field(default=None, ge=0, description="As the server counted.")
    cached_prompt_tokens: int | None = Field(default=None, ge=0, description="Of the prompt's, in the server's cache.")
    asked_at: datetime

    @model_validator(mode="after")
    def _answer_xor_failure(self) -> "Response":
        n = sum(value is not None for value in (self.text, self.logprob, self.failure))
        if n != 1:
            raise ValueError(f"a response is a text, a log-likelihood or a failure: exactly one, not {n}")
        return self

    @property
    def is_answer(self) -> bool:
        """True unless it is a failure."""
        return self.failure is None


class Sample(Record):
    """One question, as an analyst reads it."""

    sample_id: str
    subtask: str
    question: str = Field(description="The rendered prompt without few-shot examples.")
    target: str = Field(description="The gold answer as the scorer sees it.")
    choices: tuple[str, ...] = ()
    n_requests: int = Field(ge=1, description="Requests this sample takes for one repeat.")
    cluster: str | None = Field(
        default=None, description="What it shares with others, such as a passage or a subject; None: it stands alone."
    )


class Score(Record):
    """One verdict on one sample by one metric."""

    sample_id: str
    subtask: str
    metric: str
    filter: str = Field(description="The extraction step used; `none` if there is none.")
    value: float | None = Field(description="None = ungraded, and ungraded_reason says why. Never 0 for an outage.")
    extracted: str | None = Field(default=None, description="What the filter took from the answer.")
    ungraded_reason: str | None = None
    is_truncated: bool | None = Field(
        default=None, description="The answer was cut at its length limit. None: no text, or nobody said."
    )
    is_refused: bool | None = Field(
        default=None, description="The answer looks like a refusal; never changes the verdict. None as above."
    )
    is_unparseable: bool | None = Field(
        default=None, description="The benchmark's own extraction found nothing in the answer. None as above."
    )
    note: str | None = Field(default=None, description="What is to be known of the answer that was graded.")

    @model_validator(mode="after")
    def _ungraded_has_a_reason(self) -> "Score":
        if (self.value is None) != (self.ungraded_reason is not None):
            raise ValueError("a score has a value, or a reason why it has none")
        return self


class Metric(Record):
    """One number over many scores, with what it is worth."""

    subtask: str = Field(description="`` (empty) for the whole benchmark.")
    metric: str
    filter: str
    value: float | None = Field(description="None when nothing could be graded.")
    stderr: float | None = Field(default=None, ge=0)
    ci_method: str | None = Field(
        default=None, description="Where the 95 % interval comes from: wilson, normal, bootstrap, clustered."
    )
    n_clusters: int | None = Field(default=None, ge=1, description="Groups of questions the error is clustered by.")
    ci_low: float | None = None
    ci_high: float | None = None
    bound_low: float | None = Field(default=None, description="If every ungraded sample were 0. None when unbounded.")
    bound_high: float | None = Field(default=None, description="If every ungraded sample were 1.")
    n: int = Field(ge=0, description="Graded samples.")
    n_asked: int = Field(ge=0)
    higher_is_better: bool = True
    is_headline: bool = Field(default=False, description="The number people quote for this benchmark.")

    @property
    def coverage(self) -> float:
        """Graded / asked; 0.0 if nothing was asked."""
        return self.n / self.n_asked if self.n_asked else 0.0


class Evaluation(Record):
    """One try (a Dagster run) at one evaluation: who was asked what, with which versions, how it went."""

    evaluation_id: str
    run_id: str
    model_key: str
    family: str
    revision: str
    step: int | None = None
    fingerprint: str
    benchmark: str = Field(description="`<benchmark>+judging` where a judge was asked.")
    judged_model: str | None = Field(default=None, description="Model whose answers it judged. None: it was no judge.")
    ask_version: str = Field(description="Changes with prompts, data or generation parameters.")
    parameters: str = Field(description="JSON: limit, few-shot, protocol, generation …")
    endpoint: str = Field(description="URL without credentials; empty if all was known and nobody was asked.")
    backend: str = Field(description="Empty if nobody was asked.")
    server_version: str | None = None
    n_samples: int = Field(ge=0)
    n_requests: int = Field(ge=0)
    n_answered: int = Field(ge=0)
    n_reused: int = Field(ge=0, description="Answered by earlier evidence of the same model version.")
    answers_since: datetime | None = Field(
        default=None, description="No answer of another try that was asked earlier is used or graded; None: any may be."
    )
    n_failed: int = Field(ge=0)
    failures: str = Field(description="JSON: failure kind → count.")
    is_within_budget: bool
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = Field(
        default=None, ge=0, description="Of what it was answered, and took over from a killed run; None: no price."
    )
    currency: str | None = Field(default=None, description="ISO 4217 code of the cost's currency.")
    wall_s: float = Field(ge=0)
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    latency_p99_s: float | None = None
    ttft_p50_s: float | None = Field(default=None, description="Time to first token. None unless streamed.")
    ttft_p95_s: float | None = None
    inter_token_p50_s: float | None = Field(default=None, description="Of the answers' means. None unless streamed.")
    inter_token_p95_s: float | None = None
    n_truncated: int | None = Field(default=None, description="Answers that the server cut at their length limit.")
    asked_by: str = Field(default="", description="Who or what started the run.")
    project_version: str
    recorded_at: datetime

    @property
    def cell(self) -> str:
        """Name of its folders in the landing."""
        return cell_name(self.benchmark, self.judged_model)

    @property
    def is_complete(self) -> bool:
        """Whether every request was asked, and few enough failed: asking did not stop before its end."""
        return self.is_within_budget and self.n_answered + self.n_failed >= self.n_requests


class ServerMetrics(Record):
    """What one server told of itself at one moment, or why it told nothing. None: it does not tell that one.

    Counters count from `started_at`, also over a restart of the server; whoever else asked it is counted, too.
    """

    replica: str = Field(description="URL without credentials.")
    started_at: datetime = Field(description="When it was first asked for its metrics in this try.")
    scraped_at: datetime = Field(description="The same for all replicas that were asked together.")
    failure: str | None = Field(default=None, description="Why there are no metrics at that moment.")
    n_running: int | None = Field(default=None, description="Requests in computation.")
    n_waiting: int | None = Field(default=None, description="Requests that wait for their turn.")
    kv_cache_share: float | None = Field(default=None, description="Of the memory for keys and values in use, 0..1.")
    prefix_cache_hits: int | None = Field(default=None, description="Prompt tokens that were not computed again.")
    prefix_cache_queries: int | None = Field(default=None, description="Prompt tokens looked up in the cache.")
    prompt_tokens: int | None = None
    generation_tokens: int | None = None
    n_finished: int | None = Field(default=None, description="Requests that ended, however they did.")
    n_preempted: int | None = Field(default=None, description="Requests whose memory was taken for others.")
