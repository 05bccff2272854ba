"""Grade what was answered with lm-eval's filters and metrics; leave ungraded what was not."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from eval_pipelines.benchmarks import grading_place
from eval_pipelines.benchmarks.catalog import Group
from eval_pipelines.benchmarks.flags import Flags, flags_of
from eval_pipelines.benchmarks.own_scoring import FunctionScorer
from eval_pipelines.benchmarks.scorer import Case, Judged, Outcome, Raised
from eval_pipelines.errors import ScoringError
from eval_pipelines.records import Request, Response, Sample, Score
from eval_pipelines.scoring.aggregate import Verdicts

# (metric, filter)
Pair = tuple[str, str]

SHARES = UNPARSEABLE, TRUNCATED, REFUSED = "unparseable_share", "truncated_share", "refused_share"
_NOT_APPLICABLE, _NO_NUMBER, _NOTHING_FOUND = "not_applicable", "aggregate_only", "unparseable"
_NOT_FINITE = "not_finite"


@dataclass(slots=True)
class Question:
    """One sample with the requests that answer it and the lm-eval instances that they stand for."""

    sample: Sample
    doc: Any
    instances: list[Any]
    requests: list[list[Request]]  # one list of repeats per instance


@dataclass(slots=True)
class Subtask:
    """One loaded lm-eval task.

    Attributes:
        n_verdicts: On each sample, one per repeat; its score is their mean. 1: the task takes all repeats together.
        groups: It is in them, the outermost first; each states how it makes one number of many.
    """

    name: str
    task: Any
    questions: list[Question]
    n_verdicts: int = 1
    groups: tuple[Group, ...] = ()

    @property
    def metric_names(self) -> list[str]:
        """As the task lists them."""
        return list(self.task._metric_fn_list)

    @property
    def filter_names(self) -> list[str]:
        """As the task lists them; `none` where it has none."""
        return [ensemble.name for ensemble in self.task._filters]


class Chain(Protocol):
    """What stands around the requests of a benchmark to one model: pure functions."""

    @property
    def reads_answers(self) -> bool:
        """Whether answers are graded other than they came."""

    def request(self, request: Request) -> Request:
        """What is really asked. Raises UnsupportedError."""

    def response(self, request: Request, response: Response) -> Response:
        """What is really graded."""

    def remark(self, request: Request, response: Response) -> str | None:
        """What is to be known of an answer, as it came."""


def read_through(
    chain: Chain | None, requests: Iterable[Request], responses: Mapping[str, Response]
) -> tuple[Mapping[str, Response], dict[str, str]]:
    """Responses as they are graded, and what is to be known of them by sample."""
    if chain is None or not chain.reads_answers:
        return responses, {}
    read: dict[str, Response] = {}
    notes: dict[str, str] = {}
    for request in requests:
        response = responses.get(request.digest)
        if response is not None:
            read[request.digest] = chain.response(request, response)
            if note := chain.remark(request, response):
                notes[request.sample_id] = note
    return read, notes


@dataclass(slots=True)
class GradingRules:
    """What a benchmark states of its grading, and how much of it failed so far.

    Attributes:
        timeout_s: CPU seconds one answer may take.
        max_failed: Samples of the whole benchmark that may fail to be graded.
        is_unparseable_wrong: As the scorer says of an answer in which nothing was found; else it is ungraded.
        failed: Those that did.
    """

    timeout_s: float = 10.0
    max_failed: float = math.inf
    is_unparseable_wrong: bool = True
    failed: set[str] = field(default_factory=set)

    def fail(self, sample_id: str, reason: str) -> None:
        """One more. Raises ScoringError where that is one too many."""
        self.failed.add(sample_id)
        if len(self.failed) > self.max_failed:
            raise ScoringError(
                f"{len(self.failed)} answered samples could not be graded, and max_failed_share allows "
                f"{math.floor(self.max_failed)}; the last is {sample_id}: {reason} (grading_timeout_s is "
                f"{self.timeout_s:g}). The answers stay landed, and so do earlier scores."
            )


@dataclass(slots=True)
class _Graded:
    """One task's scores and verdicts as they grow."""

    subtask: Subtask
    rules: GradingRules
    scores: list[Score]
    verdicts: dict[Pair, Verdicts] = field(default_factory=dict)
    shares: dict[Pair, Verdicts] = field(default_factory=dict)

    def of(self, pair: Pair) -> Verdicts:
        if pair not in self.verdicts:
            self.verdicts[pair] = _no_verdicts(self.subtask.task, pair[0])
        return self.verdicts[pair]

    def share(self, pair: Pair, is_so: bool | None) -> None:
        if is_so is not None:
            self.shares.setdefault(pair, Verdicts(higher_is_better=False)).add(float(is_so))


def grade_subtask(
    subtask: Subtask, responses: Mapping[str, Response], scores: list[Score], rules: GradingRules | None = None
) -> dict[Pair, Verdicts]:
    """Verdicts by (metric, filter); every sample's scores are appended to `scores`, the ungraded ones with a reason.

    With them the shares of answers that were cut, refused, or in which nothing was found.

    Raises:
        ScoringError: the scorer raised, or too many samples could not be graded.
    """
    graded = _Graded(subtask, rules or GradingRules(), scores)
    answered: list[Question] = []
    ungraded: list[tuple[Question, str, Flags]] = []
    for question in subtask.questions:
        reason = _why_ungraded(question, responses)
        if reason:
            ungraded.append((question, reason, _flags(question, responses)))
        else:
            answered.append(question)
    for question, repeats in zip(answered, _outcomes(subtask, answered, responses, graded.rules), strict=True):
        flags = _flags(question, responses)
        failed = next((one for one in repeats if isinstance(one, str)), None)
        if failed is not None:
            ungraded.append((question, failed, flags))
            continue
        for name in subtask.filter_names:
            _score_one(graded, question, name, [one[name] for one in repeats if isinstance(one, dict)], flags)
        _count(graded, flags)
    _leave_ungraded(graded, ungraded)
    for found in graded.shares.values():
        found.n_asked = len(subtask.questions)
    return {**graded.verdicts, **graded.shares}


def _outcomes(
    subtask: Subtask, questions: Sequence[Question], responses: Mapping[str, Response], rules: GradingRules
) -> list[list[Outcome]]:
    """Of each question, one outcome per verdict."""
    n = subtask.n_verdicts
    cases = [_case(question, responses, repeat if n > 1 else None) for question in questions for repeat in range(n)]
    found: list[Outcome] = [""] * len(cases)
    for number, outcome in grading_place.judge(subtask.task, cases, timeout_s=rules.timeout_s):
        found[number] = outcome
        sample_id = questions[number // n].sample.sample_id
        if isinstance(outcome, Raised):
            raise ScoringError(f"the scorer of {sample_id} {outcome.message}")
        if isinstance(outcome, str):
            rules.fail(sample_id, outcome)
    return [found[first : first + n] for first in range(0, len(found), n)]


def _case(question: Question, responses: Mapping[str, Response], repeat: int | None) -> Case:
    chosen = slice(None) if repeat is None else slice(repeat, repeat + 1)
    return Case(
        question.doc,
        [[_as_resp(one, responses[one.digest]) for one in requests[chosen]] for requests in question.requests],
    )


def _score_one(graded: _Graded, question: Question, name: str, repeats: list[Judged], flags: Flags) -> None:
    is_unparseable = _any(one.is_unparseable for one in repeats)
    graded.share((UNPARSEABLE, name), is_unparseable)
    for metric, raw in repeats[0].raw.items():
        verdicts = graded.of((metric, name))
        # a question is one observation, however often it was asked: the standard error is over questions
        value, reason = _value(raw, [one.values[metric] for one in repeats])
        if is_unparseable and not graded.rules.is_unparseable_wrong:
            value, reason = None, _NOTHING_FOUND
            verdicts.n_asked += 1
        elif reason != _NOT_APPLICABLE:
            if reason != _NOT_FINITE or (len(repeats) == 1 and _is_finite(raw)):
                verdicts.add(raw if len(repeats) == 1 else value, question.sample.cluster)
            verdicts.n_asked += 1
        graded.scores.append(
            Score(
                sample_id=question.sample.sample_id, subtask=question.sample.subtask, metric=metric, filter=name,
                value=value, ungraded_reason=reason, extracted=repeats[0].extracted,
                is_unparseable=is_unparseable, **flags._asdict(),
            )
        )  # fmt: skip


def _value(raw: Any, values: Sequence[float | None]) -> tuple[float | None, str | None]:
    """A question's verdict over its repeats, or why there is none."""
    known = [one for one in values if one is not None]
    if len(known) < len(values):
        return None, _NOT_APPLICABLE if isinstance(raw, int | float) else _NO_NUMBER
    if not all(map(math.isfinite, known)):
        return None, _NOT_FINITE
    return math.fsum(known) / len(known), None


def _is_finite(raw: Any) -> bool:
    """Whether the task's aggregation can take it: of one question a perplexity may be infinite, of all it is not."""
    numbers = raw if isinstance(raw, tuple | list) else [raw]
    return all(math.isfinite(one) for one in numbers if isinstance(one, int | float))


def _leave_ungraded(graded: _Graded, ungraded: Sequence[tuple[Question, str, Flags]]) -> None:
    task = graded.subtask
    declared = [(metric, name) for metric in task.metric_names for name in task.filter_names]
    for metric, name in list(graded.verdicts) or declared:
        graded.of((metric, name)).n_asked += len(ungraded)
        graded.scores.extend(
            Score(
                sample_id=question.sample.sample_id, subtask=task.name, metric=metric, filter=name, value=None,
                ungraded_reason=reason, **flags._asdict(),
            )
            for question, reason, flags in ungraded
        )  # fmt: skip
    for _, _, flags in ungraded:
        _count(graded, flags)


def _count(graded: _Graded, flags: Flags) -> None:
    graded.share((TRUNCATED, "none"), flags.is_truncated)
    graded.share((REFUSED, "none"), flags.is_refused)


def _flags(question: Question, responses: Mapping[str, Response]) -> Flags:
    return flags_of(responses.get(request.digest) for repeats in question.requests for request in repeats)


def _any(found: Iterable[bool | None]) -> bool | None:
    known = [one for one in found if one is not None]
    return any(known) if known else None


def _no_verdicts(task: Any, metric: str) -> Verdicts:
    combine: Callable[[list[Any]], float] | None = task.aggregation().get(metric)
    if combine is not None and getattr(combine, "__name__", "") == "mean":
        combine = None
    return Verdicts(
        higher_is_better=task.higher_is_better().get(metric) is not False,
        combine=combine,
        are_shares=not isinstance(task.config.process_results, FunctionScorer),
    )


def _why_ungraded(question: Question, responses: Mapping[str, Response]) -> str | None:
    for repeats in question.requests:
        for request in repeats:
            response = responses.get(request.digest)
            if response is None:
                return "not_asked"
            if response.failure is not None:
                return response.failure.kind.value
    return None


def _as_resp(request: Request, response: Response) -> Any:
    if request.operation == "loglikelihood_rolling":
        return response.logprob
    return response.text if response.logprob is None else (response.logprob, bool(response.is_greedy))
