"""Whether a benchmark can be trusted before any model is asked: its gold answers score 1.0, and it tells no answers.

An error is what would make its numbers wrong. A note is what one should know of it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eval_pipelines.benchmarks.gold import gold_responses, unparseable
from eval_pipelines.benchmarks.grading import Question, Subtask
from eval_pipelines.benchmarks.harness import Benchmark
from eval_pipelines.benchmarks.leakage import n_places, shows_target, told
from eval_pipelines.benchmarks.own_file import SAMPLE_ID, OwnBenchmark
from eval_pipelines.errors import ScoringError
from eval_pipelines.records import Score

Level = Literal["error", "note"]
_N_SHOWN = 3
# no gold answer was given, or no single answer has a verdict
_NOT_OF_THE_ANSWER = ("not_asked", "not_applicable", "aggregate_only")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        check: gold, ids, leakage, few-shot, empty, duplicates or unparseable.
        told: What, where, and what to do.
    """

    level: Level
    check: str
    told: str


def validate(benchmark: Benchmark, own: OwnBenchmark | None) -> list[Finding]:
    """All that is wrong with a loaded benchmark, errors first.

    Args:
        own: What its file says, for a benchmark of one's own. Data that is somebody else's is noted, not refused:
            changing it would make another benchmark of it.
    """
    found = [
        *_empty_targets(benchmark),
        *_ids(benchmark),
        *_unparseable(benchmark),
        *_gold(benchmark, own),
        *_leaks(benchmark, own),
        *_duplicates(benchmark, own),
    ]
    for subtask in benchmark.subtasks:
        found += _few_shot(subtask)
    return sorted(found, key=lambda one: one.level != "error")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _N_SHOWN:,} more" if len(names) > _N_SHOWN else ""
    return f"{', '.join(names[:_N_SHOWN])}{more}"


def _ids_of(questions: Iterable[Question]) -> list[str]:
    return [question.sample.sample_id for question in questions]


def _questions(benchmark: Benchmark) -> Iterator[Question]:
    return (question for subtask in benchmark.subtasks for question in subtask.questions)


def _empty_targets(benchmark: Benchmark) -> Iterator[Finding]:
    if not benchmark.has_own_metrics:  # nothing is compared with a target
        return
    empty = [one for one in _questions(benchmark) if one.sample.target.strip() in ("", "None", "nan", "[]")]
    if empty:
        yield Finding(
            "error", "empty", f"{len(empty):,} samples have no target: {_some(_ids_of(empty))}. "
            f"Give their rows an answer, or take them out."
        )  # fmt: skip


def _ids(benchmark: Benchmark) -> Iterator[Finding]:
    docs = [question.doc for question in _questions(benchmark)]
    if docs and not all(isinstance(doc, dict) and SAMPLE_ID in doc for doc in docs):
        yield Finding(
            "note", "ids", "samples are named by their row's place: a row added in front renames all that follow. "
            "`id` in a benchmark's own file names them by their content."
        )  # fmt: skip


def _unparseable(benchmark: Benchmark) -> Iterator[Finding]:
    bad = [(one.sample.sample_id, why) for one, why in unparseable(benchmark)]
    if bad:
        yield Finding(
            "error", "unparseable", f"{len(bad):,} gold answers cannot be graded: "
            f"{_some(f'{name} ({why})' for name, why in bad)}. Mend `target` or these rows."
        )  # fmt: skip


def _gold(benchmark: Benchmark, own: OwnBenchmark | None) -> Iterator[Finding]:
    responses = gold_responses(benchmark)
    if not responses:
        if not any(unparseable(benchmark)):
            yield Finding(
                "note", "gold", "it has no gold answers to grade: perplexities are measured, not right or wrong."
            )
        return
    if not benchmark.has_own_metrics:
        yield Finding("note", "gold", "its answers are judged by models only: none of its gold answers was graded.")
        return
    try:
        scores, _ = benchmark.grade(responses)
    except ScoringError as error:
        yield Finding("error", "gold", f"a gold answer cannot be graded: {error}")
        return
    metric, filter_name = benchmark.headline
    if benchmark.spec.judge is not None:  # no judge is asked here: what the task itself says of them
        metric, filter_name = benchmark.subtasks[0].metric_names[0], benchmark.subtasks[0].filter_names[0]
    quoted = [score for score in scores if (score.metric, score.filter) == (metric, filter_name)]
    wrong = [one for one in quoted if one.value != 1.0 and one.ungraded_reason not in _NOT_OF_THE_ANSWER]
    if not wrong:
        if all(one.value is None for one in quoted):
            yield Finding("note", "gold", f"no gold answer has a verdict of its own: {metric} is made of many at once.")
        return
    samples = _some(f"{one.sample_id} ({_in_words(one)}{_took(one.extracted)})" for one in wrong)
    has_scorer = own is None and any(one.task.config.process_results is not None for one in benchmark.subtasks)
    if has_scorer:
        advice = "The task's own scorer may want more than its target."
    elif own is not None:
        advice = "Let `gold` say an answer that must score 1.0, or mend `extract`, `metric` or `target`."
    else:
        advice = "The task's filter or metric does not accept its own target: choose another `headline`."
    yield Finding(
        "note" if has_scorer else "error", "gold",
        f"{len(wrong):,} of {sum(1 for _ in benchmark.samples()):,} gold answers do not score 1.0 on "
        f"{metric},{filter_name}: {samples}. {advice}",
    )  # fmt: skip


def _in_words(score: Score) -> str:
    return f"ungraded: {score.ungraded_reason}" if score.value is None else f"{score.value:g}"


def _took(extracted: str | None) -> str:
    return "" if extracted is None else f", took {extracted[:60]!r}"


def _leaks(benchmark: Benchmark, own: OwnBenchmark | None) -> Iterator[Finding]:
    level: Level = "error" if own is not None and not own.answer_in_prompt else "note"
    way_out = "say `answer_in_prompt: true` if finding it there is the task"
    if own is not None and shows_target(benchmark, own):
        yield Finding(
            level, "leakage", f"`prompt` shows {own.target!r}, which is `target`: every prompt tells its answer. "
            f"Take it out, or {way_out}."
        )  # fmt: skip
    elif held := told(benchmark, own):
        advice = f" Reword them, or {way_out}." if own else ""
        yield Finding(
            level, "leakage", f"{len(held):,} prompts hold their answer: {_some(_ids_of(held))}.{advice}"
        )  # fmt: skip


def _duplicates(benchmark: Benchmark, own: OwnBenchmark | None) -> Iterator[Finding]:
    by_text: dict[str, list[Question]] = defaultdict(list)
    for question in _questions(benchmark):
        by_text[" ".join(_asked(question).split())].append(question)
    several = [same for same in by_text.values() if len(same) > 1]
    unlike = [same for same in several if len({one.sample.target for one in same}) > 1]
    level: Level = "error" if own is not None else "note"
    if unlike:
        yield Finding(
            level, "duplicates", f"{len(unlike):,} questions are asked with different answers: "
            f"{_some(' = '.join(_ids_of(same[:2])) for same in unlike)}. No model can be right on all: take one out."
        )  # fmt: skip
    if alike := [same for same in several if same not in unlike]:
        yield Finding(
            level, "duplicates", f"{len(alike):,} questions are asked more than once: "
            f"{_some(' = '.join(_ids_of(same[:2])) for same in alike)}. They count double: take one out."
        )  # fmt: skip


def _asked(question: Question) -> str:
    """What tells a question apart: its own text, and its choices where they are not in it."""
    return "\n".join((question.sample.question, *question.sample.choices))


def _few_shot(subtask: Subtask) -> Iterator[Finding]:
    task = subtask.task
    n, pool = task.config.num_fewshot or 0, _pool(task)
    if not pool:
        return
    own_text = {question.sample.question: question for question in subtask.questions}
    examples = dict.fromkeys(_texts(task, pool))
    if n:
        # its own question, answered, stands before it
        inside = [
            one for one in subtask.questions
            if one.sample.question in examples and n_places(_prompt(one), one.sample.question) > 1
        ]  # fmt: skip
        if inside:
            yield Finding(
                "error", "few-shot", f"{len(inside):,} samples are examples in their own prompts: {_some(_ids_of(inside))}. "
                f"Give the examples a split of their own."
            )  # fmt: skip
    if task.fewshot_cfg.split is not None and task.fewshot_cfg.split in (task.config.test_split,):
        if n:
            yield Finding(
                "note", "few-shot", f"{subtask.name} draws its {n} examples from the evaluated split: "
                f"each sample is left out of its own prompt only."
            )  # fmt: skip
        return
    both = [own_text[text] for text in examples if text in own_text]
    if both:
        yield Finding(
            "error" if n else "note", "few-shot", f"{len(both):,} evaluated samples of {subtask.name} are also few-shot "
            f"examples: {_some(_ids_of(both))}. Take them out of one of the two."
        )  # fmt: skip


def _pool(task: Any) -> Sequence[Any]:
    if task.fewshot_cfg.split is None and not task.has_training_docs():
        return []
    return list(task.fewshot_docs() or [])


def _texts(task: Any, docs: Sequence[Any]) -> Iterator[str]:
    for doc in docs:
        text = task.doc_to_text(doc, task.fewshot_cfg.doc_to_text)
        if isinstance(text, str):
            yield text


def _prompt(question: Question) -> str:
    request = question.requests[0][0]
    return request.prompt or "\n".join(str(message.get("content")) for message in request.messages or ())
