"""lm-eval's tasks, asked by us: its prompts, filters and metrics; our requests and our accounting.

Source  lm-evaluation-harness 0.4.x, `lm_eval.api.task`; defaults follow its `local-completions` model class
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from eval_pipelines.benchmarks import grading_place
from eval_pipelines.benchmarks.building import Rows, build_task, prepare_library
from eval_pipelines.benchmarks.catalog import open_catalog
from eval_pipelines.benchmarks.checking import lacks_reference
from eval_pipelines.benchmarks.clusters import cluster_of
from eval_pipelines.benchmarks.grading import Chain, GradingRules, Question, Subtask, grade_subtask, read_through
from eval_pipelines.benchmarks.grading_pool import POOL
from eval_pipelines.benchmarks.groups import metrics_of
from eval_pipelines.benchmarks.odd_rows import in_words, odd_sample, sample_id_of
from eval_pipelines.benchmarks.own_scoring import Scorer
from eval_pipelines.benchmarks.rendering import ask_version, question_of, score_version, target_of, to_requests
from eval_pipelines.benchmarks.repeats import check_drawn, check_repeats, n_verdicts
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.config.judges import needs_reference
from eval_pipelines.errors import ConfigError, DataError, EvalPipelinesError, UnsupportedError
from eval_pipelines.records import Metric, Request, Response, Sample, Score


class Benchmark:
    """A named, versioned set of samples, prompts and scorers, loaded and ready to be asked.

    Attributes:
        needs: The endpoint capabilities without which it cannot be asked.
        ask_version: Changes with prompts, data, few-shot or generation parameters.
        score_version: Changes with metrics, filters or the library that implements them.
    """

    judged_model: None = None

    def __init__(self, name: str, spec: BenchmarkSpec, subtasks: list[Subtask]) -> None:
        self.name, self.spec, self._subtasks = name, spec, subtasks
        tasks = [subtask.task for subtask in subtasks]
        self.ask_version = ask_version(spec, tasks)
        self.score_version = score_version(spec, tasks)
        self.needs = _needs(name, spec, tasks) | _needs_of_requests(self.requests())
        self.headline = self._headline()
        self._chain: Chain | None = None

    def seen_through(self, chain: Chain) -> Self:
        """This benchmark as one model is asked it, and as its answers are graded; the versions stay.

        Raises:
            UnsupportedError: a request is none that the chain can change.
            ConfigError: the chain gives all repeats of a question the same answer.
        """
        seen = copy(self)
        seen._chain = chain
        seen._subtasks = [
            replace(
                subtask,
                questions=[
                    replace(question, requests=[[chain.request(one) for one in same] for same in question.requests])
                    for question in subtask.questions
                ],
            )
            for subtask in self._subtasks
        ]
        check_drawn(self.name, seen.requests())
        return seen

    def only(self, sample_ids: Collection[str]) -> Self:
        """This benchmark with these samples alone; the versions stay."""
        wanted, part = set(sample_ids), copy(self)
        part._subtasks = [
            replace(one, questions=[each for each in one.questions if each.sample.sample_id in wanted])
            for one in self._subtasks
        ]
        return part

    @property
    def subtasks(self) -> tuple[Subtask, ...]:
        """Its lm-eval tasks with their questions, as they are asked."""
        return tuple(self._subtasks)

    @property
    def has_own_metrics(self) -> bool:
        """Whether answers are graded by the task itself: one that is only judged says `metric: bypass`."""
        return any(name != "bypass" for subtask in self._subtasks for name in subtask.metric_names)

    def check_is_graded(self) -> None:
        """Raises ConfigError where neither the task nor a judge could say how good an answer is, DataError where a row of
        one's own has no right answer that can be graded.
        """
        if not self.has_own_metrics and self.spec.judge is None:
            raise ConfigError(
                f"benchmarks.{self.name}: {self.spec.task} has no metric of its own, so somebody must judge its answers: "
                f"give it `judge: {{models: KEY, template: NAME}}`"
            )
        if self.spec.judge is not None and needs_reference(self.spec.judge.rules.prompt):
            lacking = next((one.sample_id for one in self.samples() if not one.target), None)
            if lacking is not None:
                raise ConfigError(lacks_reference(self.name, f"{lacking} has no target"))
        for subtask in self._subtasks:
            scorer = subtask.task.config.process_results
            for question in subtask.questions if isinstance(scorer, Scorer) else ():
                try:
                    scorer.check(question.doc)
                except (ValueError, LookupError) as error:
                    raise DataError(f"benchmarks.{self.name}: {question.sample.sample_id}: {error}") from error

    @property
    def subtask_names(self) -> list[str]:
        """One name for a plain task, many for a group."""
        return [subtask.name for subtask in self._subtasks]

    def questions(self) -> Iterator[Question]:
        """Every sample with its requests, in the order they are asked."""
        return (question for subtask in self._subtasks for question in subtask.questions)

    def samples(self) -> Iterator[Sample]:
        """Every sample, in the order they are asked."""
        return (question.sample for question in self.questions())

    def requests(self) -> Iterator[Request]:
        """Every request, those that share a prompt prefix next to each other."""
        for subtask in self._subtasks:
            for question in subtask.questions:
                for repeats in question.requests:
                    yield from repeats

    @property
    def is_graded_here(self) -> bool:
        """Whether answers must be graded in the main thread, or a few of them are in no time."""
        return all(grading_place.is_here(subtask.task) for subtask in self._subtasks)

    def grade(
        self, responses: Mapping[str, Response], *, max_failed_share: float | None = None
    ) -> tuple[list[Score], list[Metric]]:
        """Verdicts and metrics for what was answered. Pure: the same responses give the same numbers.

        Args:
            responses: by request digest. A sample with a missing or failed part is ungraded, never wrong.
            max_failed_share: of samples that may fail to be graded; None: as the benchmark says.

        Raises:
            ScoringError: a scorer raised, with the sample it raised on; or too many samples could not be graded.
        """
        responses, notes = read_through(self._chain, self.requests(), responses)
        scores: list[Score] = []
        n_samples = sum(len(one.questions) for one in self._subtasks)
        share = self.spec.max_failed_share if max_failed_share is None else max_failed_share
        rules = GradingRules(
            self.spec.grading_timeout_s,
            max_failed=share * n_samples,
            is_unparseable_wrong=self.spec.unparseable != "ungraded",
        )
        try:
            graded = {one.name: grade_subtask(one, responses, scores, rules) for one in self._subtasks}
        finally:
            POOL.rest()
        metrics = metrics_of(self._subtasks, graded, self.headline)
        if notes:
            scores = [one.model_copy(update={"note": notes.get(one.sample_id)}) for one in scores]
        return scores, metrics

    def _headline(self) -> tuple[str, str]:
        first = self._subtasks[0]
        known = [(metric, name) for metric in first.metric_names for name in first.filter_names]
        if self.spec.judge is not None:
            known.insert(0, (self.spec.judge.rules.metric, "none"))
        if self.spec.headline is None:
            return known[0]
        metric, _, filter_name = self.spec.headline.partition(",")
        for pair in known:
            if pair[0] == metric and filter_name in ("", pair[1]):
                return pair
        offered = ", ".join(f"{metric},{name}" for metric, name in known)
        raise ConfigError(f"benchmarks.{self.name}.headline: {self.spec.headline!r} is not among {offered}")


def load(name: str, spec: BenchmarkSpec, *, limit: int | None, cache: Path) -> Benchmark:
    """Load a benchmark: import lm-eval, read the data, render every prompt.

    Args:
        limit: Samples per subtask; None for all.
        cache: Folder for the index of task names.

    Raises:
        UnknownNameError: no such lm-eval task. DataError: the data is missing or lacks a column.
        UnsupportedError: the task needs what this project cannot ask.
    """
    prepare_library()
    leaves = open_catalog(cache, include=spec.include).leaves(spec.task)
    if not leaves:
        raise ConfigError(f"benchmarks.{name}.task: {spec.task!r} holds no tasks")
    rows = None if spec.data is None else Rows.read(spec.data, benchmark=name)
    subtasks = []
    for leaf in leaves:
        task = build_task(leaf, spec, rows, benchmark=name)
        check_repeats(name, spec, task)
        try:
            questions = list(_questions(task, spec, limit, name))
        except EvalPipelinesError:
            raise
        except Exception as error:
            which = odd_sample(task) or f"a question of {task.config.task}"
            raise DataError(f"benchmarks.{name}: {which} cannot be made of its row: {in_words(error)}") from error
        subtasks.append(Subtask(task.config.task, task, questions, n_verdicts(spec, task), leaf.groups))
    return Benchmark(name, spec, subtasks)


def _questions(task: Any, spec: BenchmarkSpec, limit: int | None, benchmark: str) -> Iterator[Question]:
    is_chat = spec.protocol == "chat"
    if is_chat and task.OUTPUT_TYPE != "generate_until":
        raise UnsupportedError(
            f"{task.config.task} compares log-likelihoods, which chat endpoints do not give. "
            f"Leave `protocol` at completions for it."
        )
    task.build_all_requests(
        limit=limit,
        apply_chat_template=is_chat,
        fewshot_as_multiturn=is_chat and spec.fewshot_as_multiturn,
        system_instruction=spec.system_prompt,
        chat_template=_as_json if is_chat else None,
    )
    by_doc: dict[int, list[Any]] = {}
    doc_ids: dict[str, int] = {}
    for instance in task.instances:
        by_doc.setdefault(instance.doc_id, []).append(instance)
    for doc_id, instances in by_doc.items():
        instances.sort(key=lambda instance: instance.idx)
        doc = instances[0].doc
        sample_id = sample_id_of(task.config.task, doc, doc_id)
        if (before := doc_ids.setdefault(sample_id, doc_id)) != doc_id:
            raise DataError(
                f"benchmarks.{benchmark}.data: rows {before + 1} and {doc_id + 1} both have the id {sample_id!r}. "
                f"Let `id` name a column, or several, that differ in each row."
            )
        requests = [to_requests(instance, sample_id, task.config.task, spec) for instance in instances]
        sample = Sample(
            sample_id=sample_id,
            subtask=task.config.task,
            question=question_of(task, doc),
            target=target_of(task, doc),
            choices=tuple(str(choice) for choice in task.doc_to_choice(doc)) if task.config.doc_to_choice else (),
            n_requests=len(requests),
            cluster=cluster_of(task, doc, doc_id, spec.cluster, benchmark=benchmark),
        )
        yield Question(sample, doc, instances, requests)


def _as_json(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    import json

    del add_generation_prompt  # the server renders its own template
    return json.dumps(messages, ensure_ascii=False)


def _needs(name: str, spec: BenchmarkSpec, tasks: list[Any]) -> frozenset[str]:
    needs: set[str] = set()
    for task in tasks:
        if task.OUTPUT_TYPE == "generate_until":
            needs.add("chat" if spec.protocol == "chat" else "completions")
        elif task.OUTPUT_TYPE in ("multiple_choice", "loglikelihood"):
            needs.add("echo_logprobs")
            if task.OUTPUT_TYPE == "loglikelihood" or "exact_match" in task._metric_fn_list:
                needs.add("top_logprobs")
        elif task.OUTPUT_TYPE == "loglikelihood_rolling":
            needs.add("echo_logprobs")
        else:
            raise UnsupportedError(
                f"benchmarks.{name}: {task.config.task} is of type {task.OUTPUT_TYPE}, which is not asked yet"
            )
    return frozenset(needs)


def _needs_of_requests(requests: Iterable[Request]) -> frozenset[str]:
    """A task class may ask for log-likelihoods beside its texts."""
    needs: set[str] = set()
    for request in requests:
        if request.is_from_start:
            needs.add("start_logprobs")
        if request.operation == "loglikelihood":
            needs.add("echo_logprobs")
    return frozenset(needs)
