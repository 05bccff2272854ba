"""Asking that ends once enough is known: in which order, when, and what is then graded."""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.config import BenchmarkSpec, Config, StopEarly
from eval_pipelines.errors import ConfigError, ScoringError
from eval_pipelines.records import Failure, FailureKind, Metric, Request, Response, Sample, Score, utc_now
from eval_pipelines.stopping import EarlyStop, asked_part, early_stop, in_order, with_sequential_interval

pytestmark = pytest.mark.unit


@dataclass
class Exam:
    """Answers are right that say so."""

    ids: list[str]
    name: str = "exam"
    headline: tuple[str, str] = ("acc", "none")
    subtask_names: tuple[str, ...] = ("exam",)
    spec: BenchmarkSpec = field(default_factory=lambda: BenchmarkSpec(task="exam"))
    right: float = 1.0
    is_graded_here: bool = True
    takes_s: float = 0.0  # for each answer
    graded: list[str] = field(default_factory=list)  # whatever part of it was

    def samples(self) -> Iterator[Sample]:
        return (Sample(sample_id=one, subtask="exam", question="?", target="!", n_requests=1) for one in self.ids)

    def requests(self) -> Iterator[Request]:
        return (Request(sample_id=one, subtask="exam", operation="completion", prompt=one) for one in self.ids)

    def only(self, sample_ids: Collection[str]) -> "Exam":
        return replace(self, ids=[one for one in self.ids if one in set(sample_ids)])

    def grade(
        self, responses: Mapping[str, Response], *, max_failed_share: float | None = None
    ) -> tuple[list[Score], list[Metric]]:
        scores = []
        self.graded.extend(self.ids)
        time.sleep(self.takes_s * len(self.ids))
        for request in self.requests():
            text = responses[request.digest].text if request.digest in responses else None
            reason = None if text is not None else "timeout"
            value = None if text is None else self.right * (text == "right")
            if text == "hangs":
                value, reason = None, "grading_timeout"
            scores.append(
                Score(
                    sample_id=request.sample_id,
                    subtask="exam",
                    metric="acc",
                    filter="none",
                    value=value,
                    ungraded_reason=reason,
                )
            )
        n_failed = sum(one.ungraded_reason == "grading_timeout" for one in scores)
        if n_failed > len(scores) * (self.spec.max_failed_share if max_failed_share is None else max_failed_share):
            raise ScoringError(f"{n_failed} could not be graded")
        return scores, []


def exam(n: int = 1_000) -> Any:
    return Exam([f"exam/{i}" for i in range(n)])


def response(request: Request, text: str | None = "right") -> Response:
    failure = Failure(kind=FailureKind.TIMEOUT, message="too slow") if text is None else None
    return Response(
        request_digest=request.digest, text=text, failure=failure, n_attempts=1, latency_s=0.1, asked_at=utc_now()
    )


def digests(benchmark: Any) -> set[str]:
    return {request.digest for request in benchmark.requests()}


async def read(source: Iterable[Any]) -> AsyncIterator[tuple[int, Request]]:
    """What is to be asked, numbered, as one who asks it reads it."""
    numbers = count()
    for one in source:
        if isinstance(one, Request):
            yield next(numbers), one
        else:
            await one()


def test_questions_come_in_an_order_that_every_model_shares_and_the_seed_changes() -> None:
    ids = [f"exam/{i}" for i in range(50)]
    assert in_order(ids, 0) == in_order(reversed(ids), 0) != in_order(ids, 1)
    assert sorted(in_order(ids, 0)) == sorted(ids)
    # those a shorter benchmark has too keep their order: paired comparisons share them
    assert [one for one in in_order(ids, 0) if one in ids[:20]] == in_order(ids[:20], 0)


async def test_asking_ends_once_the_interval_is_narrow_enough_and_what_was_asked_is_what_counts() -> None:
    benchmark = exam()
    early = EarlyStop(benchmark, StopEarly(half_width=0.05, batch=50))
    missing, n_asked = digests(benchmark), 0
    async for _, request in read(early.requests(missing)):
        n_asked += 1
        early.take(request, response(request))
    part = early.end()
    assert early.reason.startswith("the interval is narrow enough: 0.9")
    assert n_asked == len(list(part.samples())) < 300
    assert n_asked % 50 == 0
    assert len(missing) == 1_000 - n_asked


async def test_answers_that_overtake_others_are_not_looked_at_before_them() -> None:
    early = EarlyStop(exam(), StopEarly(half_width=0.2, batch=10))
    slow = None
    async for n, request in read(early.requests(digests(early.benchmark))):
        if n == 0:
            slow = request  # still on its way: nothing after it counts
        else:
            early.take(request, response(request))
        assert not early.reason
    assert slow is not None
    early.take(slow, response(slow))
    early.end()
    assert early.reason == "", "everything was asked by then"


@pytest.mark.parametrize("is_graded_here", [True, False])
async def test_what_is_on_the_wire_is_served_while_answers_are_graded(is_graded_here) -> None:
    benchmark = replace(exam(300), takes_s=0.01, is_graded_here=is_graded_here)
    lags: list[float] = []

    async def watch() -> None:
        while True:
            at = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - at)

    async def ask() -> None:
        async for _, request in read(source):
            early.take(request, response(request))
            await asyncio.sleep(0)

    early = EarlyStop(benchmark, StopEarly(half_width=0.1, batch=100))
    source = early.requests(digests(benchmark))
    watching = asyncio.create_task(watch())
    await asyncio.gather(*(ask() for _ in range(4)))
    watching.cancel()
    assert len(list(early.end().samples())) == 100
    assert max(lags) < 0.5, "100 answers take a second"


async def all_answered(early: EarlyStop) -> None:
    async for _, request in read(early.requests(digests(early.benchmark))):
        early.take(request, response(request))


def test_whoever_is_told_to_end_does_not_wait_for_the_grading() -> None:
    early = EarlyStop(replace(exam(300), takes_s=0.02, is_graded_here=False), StopEarly(half_width=0.1, batch=100))
    before, started = {*threading.enumerate()}, time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(all_answered(early), 0.2))
    assert time.monotonic() - started < 1.5, "100 answers take two seconds"
    assert early.benchmark.graded, "it had begun"
    assert all(one.daemon for one in {*threading.enumerate()} - before), "a process waits for others at its exit"


async def test_what_is_being_graded_when_asking_ends_is_not_graded_twice() -> None:
    early = EarlyStop(replace(exam(300), takes_s=0.005, is_graded_here=False), StopEarly(half_width=0.1, batch=100))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(all_answered(early), 0.1)
    assert len(list(early.end().samples())) == len(early.benchmark.graded) == 100


async def test_it_is_known_on_which_side_of_a_value_the_result_is() -> None:
    early = EarlyStop(exam(), StopEarly(decides=0.5, batch=20))
    async for _, request in read(early.requests(digests(early.benchmark))):
        early.take(request, response(request, "wrong"))
    early.end()
    assert early.reason.startswith("the result is below 0.5: 0.0000 to 0.3")


async def test_failed_requests_are_left_out_and_never_wrong() -> None:
    early = EarlyStop(exam(), StopEarly(half_width=0.05, batch=50))
    async for n, request in read(early.requests(digests(early.benchmark))):
        early.take(request, response(request, None if n % 10 == 0 else "right"))
    early.end()
    assert "narrow enough: 0.9" in early.reason


async def test_answers_that_cannot_be_graded_are_counted_over_the_whole_and_not_in_each_batch() -> None:
    early = EarlyStop(exam(), StopEarly(half_width=0.1, batch=10))
    async for n, request in read(early.requests(digests(early.benchmark))):
        early.take(request, response(request, "hangs" if n == 3 else "right"))
    early.end()
    assert "narrow enough: 0.8" in early.reason


def test_verdicts_that_are_no_shares_are_told_as_a_mistake_in_the_file() -> None:
    benchmark = Exam([f"exam/{i}" for i in range(20)], right=7.0)
    early = EarlyStop(benchmark, StopEarly(half_width=0.1, batch=10))
    with pytest.raises(ConfigError, match=r"exam\.stop_early: its headline acc,none has verdicts from 7 to 7"):
        early.knows((), [response(one) for one in benchmark.requests()])


def test_what_judges_say_comes_too_late_to_end_the_asking() -> None:
    spec = BenchmarkSpec.model_validate({"task": "exam", "judge": {"models": "j@a", "template": "correctness"}})
    judged = Exam(["a"], spec=spec, headline=("judge_score", "none"))
    with pytest.raises(ConfigError, match="its headline judge_score comes from judges"):
        early_stop(judged, StopEarly(half_width=0.1))
    assert early_stop(replace(judged, headline=("acc", "none")), StopEarly(half_width=0.1)) is not None


def test_what_is_known_already_is_looked_at_first_and_all_of_it_counts() -> None:
    benchmark = exam()
    order = in_order(benchmark.ids, 0)
    known = {one.digest: response(one) for one in benchmark.only(order[:400]).requests()}
    early = EarlyStop(
        benchmark, StopEarly(half_width=0.05, batch=50), lambda wanted: {one: known[one] for one in wanted}
    )
    assert early.knows(known)
    assert list(early.requests(digests(benchmark))) == []
    assert len(list(early.end().samples())) == 400


def test_where_nobody_is_asked_what_failed_before_is_left_out() -> None:
    benchmark = exam()
    order = in_order(benchmark.ids, 0)
    known = {one.digest: response(one) for one in benchmark.only(order[:300]).requests() if one.sample_id != order[5]}
    strict = EarlyStop(benchmark, StopEarly(half_width=0.05, batch=50), lambda _: known)
    assert not strict.knows(known), "it may be answered this time"
    replayed = EarlyStop(benchmark, StopEarly(half_width=0.05, batch=50), lambda _: known)
    assert replayed.knows(known, is_all=True)
    assert len(list(replayed.end().samples())) == 300
    few = EarlyStop(benchmark, StopEarly(half_width=0.01, batch=50), lambda _: known)
    assert not few.knows(known, is_all=True)
    assert few.end() is benchmark


def test_an_exam_that_was_answered_whole_did_not_stop_early() -> None:
    benchmark = exam(300)
    early = EarlyStop(benchmark, StopEarly(half_width=0.2, batch=50))
    assert early.knows((), [response(one) for one in benchmark.requests()])
    assert early.end() is benchmark
    assert early.reason == ""


def test_the_grading_knows_what_was_asked_and_the_interval_is_the_sequential_one() -> None:
    benchmark, told = (
        exam(),
        {"stop_early": {"n": 200, "of": 1_000, "seed": 0, "half_width": 0.05, "batch": 50, "reason": "…"}},
    )
    part = asked_part(benchmark, told)
    assert {one.sample_id for one in part.samples()} == set(in_order(benchmark.ids, 0)[:200])
    assert asked_part(benchmark, {}) is benchmark
    scores, _ = part.grade({one.digest: response(one) for one in part.requests()})
    metric = Metric(
        subtask="",
        metric="acc",
        filter="none",
        value=1.0,
        ci_low=0.98,
        ci_high=1.0,
        n=200,
        n_asked=200,
        is_headline=True,
    )
    [found] = with_sequential_interval([metric], scores, benchmark.headline, told)
    assert (found.ci_method, found.value, found.ci_high) == ("sequential", 1.0, 1.0)
    assert found.ci_low is not None
    assert 0.9 < found.ci_low < 0.98
    assert with_sequential_interval([metric], scores, benchmark.headline, {}) == [metric]


def test_an_average_over_subtasks_is_no_mean_over_questions() -> None:
    with pytest.raises(ConfigError, match="stop_early: it has 2 subtasks"):
        early_stop(Exam(["a"], subtask_names=("a", "b")), StopEarly(half_width=0.1))
    assert early_stop(exam(), None) is None


def test_the_rule_in_the_docs_is_right() -> None:
    text = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()
    [block] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    rule = Config.parse(block, path=Path("evals.yaml")).benchmark("gsm8k").stop_early
    assert rule is not None
    assert (rule.half_width, rule.decides, rule.batch, rule.seed) == (0.03, 0.6, 100, 0)


def test_a_rule_says_when() -> None:
    with pytest.raises(ValueError, match="needs `half_width`, `decides`, or both"):
        StopEarly()
