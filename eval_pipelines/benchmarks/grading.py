"""Grade what was answered with lm-eval's filters and metrics; leave ungraded what was not."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eval_pipelines.benchmarks.catalog import Group
from eval_pipelines.errors import ScoringError, UnsupportedError
from eval_pipelines.records import Request, Response, Sample, Score
from eval_pipelines.scoring.aggregate import Verdicts


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
class _Judged:
    """What the task's scorer said of one repeat by one filter, and what the filter took from a text."""

    results: dict[str, Any]
    extracted: str | None


def grade_subtask(
    subtask: Subtask, responses: Mapping[str, Response], scores: list[Score]
) -> dict[tuple[str, str], Verdicts]:
    """Verdicts by (metric, filter); every sample's scores are appended to `scores`, the ungraded ones with a reason."""
    task = subtask.task
    pairs = [(metric, name) for metric in subtask.metric_names for name in subtask.filter_names]
    graded: list[Question] = []
    ungraded: list[tuple[Question, str]] = []
    for question in subtask.questions:
        reason = _why_ungraded(question, responses)
        if reason:
            ungraded.append((question, reason))
            continue
        graded.append(question)
    verdicts: dict[tuple[str, str], Verdicts] = {}
    if graded:
        judged = [_judge(subtask, graded, responses, repeat) for repeat in range(subtask.n_verdicts)]
        for question, repeats in zip(graded, zip(*judged, strict=True), strict=True):
            for name in subtask.filter_names:
                _score_one(task, question, name, [one[name] for one in repeats], verdicts, scores)
    for metric, name in verdicts or dict.fromkeys(pairs):
        found = verdicts.setdefault((metric, name), _no_verdicts(task, metric))
        found.n_asked = len(subtask.questions)
        scores.extend(
            Score(
                sample_id=question.sample.sample_id, subtask=subtask.name, metric=metric, filter=name,
                value=None, ungraded_reason=reason,
            )
            for question, reason in ungraded
        )  # fmt: skip
    return verdicts


def _judge(
    subtask: Subtask, questions: list[Question], responses: Mapping[str, Response], repeat: int
) -> list[dict[str, _Judged]]:
    """What the task makes of each question's repeat, by filter; of all its repeats where there is one verdict."""
    task = subtask.task
    chosen = slice(repeat, repeat + 1) if subtask.n_verdicts > 1 else slice(None)
    for question in questions:
        for instance, requests in zip(question.instances, question.requests, strict=True):
            instance.resps = [_as_resp(request, responses[request.digest]) for request in requests[chosen]]
    task._instances = [instance for question in questions for instance in question.instances]
    task.apply_filters()
    return [{name: _judge_one(task, question, name) for name in subtask.filter_names} for question in questions]


def _judge_one(task: Any, question: Question, filter_name: str) -> _Judged:
    sample_id = question.sample.sample_id
    filtered = [instance.filtered_resps[filter_name] for instance in question.instances]
    try:
        results = task.process_results(question.doc, filtered)
    except Exception as error:
        raise ScoringError(f"the scorer of {sample_id} raised {type(error).__name__}: {error}") from error
    results = {metric: value.item() if isinstance(value, np.generic) else value for metric, value in results.items()}
    for metric, value in results.items():
        if not isinstance(value, int | float):
            raise UnsupportedError(
                f"{sample_id}: metric {metric!r} gives {type(value).__name__} per sample, not a number; "
                f"it is not kept yet"
            )
    return _Judged(results, filtered[0][:2000] if len(filtered) == 1 and isinstance(filtered[0], str) else None)


def _score_one(
    task: Any,
    question: Question,
    filter_name: str,
    repeats: list[_Judged],
    verdicts: dict[tuple[str, str], Verdicts],
    scores: list[Score],
) -> None:
    for metric, first in repeats[0].results.items():
        # a question is one observation, however often it was asked: the standard error is over questions
        value = first if len(repeats) == 1 else math.fsum(one.results[metric] for one in repeats) / len(repeats)
        verdicts.setdefault((metric, filter_name), _no_verdicts(task, metric)).raw.append(value)
        scores.append(
            Score(
                sample_id=question.sample.sample_id, subtask=question.sample.subtask, metric=metric,
                filter=filter_name, value=float(value), extracted=repeats[0].extracted,
            )
        )  # fmt: skip


def _no_verdicts(task: Any, metric: str) -> Verdicts:
    combine: Callable[[list[Any]], float] | None = task.aggregation().get(metric)
    if combine is not None and getattr(combine, "__name__", "") == "mean":
        combine = None
    return Verdicts(higher_is_better=task.higher_is_better().get(metric) is not False, combine=combine)


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
