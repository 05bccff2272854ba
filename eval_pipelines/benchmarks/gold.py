"""The answers that a perfect model would give to a benchmark, as responses to its requests."""

from collections.abc import Iterator
from typing import Any

from eval_pipelines.benchmarks.grading import Question
from eval_pipelines.benchmarks.harness import Benchmark
from eval_pipelines.benchmarks.own_file import GOLD
from eval_pipelines.benchmarks.own_scoring import LETTERS, Scorer
from eval_pipelines.records import Request, Response, utc_now

_LIKELY, _UNLIKELY = -0.001, -1000.0


def gold_responses(benchmark: Benchmark) -> dict[str, Response]:
    """By request digest. A sample whose gold answer cannot be told, and every perplexity, has none."""
    bad = {question.sample.sample_id for question, _ in unparseable(benchmark)}
    said: dict[str, Response] = {}
    for subtask in benchmark.subtasks:
        for question in subtask.questions:
            if question.sample.sample_id in bad or subtask.task.OUTPUT_TYPE == "loglikelihood_rolling":
                continue
            for repeats in question.requests:
                said |= {request.digest: _response(subtask.task, question, request) for request in repeats}
    return said


def unparseable(benchmark: Benchmark) -> Iterator[tuple[Question, str]]:
    """Samples of whose gold answer the scorer can make nothing, and why."""
    for subtask in benchmark.subtasks:
        for question in subtask.questions:
            try:
                if subtask.task.OUTPUT_TYPE == "multiple_choice":
                    golds = _places(subtask.task, question.doc)
                    n = len(subtask.task.doc_to_choice(question.doc))
                    if not golds or not all(0 <= place < n for place in golds):
                        raise ValueError(f"the right choice is {question.sample.target!r}, of {n} choices")
                scorer = subtask.task.config.process_results
                if isinstance(scorer, Scorer):
                    scorer.check(question.doc)
            except (ValueError, TypeError, LookupError) as error:
                yield question, str(error)


def _response(task: Any, question: Question, request: Request) -> Response:
    fields: dict[str, Any]
    if request.operation == "loglikelihood":
        is_gold = task.OUTPUT_TYPE != "multiple_choice" or request.part in _places(task, question.doc)
        fields = {"logprob": _LIKELY if is_gold else _UNLIKELY, "is_greedy": is_gold}
    else:
        fields = {"text": _text(task, question.doc)}
    return Response(request_digest=request.digest, n_attempts=1, latency_s=0, asked_at=utc_now(), **fields)


def _places(task: Any, doc: Any) -> list[int]:
    """Of the right choices."""
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    choices = task.doc_to_choice(doc)
    found = gold if isinstance(gold, list) else [gold]
    return [choices.index(one) if isinstance(one, str) else int(one) for one in found]


def _text(task: Any, doc: Any) -> str:
    """What is said: as the benchmark's file words it, else the target, formatted as the task formats it."""
    if isinstance(doc, dict) and GOLD in doc:
        return str(doc[GOLD])
    scorer = task.config.process_results
    if isinstance(scorer, Scorer):
        golds = scorer.golds(doc)
        return f"({golds[0]})" if scorer.extract == "choice_letter" and golds[0] in LETTERS else golds[0]
    target = task.doc_to_target(doc)
    if isinstance(target, int) and task.config.doc_to_choice:
        return str(task.doc_to_choice(doc)[target])
    return str(target[0] if isinstance(target, list) and target else target)
