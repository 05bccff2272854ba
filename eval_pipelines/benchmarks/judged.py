"""The answers of one model to one benchmark, as the questions that a judge is asked about them."""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Self

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from eval_pipelines.benchmarks.grading import Chain, read_through
from eval_pipelines.benchmarks.harness import Benchmark
from eval_pipelines.benchmarks.repeats import check_drawn
from eval_pipelines.config import BenchmarkSpec, JudgeSpec
from eval_pipelines.errors import ConfigError, UnsupportedError
from eval_pipelines.keys import digest
from eval_pipelines.records import Evaluation, Request, Response, Sample

_MAX_TOKENS: Final = 1024
_SEED: Final = 1234
_NOT_ASKED: Final = "not_asked"


def judging_name(benchmark: str) -> str:
    """What the asking of judges is called in the record; no benchmark can have this name."""
    return f"{benchmark}+judging"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that is to be judged.

    Attributes:
        doc: The row of the benchmark's data.
        repeat: Which answer to its sample.
        other: The baseline's answer, where two are compared.
    """

    sample: Sample
    doc: Mapping[str, Any]
    repeat: int
    text: str
    other: str | None = None

    @property
    def is_same(self) -> bool:
        """Whether the baseline answered the very same: a tie that nobody needs to be asked about."""
        return self.text == self.other


@dataclass(slots=True)
class Answers:
    """What one model answered, as far as it can be judged.

    Attributes:
        unjudged: Sample → why it cannot be judged, such as a failure of the judged model's own request.
    """

    samples: list[Sample] = field(default_factory=list)
    given: list[Answer] = field(default_factory=list)
    unjudged: dict[str, str] = field(default_factory=dict)


def answers_of(
    benchmark: Benchmark,
    chain: Chain,
    responses: Mapping[str, Response],
    baseline: Mapping[str, Sequence[Response | None]] | None = None,
) -> Answers:
    """Every answer that can be judged, as it would be graded.

    Args:
        chain: what the judged model's answers are read through.
        baseline: the baseline's responses by sample (`texts_of`), where two answers are compared.

    Raises:
        UnsupportedError: the benchmark has no texts to judge.
    """
    found = Answers()
    given = texts_of(benchmark, chain, responses)
    for question in benchmark.questions():
        sample = question.sample
        found.samples.append(sample)
        own = given[sample.sample_id]
        others: Sequence[Response | None] = [None] * len(own)
        if baseline is not None:
            others = baseline.get(sample.sample_id, others)
            others = [*others, *[None] * len(own)][: len(own)]
        reason = _why_unjudged(own) or (f"baseline_{why}" if baseline and (why := _why_unjudged(others)) else None)
        if reason is not None:
            found.unjudged[sample.sample_id] = reason
            continue
        for repeat, (one, other) in enumerate(zip(own, others, strict=True)):
            text, beside = one and one.text, other.text if other else None
            found.given.append(Answer(sample, question.doc, repeat, text or "", beside))
    return found


def texts_of(benchmark: Benchmark, chain: Chain, responses: Mapping[str, Response]) -> dict[str, list[Response | None]]:
    """The responses to each sample, one per repeat; None where it was not asked. Raises UnsupportedError."""
    read, _ = read_through(chain, benchmark.requests(), responses)
    found: dict[str, list[Response | None]] = {}
    for question in benchmark.questions():
        repeats = question.requests[0]
        if len(question.requests) != 1 or repeats[0].is_likelihood:
            raise UnsupportedError(
                f"benchmarks.{benchmark.name}.judge: {question.sample.subtask} compares log-likelihoods, so there is "
                f"no text that could be judged. Leave `judge` out, or choose a task that generates."
            )
        found[question.sample.sample_id] = [read.get(request.digest) for request in repeats]
    return found


def _why_unjudged(responses: Sequence[Response | None]) -> str | None:
    for response in responses:
        if response is None:
            return _NOT_ASKED
        if response.failure is not None:
            return response.failure.kind.value
    return None


class Judging:
    """What a judge is asked: each answer that one model gave to one benchmark.

    Attributes:
        ask_version: Changes with the prompt and its parameters, and with whose answers are judged beside whose.
    """

    needs = frozenset({"chat"})

    def __init__(
        self, of: BenchmarkSpec, judge: JudgeSpec, answers: Answers, judged: Evaluation, baseline: Evaluation | None
    ) -> None:
        self.name, self.judged_model = judging_name(judged.benchmark), judged.model_key
        self.rules, self.answers, self.baseline = judge.rules, answers, baseline
        whose = [judged.evaluation_id, baseline and baseline.evaluation_id]
        self.ask_version = f"{of.version}-{digest([self.rules.asked, whose], n_bytes=6)}"
        self.spec = BenchmarkSpec(
            task=of.task,
            protocol="chat",
            max_failed_share=of.max_failed_share if judge.max_failed_share is None else judge.max_failed_share,
            max_attempts=of.max_attempts,
            repeats=self.rules.repeats,
            generation=self.rules.generation,
            system_prompt=self.rules.system,
        )
        self._chain: Chain | None = None

    def seen_through(self, chain: Chain) -> Self:
        """As one judge is asked, with what stands around its requests. Raises UnsupportedError, ConfigError."""
        seen = copy(self)
        seen._chain = chain
        check_drawn(self.name, seen.requests())
        return seen

    def samples(self) -> Iterator[Sample]:
        """Those with an answer that is judged."""
        return (one.sample for one in self.answers.given if one.repeat == 0)

    def requests(self) -> Iterator[Request]:
        """For each answer, order and repeat."""
        for answer in self.answers.given:
            if not answer.is_same:
                for order in self.orders:
                    yield from self.requests_for(answer, is_swapped=order)

    @property
    def orders(self) -> tuple[bool, ...]:
        """Whether the judged answer stands second: in each order that is asked."""
        return (False, True) if self.rules.swap else (False,)

    def requests_for(self, answer: Answer, *, is_swapped: bool) -> list[Request]:
        """One per repeat, whose seeds follow each other."""
        system = [{"role": "system", "content": self.rules.system}] if self.rules.system else []
        messages = (*system, {"role": "user", "content": self._prompt(answer, is_swapped=is_swapped)})
        params = {"max_tokens": _MAX_TOKENS, "temperature": 0, "seed": _SEED, **self.rules.generation}
        found = []
        for repeat in range(self.rules.repeats):
            seed = {"seed": params["seed"] + repeat} if isinstance(params["seed"], int) else {}
            request = Request(
                sample_id=answer.sample.sample_id,
                subtask=answer.sample.subtask,
                part=answer.repeat * len(self.orders) + is_swapped,
                repeat=repeat,
                operation="chat",
                messages=messages,
                params={**params, **seed},
            )
            found.append(self._chain.request(request) if self._chain else request)
        return found

    def read(self, responses: Mapping[str, Response]) -> Mapping[str, Response]:
        """The judge's responses as they are read for verdicts."""
        return read_through(self._chain, self.requests(), responses)[0]

    @cached_property
    def _template(self) -> Any:
        environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
        return environment.from_string(self.rules.prompt)

    def _prompt(self, answer: Answer, *, is_swapped: bool) -> str:
        sample = answer.sample
        shown: dict[str, Any] = {"question": sample.question, "reference": sample.target, "choices": sample.choices}
        if self.rules.kind == "rubric":
            shown["answer"] = answer.text
        else:
            first, second = (answer.other, answer.text) if is_swapped else (answer.text, answer.other)
            shown |= {"answer_a": first, "answer_b": second}
        try:
            return str(self._template.render(**shown, doc=answer.doc))
        except (TemplateError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
            columns = sorted(answer.doc.items(), key=str)
            has = ", ".join(f"{key} (null)" if value is None else str(key) for key, value in columns)
            told = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"the prompt of {self.name} cannot be written for {sample.sample_id}: {told}. Its `doc` has {has}."
            ) from None
