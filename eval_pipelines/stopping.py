"""Stop asking once enough is known.

Questions are asked in a random order that depends on nothing but their ids and a seed: every model is asked the same first
ones. Answers are graded batch by batch, in that order and never ahead of one that is still on its way: short answers come
first, and may be the right ones. The interval holds at all looks together; see `scoring.sequential`.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from eval_pipelines.config import StopEarly
from eval_pipelines.errors import ConfigError
from eval_pipelines.evaluation_record import STOPPED, Questions
from eval_pipelines.keys import digest
from eval_pipelines.records import Metric, Request, Response, Score
from eval_pipelines.scoring.estimates import Floats
from eval_pipelines.scoring.sequential import ConfidenceSequence


class Gradable(Questions, Protocol):
    """A benchmark that can be asked and graded in part."""

    headline: tuple[str, str]

    @property
    def is_graded_here(self) -> bool:
        """Whether answers must be graded in the main thread, or a few of them are in no time."""

    @property
    def subtask_names(self) -> list[str]:
        """Its tasks."""

    def only(self, sample_ids: Collection[str]) -> Self:
        """The same with these samples alone."""

    def grade(
        self, responses: Mapping[str, Response], *, max_failed_share: float | None = None
    ) -> tuple[list[Score], list[Metric]]:
        """Verdicts and metrics; `max_failed_share` of samples may fail to be graded."""


G = TypeVar("G", bound=Gradable)
Answers = Callable[[Collection[str]], Mapping[str, Response]]
_FEW = 10  # answers: lm-eval's own scorers take some 3 ms for them


@dataclass(slots=True)
class EarlyStop:
    """One asking that may end early.

    Attributes:
        earlier: Responses of earlier tries by request digest, of those that are asked for.
        reason: Why it ended before its end, in words; empty: it did not.
    """

    benchmark: Gradable
    rule: StopEarly
    earlier: Answers = lambda _: {}
    reason: str = ""
    _order: list[str] = field(default_factory=list)
    _requests: dict[str, list[Request]] = field(default_factory=dict)
    _responses: dict[str, Response] = field(default_factory=dict)
    _sequence: ConfidenceSequence = field(default_factory=lambda: ConfidenceSequence(1))
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _begun: Future[list[Score]] | None = None
    _n_given: int = 0
    _n_seen: int = 0

    def __post_init__(self) -> None:
        self._order = in_order((sample.sample_id for sample in self.benchmark.samples()), self.rule.seed)
        self._sequence = sequence_of(self.rule, len(self._order))
        for request in self.benchmark.requests():
            self._requests.setdefault(request.sample_id, []).append(request)

    def knows(self, digests: Collection[str], recovered: Iterable[Response] = (), *, is_all: bool = False) -> bool:
        """Take in what was answered before, and say whether it is enough.

        Args:
            is_all: nobody is asked: what failed before has no answer now either, and is left out.
        """
        self._responses.update(self.earlier(digests))
        self._responses.update({one.request_digest: one for one in recovered})
        self._look(self._order, is_all=is_all)
        return bool(self.reason)

    def take(self, request: Request, response: Response) -> None:
        """Take in an outcome of this asking."""
        self._responses[request.digest] = response

    def requests(self, missing: set[str]) -> Iterator[Request | Callable[[], Awaitable[None]]]:
        """Those of `missing` in the order in which to ask them, which it empties; ends early once enough is known.

        Between batches there is something to await: the grading, beside which what is on the wire goes on.
        """
        for start in range(0, len(self._order), self.rule.batch):
            while self._next(until := self._order[:start]) is not None:
                yield partial(self._look_beside, until)
            if self.reason:
                return
            batch = self._order[start : start + self.rule.batch]
            self._n_given = start + len(batch)
            for sample_id in batch:
                for request in self._requests[sample_id]:
                    if request.digest in missing:
                        missing.remove(request.digest)
                        yield request

    def end(self) -> Gradable:
        """The benchmark with the questions that were asked, once every outcome is in."""
        if self._begun is not None:  # whoever awaited it was let go
            self._see(self._begun.result())
            self._begun = None
        self._look(self._order)
        self._n_given = max(self._n_given, self._n_seen)
        if self._n_given == len(self._order):
            self.reason = ""
        return self.benchmark.only(self._order[: self._n_given]) if self.reason else self.benchmark

    def told(self) -> dict[str, Any]:
        """That and why it stopped, as plain JSON."""
        told = {"n": self._n_given, "of": len(self._order), "reason": self.reason}
        return told | self.rule.model_dump(exclude_none=True)

    def _look(self, until: Sequence[str], *, is_all: bool = False) -> None:
        """Grade whole batches of `until` in their order, as far as every answer is there."""
        while (answers := self._next(until, is_all=is_all)) is not None:
            self._see(self._graded(answers, self._batch()))

    async def _look_beside(self, until: Sequence[str]) -> None:
        """The same while others are on the wire: they are served meanwhile."""
        async with self._looking:
            while (answers := self._next(until)) is not None:
                scores: list[Score] = []
                if self.benchmark.is_graded_here:  # its time limits need this thread
                    batch = self._batch()
                    for first in range(0, len(batch), _FEW):
                        scores += self._graded(answers, batch[first : first + _FEW])
                        await asyncio.sleep(0)
                else:
                    self._begun = self._begun or _in_thread(partial(self._graded, answers, self._batch()))
                    scores = await asyncio.wrap_future(self._begun)
                    self._begun = None
                self._see(scores)

    def _batch(self) -> list[str]:
        return self._order[self._n_seen : self._n_seen + self.rule.batch]

    def _next(self, until: Sequence[str], *, is_all: bool = False) -> dict[str, Response] | None:
        """The answers to the next batch of `until`, by request digest; None if they are not all there."""
        if self._n_seen >= len(until):
            return None
        digests = [request.digest for sample_id in self._batch() for request in self._requests[sample_id]]
        answers = {one: self._responses[one] for one in digests if one in self._responses}
        if len(answers) < len({*digests}) and (not is_all or self.reason or not answers):
            return None
        return answers

    def _graded(self, answers: Mapping[str, Response], sample_ids: Collection[str]) -> list[Score]:
        # how many may fail is a share of the whole benchmark, which is graded in the end
        return self.benchmark.only(sample_ids).grade(answers, max_failed_share=1)[0]

    def _see(self, scores: Iterable[Score]) -> None:
        """Take in the verdicts of the next batch."""
        batch = self._batch()
        verdicts = verdicts_in(scores, self.benchmark.headline, batch)
        try:
            self._sequence.see(verdicts)
        except ValueError:
            raise ConfigError(
                f"benchmarks.{self.benchmark.name}.stop_early: its headline {','.join(self.benchmark.headline)} has verdicts "
                f"from {verdicts.min():g} to {verdicts.max():g}, and only of such between 0 and 1 is known when they are "
                f"enough. Leave it out, or name another `headline`. What was answered is kept."
            ) from None
        self._n_seen += len(batch)
        if not self.reason and self._n_seen < len(self._order):
            self.reason = reason(self.rule, self._sequence)


def _in_thread(work: Callable[[], list[Score]]) -> Future[list[Score]]:
    """What is done in a thread of its own: at the end of a loop or of the process, nobody waits for it.

    They would for an executor's thread, and so would whoever wants to end a run.
    """
    future = Future[list[Score]]()
    future.set_running_or_notify_cancel()  # who awaits it may be cancelled, and it goes on

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            future.set_exception(error)

    threading.Thread(target=run, name="grading", daemon=True).start()
    return future


def early_stop(benchmark: Gradable, rule: StopEarly | None, earlier: Answers = lambda _: {}) -> EarlyStop | None:
    """How this benchmark's asking may end early; None: it does not.

    Raises:
        ConfigError: it has several subtasks, whose average is not the mean over its questions; or its headline comes
            from judges.
    """
    if rule is None:
        return None
    if len(benchmark.subtask_names) > 1:
        raise ConfigError(
            f"benchmarks.{benchmark.name}.stop_early: it has {len(benchmark.subtask_names)} subtasks, whose average is "
            f"not the mean over its questions. Leave it out, or name one of them as `task`."
        )
    judge = benchmark.spec.judge
    if judge is not None and benchmark.headline[0] == judge.rules.metric:
        raise ConfigError(
            f"benchmarks.{benchmark.name}.stop_early: its headline {judge.rules.metric} comes from judges, who are asked "
            f"once all answers are there. Leave it out, or name a metric of the task as `headline`."
        )
    return EarlyStop(benchmark, rule, earlier)


def in_order(sample_ids: Iterable[str], seed: int) -> list[str]:
    """The samples in an order that is random, and the same for every model."""
    return sorted(sample_ids, key=lambda one: digest([seed, one], n_bytes=16))


def sequence_of(rule: StopEarly, n_population: int) -> ConfidenceSequence:
    """An interval that nothing was seen for yet."""
    return ConfidenceSequence(n_population, aim=rule.half_width or 0.05)


def verdicts_in(scores: Iterable[Score], headline: tuple[str, str], order: Iterable[str]) -> Floats:
    """The headline's verdicts in this order; what could not be graded is left out."""
    found = {
        one.sample_id: one.value for one in scores if (one.metric, one.filter) == headline and one.value is not None
    }
    return np.array([found[one] for one in order if one in found], dtype=np.float64)


def reason(rule: StopEarly, found: ConfidenceSequence) -> str:
    """Why asking may stop now, in words; empty if it may not."""
    told = f"{found.low:.4f} to {found.high:.4f} after {found.n:,} of {found.n_population:,} questions"
    if rule.half_width is not None and found.half_width <= rule.half_width:
        return f"the interval is narrow enough: {told}, half_width {rule.half_width:g}"
    if rule.decides is not None and not found.low <= rule.decides <= found.high:
        side = "above" if found.low > rule.decides else "below"
        return f"the result is {side} {rule.decides:g}: {told}"
    return ""


def asked_part(benchmark: G, parameters: Mapping[str, Any]) -> G:
    """The benchmark with the questions that an evaluation with these parameters asked."""
    stopped = parameters.get(STOPPED)
    if not stopped:
        return benchmark
    order = in_order((sample.sample_id for sample in benchmark.samples()), stopped["seed"])
    return benchmark.only(order[: stopped["n"]])


def with_sequential_interval(
    metrics: list[Metric], scores: Iterable[Score], headline: tuple[str, str], parameters: Mapping[str, Any]
) -> list[Metric]:
    """The headline with the interval that holds although asking stopped because of what was seen."""
    stopped = parameters.get(STOPPED)
    if not stopped:
        return metrics
    rule = StopEarly.model_validate({name: stopped[name] for name in StopEarly.model_fields if name in stopped})
    graded = list(scores)
    order = in_order({one.sample_id for one in graded}, rule.seed)
    found = sequence_of(rule, stopped["of"])
    found.see(verdicts_in(graded, headline, order))
    interval = {"ci_low": found.low, "ci_high": found.high, "ci_method": "sequential"}
    return [one.model_copy(update=interval) if one.is_headline and one.subtask == "" else one for one in metrics]
