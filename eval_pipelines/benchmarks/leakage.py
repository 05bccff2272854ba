"""Answers that a benchmark tells in its own prompts: in its templates, or in the text of a question."""

from collections.abc import Iterator
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes

from eval_pipelines.benchmarks.grading import Question
from eval_pipelines.benchmarks.harness import Benchmark
from eval_pipelines.benchmarks.own_file import FUNCTION, OwnBenchmark
from eval_pipelines.benchmarks.own_scoring import choices_of

# a shorter answer stands in many an innocent question
_MIN_LEAK = 3


def n_places(text: str, words: str) -> int:
    """How often words stand in a text, not as parts of longer ones; case and spaces do not count."""
    text, words = f" {_plain(text)} ", _plain(words)
    n, at = 0, text.find(words) if words else -1
    while at >= 0:
        n += not (text[at - 1].isalnum() or text[at + len(words)].isalnum())
        at = text.find(words, at + 1)
    return n


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def shows_target(benchmark: Benchmark, own: OwnBenchmark) -> bool:
    """Whether its prompt puts out all that its target puts out: then every prompt tells its answer.

    Where the other choices stand there as well, it only lists them.
    """
    wanted, shown = _put_out(own.target), _put_out(own.prompt) + _put_out(own.system)
    if not wanted or not all(one in shown for one in wanted):
        return False
    offered = ((question.sample.question, _choices(question, own)) for question in benchmark.questions())
    return not all(choices and all(n_places(text, one) for one in choices) for text, choices in offered)


def _choices(question: Question, own: OwnBenchmark | None) -> list[str]:
    if own is None or own.choices is None:
        return list(question.sample.choices)
    try:
        return choices_of(own.choices, question.doc)
    except ValueError:  # told as what cannot be graded
        return []


def _put_out(template: str) -> list[nodes.Node]:
    """The expressions whose values stand in what a template gives."""
    if template == FUNCTION or not template.strip():
        return []
    try:
        parsed = Environment(autoescape=True).parse(template)
    except TemplateSyntaxError:
        return []
    found = [one for output in parsed.find_all(nodes.Output) for one in output.nodes]
    given: list[nodes.Node] = [one for one in found if not isinstance(one, nodes.TemplateData)]
    # the bare name of a column stands for its value
    return given or [nodes.Name(template.strip(), "load")]


def told(benchmark: Benchmark, own: OwnBenchmark | None) -> list[Question]:
    """Questions whose text, or whose system message, holds an answer that is right; those with choices apart."""
    asked = [one for one in _with_answers(benchmark) if len(one[0].instances) == 1 and not _choices(one[0], own)]
    system = _told_to_all(benchmark, own, {_plain(answer) for _, answers in asked for answer in answers})
    return [
        question for question, answers in asked
        if any(_plain(one) in system or n_places(question.sample.question, one) for one in answers)
    ]  # fmt: skip


def _with_answers(benchmark: Benchmark) -> Iterator[tuple[Question, list[str]]]:
    for subtask in benchmark.subtasks:
        for question in subtask.questions:
            yield question, [one for one in _answers(subtask.task, question) if len(one.strip()) >= _MIN_LEAK]


def _answers(task: Any, question: Question) -> list[str]:
    target = task.doc_to_target(question.doc)
    return [str(one) for one in target] if isinstance(target, list) else [question.sample.target]


def _told_to_all(benchmark: Benchmark, own: OwnBenchmark | None, answers: set[str]) -> set[str]:
    """The one answer that the system message holds; one that holds several names what there is to choose from."""
    system = "\n".join(filter(None, (own.system if own else "", benchmark.spec.system_prompt)))
    held = {one for one in answers if n_places(system, one)} if system else set()
    return held if len(held) == 1 else set()
