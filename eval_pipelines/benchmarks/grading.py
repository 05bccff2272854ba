"""Grade what was answered with lm-eval's filters and metrics; leave ungraded what was not."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

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
    """One loaded lm-eval task."""

    name: str
    task: Any
    questions: list[Question]

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
        for instance, repeats in zip(question.instances, question.requests, strict=True):
            instance.resps = [_as_resp(responses[request.digest]) for request in repeats]
        graded.append(question)
    verdicts: dict[tuple[str, str], Verdicts] = {}
    if graded:
        task._instances = [instance for question in graded for instance in question.instances]
        task.apply_filters()
        for question in graded:
            for name in subtask.filter_names:
                _grade_one(task, question, name, verdicts, scores)
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


def _grade_one(
    task: Any, question: Question, filter_name: str, verdicts: dict[tuple[str, str], Verdicts], scores: list[Score]
) -> None:
    sample = question.sample
    filtered = [instance.filtered_resps[filter_name] for instance in question.instances]
    try:
        results = task.process_results(question.doc, filtered)
    except Exception as error:
        raise ScoringError(f"the scorer of {sample.sample_id} raised {type(error).__name__}: {error}") from error
    is_text = len(filtered) == 1 and isinstance(filtered[0], str)
    for metric, value in results.items():
        found = verdicts.setdefault((metric, filter_name), _no_verdicts(task, metric))
        value = value.item() if isinstance(value, np.generic) else value
        found.raw.append(value)
        if not isinstance(value, int | float):
            raise UnsupportedError(
                f"{sample.sample_id}: metric {metric!r} gives {type(value).__name__} per sample, not a number; "
                f"it is not kept yet"
            )
        scores.append(
            Score(
                sample_id=sample.sample_id, subtask=sample.subtask, metric=metric, filter=filter_name,
                value=float(value), extracted=filtered[0][:2000] if is_text else None,
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


def _as_resp(response: Response) -> Any:
    return response.text if response.logprob is None else (response.logprob, bool(response.is_greedy))
