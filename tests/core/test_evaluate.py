"""Each question is asked once per model version, and every request is accounted for."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.benchmarks.harness import Benchmark
from eval_pipelines.client.failures import Backoff
from eval_pipelines.client.interception import Attempt, Interceptor, StopAsking
from eval_pipelines.client.journal import Journal
from eval_pipelines.config import BenchmarkSpec, ModelEntry
from eval_pipelines.config.prices import Price
from eval_pipelines.endpoint import DailyBudget, Endpoint
from eval_pipelines.errors import AskingStoppedError, FailureBudgetError, SpendingLimitError, WarehouseError
from eval_pipelines.evaluate import Asked, ask_benchmark, journal_of
from eval_pipelines.evaluation_record import evaluation_id
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.records import Evaluation, Place, Request, Response, Sample, utc_now

MODEL = Model(ModelKey("mock", "step-7"), "hosted", "f1")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "wait_s", lambda *_: 0.005)


@dataclass
class Questions:
    """What `ask_benchmark` needs of a benchmark, without lm-eval."""

    n: int = 40
    spec: BenchmarkSpec = field(default_factory=lambda: BenchmarkSpec(task="sums", max_failed_share=0.5))
    name: str = "sums"
    ask_version: str = "1-abc"
    needs: frozenset[str] = frozenset({"completions"})
    judged_model: None = None
    n_twins: int = 0
    first: int = 0
    operation: Any = "completion"

    def requests(self) -> Iterator[Request]:
        for i in range(self.n):
            yield self.request(i, self.first + i)
        for i in range(self.n_twins):
            yield self.request(self.n + i, i)

    def request(self, sample: int, number: int) -> Request:
        continuation = " 4" if self.operation == "loglikelihood" else None
        return Request(
            sample_id=f"sums/{sample}",
            subtask="sums",
            operation=self.operation,
            prompt=f"What is {number} + {number}?",
            continuation=continuation,
            params={"max_tokens": 5},
        )

    def samples(self) -> Iterator[Sample]:
        return (
            Sample(sample_id=one.sample_id, subtask="sums", question="?", target="!", n_requests=1)
            for one in self.requests()
        )


@dataclass
class Cell:
    """One cell: its journals and what was landed."""

    faulty: Any
    folder: Path
    landed: dict[str, Response] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    n_rows: int = 0
    n_opened: int = 0

    def land(self, evaluation: Evaluation, new: Iterable[tuple[Place, Response]]) -> None:
        self.evaluations.append(evaluation)
        rows = list(new)
        self.n_rows += len(rows)
        self.places |= {response.request_digest: place for place, response in rows}
        self.landed |= {response.request_digest: response for _, response in rows if response.is_answer}

    def known(self, needs: frozenset[str]) -> dict[str, datetime]:
        """As `Landing.answered` has it."""
        return {
            digest: one.asked_at
            for digest, one in self.landed.items()
            if one.is_answer and not ("top_logprobs" in needs and one.logprob is not None and one.is_greedy is None)
        }

    @asynccontextmanager
    async def open(self, asking: dict[str, Any]) -> AsyncIterator[Endpoint]:
        self.n_opened += 1
        given = {"max_in_flight": 8, "request_timeout_s": 10, **asking}
        yield Endpoint(self.faulty.url, "mock", "hosted", **given)

    async def ask(self, questions: Questions, run_id: str = "r1", **options: Any) -> Asked:
        offers = options.pop("offers", questions.needs)
        asking = {"offers": offers, **options.pop("endpoint", {}), **options.pop("paying", {})}
        may_ask = options.pop("may_ask", True)
        benchmark: Benchmark = questions  # type: ignore[assignment]
        fields: dict[str, Any] = {
            "known": lambda: self.known(questions.needs),
            "land": self.land,
            "limit": None,
            **options,
        }
        return await ask_benchmark(
            benchmark,
            MODEL,
            (lambda: self.open(asking)) if may_ask else None,
            run_id=run_id,
            asked_by="a test",
            journals=self.folder,
            **fields,
        )

    def journal(self, questions: Questions) -> Journal:
        benchmark: Benchmark = questions  # type: ignore[assignment]
        return journal_of(self.folder, MODEL, evaluation_id(MODEL, benchmark, None))[0]


@pytest.fixture
def cell(faulty: Any, tmp_path: Path) -> Cell:
    return Cell(faulty, tmp_path)


def answers(questions: Questions, n: int, **fields: Any) -> list[Response]:
    fields = fields or {"text": "from before"}
    return [
        Response(request_digest=one.digest, n_attempts=1, latency_s=0, asked_at=utc_now(), **fields)
        for one in list(questions.requests())[:n]
    ]


async def test_everything_is_asked_landed_and_counted(cell) -> None:
    asked = await cell.ask(Questions())
    one = asked.evaluation
    assert (one.n_samples, one.n_requests, one.n_answered, one.n_reused, one.n_failed) == (40, 40, 40, 0, 0)
    assert (one.is_within_budget, one.step, one.failures, cell.n_rows) == (True, 7, "{}", 40)


async def test_a_used_up_budget_fails_the_evaluation_however_few_were_not_asked(cell) -> None:
    limit = DailyBudget("here", "mock", tokens=39 * 10 + 8)  # each question may take 13 and takes 10
    asked = await cell.ask(Questions(), paying={"daily_budget": limit})
    assert (asked.evaluation.n_answered, asked.evaluation.is_within_budget) == (39, True)
    with pytest.raises(SpendingLimitError, match=r"is used up.* 1 of 40 requests were not asked\. The 39 answers"):
        asked.raise_if_over_budget(0.5)
    assert (await cell.ask(Questions(), "r2")).report.n_attempts == 1


async def test_an_evaluation_costs_what_this_run_was_answered(cell) -> None:
    paying = {"price": Price(prompt=1, completion=2), "currency": "EUR"}
    first = (await cell.ask(Questions(n=30), paying=paying)).evaluation
    second = (await cell.ask(Questions(n=40), "r2", paying=paying)).evaluation
    nothing = (await cell.ask(Questions(n=40), "r3", paying=paying)).evaluation
    assert [(one.cost, one.currency) for one in (first, second, nothing)] == [
        (0.00045, "EUR"),  # 15 millionths each: exact, not a sum of floats
        (0.00015, "EUR"),
        (None, None),
    ]


@pytest.mark.parametrize(("n_recovered", "cost"), [(10, 150 + 30 * 15), (40, 600)])  # 15 millionths each
async def test_it_costs_too_what_a_killed_run_was_answered_and_could_not_tell(cell, n_recovered, cost) -> None:
    with cell.journal(Questions()) as journal:
        for response in answers(Questions(), n_recovered, text="!", prompt_tokens=5, completion_tokens=5):
            journal.append(response)
            journal.append(response)  # a kill while it was moved may have doubled it
    price = Price(prompt=1, completion=2)
    one = (await cell.ask(Questions(), paying={"price": price}, price=(price, "USD"))).evaluation
    again = (await cell.ask(Questions(), "r2", paying={"price": price}, price=(price, "USD"))).evaluation
    assert (one.cost, one.currency, again.cost) == (cost / 1e6, "USD", None)
    assert one.completion_tokens == 5 * (40 - n_recovered), "tokens are those of its own time on the wire"


async def test_what_nobody_has_a_price_for_has_no_cost(cell) -> None:
    one = (await cell.ask(Questions())).evaluation
    assert (one.prompt_tokens, one.cost, one.currency) == (200, None, None)


async def test_the_journal_is_removed_once_its_answers_are_landed(cell, tmp_path) -> None:
    await cell.ask(Questions())
    assert list(tmp_path.iterdir()) == []


async def test_what_a_killed_run_left_in_its_journal_is_not_asked_again(cell, faulty) -> None:
    with cell.journal(Questions()) as journal:
        for response in answers(Questions(), 25):
            journal.append(response)
    asked = await cell.ask(Questions())
    assert (asked.n_recovered, faulty.stats()["requests"], asked.evaluation.n_answered) == (25, 15, 40)
    assert cell.n_rows == 40, "recovered answers are landed too"


async def test_what_a_killed_run_left_is_not_asked_again_under_another_limit(cell, faulty, tmp_path) -> None:
    with cell.journal(Questions()) as journal:
        for response in answers(Questions(), 25):
            journal.append(response, Place("elsewhere", "sums", 0, 0, "completion"))
    asked = await cell.ask(Questions(n=30), limit=30)
    assert (asked.n_recovered, faulty.stats()["requests"], cell.n_rows) == (25, 5, 30)
    assert cell.places == {one.digest: one.place for one in Questions(n=30).requests()}
    assert list(tmp_path.iterdir()) == [], "what was left is landed"


async def test_what_another_evaluation_does_not_want_stays_for_its_own(cell, faulty) -> None:
    with cell.journal(Questions()) as journal:
        for response in answers(Questions(), 25):
            journal.append(response)
    first = await cell.ask(Questions(n=10), limit=10)
    second = await cell.ask(Questions(), run_id="r2")
    assert (first.n_recovered, second.evaluation.n_reused, second.n_recovered) == (10, 10, 15)
    assert (cell.n_rows, faulty.stats()["requests"]) == (40, 15)


async def test_what_a_killed_run_left_and_had_landed_is_not_landed_again_by_another_evaluation(cell, tmp_path) -> None:
    with cell.journal(Questions()) as journal:
        for response in answers(Questions(), 25):
            journal.append(response)
            cell.landed[response.request_digest] = response
    asked = await cell.ask(Questions(n=30), limit=30)
    assert (asked.n_recovered, asked.evaluation.n_reused, cell.n_rows) == (0, 25, 5)
    assert list(tmp_path.iterdir()) == []


async def test_a_run_that_is_killed_while_it_takes_over_loses_and_doubles_nothing(cell, faulty, monkeypatch) -> None:
    with cell.journal(Questions()) as journal:
        for response in answers(Questions(), 25):
            journal.append(response)

    def killed(_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            await cell.ask(Questions(n=30), limit=30)
    asked = await cell.ask(Questions(n=30), limit=30)
    assert (asked.n_recovered, cell.n_rows, faulty.stats()["requests"]) == (25, 30, 5)


async def test_a_journal_that_another_run_holds_is_left_to_it(cell, faulty) -> None:
    with cell.journal(Questions()) as journal:
        for response in answers(Questions(), 25):
            journal.append(response)
        asked = await cell.ask(Questions(n=30), limit=30)
        assert (asked.n_recovered, len(journal.answers())) == (0, 25)


async def test_a_journal_under_the_name_of_an_earlier_release_is_found(cell, faulty, tmp_path) -> None:
    benchmark: Any = Questions()
    with Journal(tmp_path / f"{evaluation_id(MODEL, benchmark, None)}.jsonl") as journal:
        for response in answers(Questions(), 25):
            journal.append(response)
    asked = await cell.ask(Questions())
    assert (asked.n_recovered, faulty.stats()["requests"], list(tmp_path.iterdir())) == (25, 15, [])


async def test_what_an_earlier_run_was_answered_is_not_asked_again(cell, faulty) -> None:
    await cell.ask(Questions(n=10))
    asked = await cell.ask(Questions(n=40), run_id="r2")
    assert (asked.evaluation.n_reused, faulty.stats()["requests"]) == (10, 40)
    assert "asked_again_though_answered" not in faulty.stats()


async def test_no_server_is_opened_if_all_is_known(cell) -> None:
    await cell.ask(Questions())
    asked = await cell.ask(Questions(), run_id="r2")
    assert (cell.n_opened, asked.endpoint) == (1, None)
    assert (asked.evaluation.n_answered, asked.evaluation.is_within_budget) == (40, True)


async def test_answers_are_landed_at_their_places(cell) -> None:
    await cell.ask(Questions(n=5))
    assert cell.places == {one.digest: one.place for one in Questions(n=5).requests()}


async def test_answers_of_a_journal_that_has_no_places_are_landed_at_theirs(cell) -> None:
    with cell.journal(Questions()) as journal:
        for response in answers(Questions(), 25):
            journal.append(response)
    await cell.ask(Questions())
    assert cell.places == {one.digest: one.place for one in Questions().requests()}


async def test_reused_answers_are_not_landed_twice(cell) -> None:
    await cell.ask(Questions())
    cell.n_rows = 0
    await cell.ask(Questions(), run_id="r2")
    assert cell.n_rows == 0


async def test_answers_landed_before_a_crash_are_not_landed_again_from_the_journal(cell) -> None:
    # the run died after landing, before it removed its journal
    with cell.journal(Questions()) as journal:
        for response in answers(Questions(), 25):
            journal.append(response)
            cell.landed[response.request_digest] = response
    asked = await cell.ask(Questions())
    assert (asked.n_recovered, asked.evaluation.n_reused, cell.n_rows) == (0, 25, 15)


async def test_two_identical_requests_are_asked_once(cell, faulty) -> None:
    asked = await cell.ask(Questions(n=10, n_twins=5))
    assert (faulty.stats()["requests"], asked.evaluation.n_requests, asked.evaluation.n_samples) == (10, 10, 15)


async def test_one_request_in_ten_refused_for_good_is_accounted_for(cell, faulty) -> None:
    faulty.set(faults=[{"kind": "503", "share": 0.1}])
    asked = await cell.ask(Questions(n=200))
    one, stats = asked.evaluation, faulty.stats()
    assert 0 < one.n_failed == stats["faults"] / 4, "each was tried four times"
    assert (one.n_answered, one.n_answered + one.n_failed) == (stats["answered"], 200)
    assert one.failures == f'{{"overloaded": {one.n_failed}}}'
    assert one.is_within_budget


async def test_failures_are_landed_with_the_answers(cell, faulty) -> None:
    faulty.set(faults=[{"kind": "400", "share": 0.1}])
    asked = await cell.ask(Questions(n=200))
    assert (cell.n_rows, len(cell.landed)) == (200, asked.evaluation.n_answered)


async def test_the_next_run_asks_only_what_failed(cell, faulty) -> None:
    faulty.set(faults=[{"kind": "400", "share": 0.1}])
    first = await cell.ask(Questions(n=200))
    faulty.change(faults=[])
    second = await cell.ask(Questions(n=200), run_id="r2")
    assert second.report.n_requests == first.evaluation.n_failed
    assert (second.evaluation.n_answered, second.evaluation.n_failed) == (200, 0)


async def test_over_budget_is_said_with_kinds_and_what_to_do(cell, faulty) -> None:
    faulty.set(faults=[{"kind": "400", "share": 0.3, "message": "no way"}])
    asked = await cell.ask(Questions(n=60, spec=BenchmarkSpec(task="sums", max_failed_share=0.1, max_attempts=1)))
    with pytest.raises(FailureBudgetError, match=r"rejected \d+\).*allows 10.0%.*no way.*materialize again"):
        asked.raise_if_over_budget(0.1)


async def test_within_budget_nothing_is_raised(cell) -> None:
    (await cell.ask(Questions())).raise_if_over_budget(0.5)


async def test_over_budget_everything_that_was_answered_is_landed_all_the_same(cell, faulty) -> None:
    faulty.set(faults=[{"kind": "400", "share": 0.5}])
    asked = await cell.ask(Questions(n=200, spec=BenchmarkSpec(task="sums", max_failed_share=0.05)))
    assert not asked.evaluation.is_within_budget
    assert asked.report.n_not_asked > 0
    assert len(cell.landed) == faulty.stats()["answered"] > 0


async def test_a_budget_exactly_used_up_is_kept(cell, faulty) -> None:
    faulty.set(faults=[{"kind": "400", "match": f" {i} +"} for i in range(29)])
    asked = await cell.ask(Questions(n=100, spec=BenchmarkSpec(task="sums", max_failed_share=0.29)))
    assert (asked.evaluation.n_failed, asked.evaluation.is_within_budget) == (29, True)


@pytest.mark.parametrize(
    ("says", "n_bad", "is_kept"), [("maximum context length is 8 tokens", 30, True), ("no", 30, False)]
)
async def test_verdicts_on_samples_lower_the_coverage_and_break_no_budget(cell, faulty, says, n_bad, is_kept) -> None:
    faulty.set(faults=[{"kind": "400", "match": f" {i} +", "message": says} for i in range(n_bad)])
    asked = await cell.ask(Questions(n=100, spec=BenchmarkSpec(task="sums", max_failed_share=0.05)))
    assert asked.evaluation.is_within_budget == is_kept
    with nullcontext() if is_kept else pytest.raises(FailureBudgetError):
        asked.raise_if_over_budget(0.05)
    if is_kept:
        assert (asked.evaluation.n_answered, asked.evaluation.n_failed) == (70, 30)


async def test_beside_verdicts_on_samples_the_other_failures_still_break_it(cell, faulty) -> None:
    verdicts = [{"kind": "400", "match": f" {i} +", "message": "blocked by content filter"} for i in range(30)]
    faulty.set(faults=[*verdicts, *({"kind": "400", "match": f" {i} +"} for i in range(30, 36))])
    asked = await cell.ask(Questions(n=100, spec=BenchmarkSpec(task="sums", max_failed_share=0.05)))
    assert (asked.evaluation.n_failed, asked.evaluation.is_within_budget) == (36, False)


async def test_the_budget_is_a_share_of_all_requests_not_of_those_still_missing(cell, faulty) -> None:
    questions = Questions(n=400, spec=BenchmarkSpec(task="sums", max_failed_share=0.1, max_attempts=1))
    cell.landed = {one.request_digest: one for one in answers(questions, 340)}
    faulty.set(faults=[{"kind": "400", "match": f" {i} +"} for i in range(340, 370)])
    asked = await cell.ask(questions)
    assert (asked.evaluation.n_failed, asked.report.n_not_asked, asked.evaluation.is_within_budget) == (30, 0, True)


async def test_two_runs_of_one_cell_ask_nothing_twice(cell, faulty) -> None:
    faulty.set(latency_s=0.01)
    waited: list[str] = []
    first, second = await asyncio.gather(
        cell.ask(Questions(), run_id="r1", on_wait=lambda: waited.append("r1")),
        cell.ask(Questions(), run_id="r2", on_wait=lambda: waited.append("r2")),
    )
    assert faulty.stats()["requests"] == 40
    assert len(waited) == 1, "the one that waits says so once"
    assert {first.evaluation.n_reused, second.evaluation.n_reused} == {0, 40}


@pytest.mark.parametrize("other", [{"n": 60}, {"n": 40, "spec": BenchmarkSpec(task="sums", repeats=2)}])
async def test_two_evaluations_of_one_cell_ask_nothing_twice_whatever_their_limits(cell, faulty, other) -> None:
    faulty.set(latency_s=0.01)
    waited: list[str] = []
    await asyncio.gather(
        cell.ask(Questions(n=40), run_id="r1", limit=40, on_wait=lambda: waited.append("r1")),
        cell.ask(Questions(**other), run_id="r2", on_wait=lambda: waited.append("r2")),
    )
    assert (faulty.stats()["requests"], waited) == (other["n"], ["r2"])
    assert list(cell.folder.iterdir()) == []


@pytest.mark.parametrize("n", [40, 60])  # the same under another name; some of it, as a subject of MMLU is
async def test_two_benchmarks_with_the_same_questions_ask_nothing_twice(cell, faulty, n) -> None:
    faulty.set(latency_s=0.01)
    waited: list[str] = []
    _, second = await asyncio.gather(
        cell.ask(Questions(n=40), run_id="r1", on_wait=lambda: waited.append("r1")),
        cell.ask(Questions(n=n, name="more"), run_id="r2", on_wait=lambda: waited.append("r2")),
    )
    assert (faulty.stats()["requests"], second.evaluation.n_reused, waited) == (n, 40, ["r2"])
    assert list(cell.folder.iterdir()) == []


async def test_benchmarks_without_a_common_question_do_not_wait_for_each_other(cell) -> None:
    waited: list[str] = []
    judging = Questions(first=80)
    judging.judged_model, judging.ask_version = "one@1", "2-def"  # type: ignore[assignment]
    await asyncio.gather(
        *(
            cell.ask(one, run_id=str(i), on_wait=lambda: waited.append(""))
            for i, one in enumerate([Questions(), Questions(name="more", first=40), judging])
        )
    )
    assert waited == []


async def test_judgings_of_two_models_by_one_judge_do_not_wait_for_each_other_nor_twice_for_the_same_one(
    cell,
) -> None:
    """Two checkpoints may give the same answer, and a judge is then asked the same."""
    waited: list[str] = []

    async def judge(judged: str, run_id: str) -> None:
        judging = Questions(name="judging", ask_version=f"2-{judged}")
        judging.judged_model = judged  # type: ignore[assignment]
        await cell.ask(judging, run_id=run_id, on_wait=lambda: waited.append(run_id))

    await asyncio.gather(judge("one@1", "r1"), judge("one@2", "r2"), judge("one@1", "r3"))
    assert waited == ["r3"]
    assert list(cell.folder.iterdir()) == []


async def test_who_is_cancelled_while_it_waits_for_the_cell_holds_nothing(cell, faulty) -> None:
    faulty.set(latency_s=0.05)
    waits = asyncio.Event()
    first = asyncio.create_task(cell.ask(Questions(), run_id="r1"))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(cell.ask(Questions(n=60), run_id="r2", limit=60, on_wait=waits.set))
    await asyncio.wait_for(waits.wait(), 10)
    second.cancel()
    assert (await first).evaluation.n_answered == 40
    third = await cell.ask(Questions(n=60), run_id="r3", limit=60, on_wait=lambda: pytest.fail("nobody asks it"))
    assert third.report.n_answered == 20


async def test_a_cancelled_run_is_taken_up_where_it_stopped(cell, faulty) -> None:
    faulty.set(latency_s=0.02)
    some = asyncio.Event()
    asking = asyncio.create_task(
        cell.ask(Questions(n=200), on_progress=lambda report: some.set() if report.n_done else None)
    )
    await some.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    asked = await cell.ask(Questions(n=200), run_id="r2")
    assert asked.n_recovered > 0
    assert asked.n_recovered + asked.report.n_answered == asked.evaluation.n_answered == 200


async def test_a_full_disk_lands_nothing_and_keeps_the_journal(cell, monkeypatch) -> None:
    kept = Journal.append

    def full_after_ten(self: Journal, response: Response, place: Place | None = None) -> None:
        if len(self.answers()) >= 10:
            raise WarehouseError("the disk is full")
        kept(self, response)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full_after_ten)
        with pytest.raises(WarehouseError, match="the disk is full"):
            await cell.ask(Questions())
    assert cell.evaluations == []
    assert (await cell.ask(Questions())).n_recovered == 10


async def test_a_landing_that_fails_keeps_the_journal(cell, faulty) -> None:
    def broken(*_: Any) -> None:
        raise WarehouseError("cannot land")

    with pytest.raises(WarehouseError, match="cannot land"):
        await cell.ask(Questions(), land=broken)
    assert (await cell.ask(Questions())).n_recovered == 40


async def test_answers_that_do_not_say_what_is_greedy_are_asked_again_where_that_matters(cell, faulty) -> None:
    asked_before = Questions(operation="loglikelihood", needs=frozenset({"echo_logprobs"}))
    await cell.ask(asked_before)
    assert {one.is_greedy for one in cell.landed.values()} == {None}
    needs = frozenset({"echo_logprobs", "top_logprobs"})
    asked = await cell.ask(Questions(operation="loglikelihood", needs=needs, name="greedy"), run_id="r2")
    assert asked.evaluation.n_reused == 0
    assert None not in {one.is_greedy for one in cell.landed.values()}


async def test_they_are_reused_where_it_does_not(cell, faulty) -> None:
    questions = Questions(operation="loglikelihood", needs=frozenset({"echo_logprobs"}))
    await cell.ask(questions)
    assert (await cell.ask(questions, run_id="r2")).evaluation.n_reused == 40


async def test_a_known_failure_is_no_answer(cell) -> None:
    from eval_pipelines.records import Failure, FailureKind

    failed = Failure(kind=FailureKind.TIMEOUT, message="late")
    cell.landed = {one.request_digest: one for one in answers(Questions(), 5, failure=failed)}
    asked = await cell.ask(Questions())
    assert (asked.evaluation.n_reused, asked.report.n_answered) == (0, 40)


async def test_a_replay_asks_nothing_and_tells_the_same(cell, faulty) -> None:
    first = await cell.ask(Questions())
    faulty.set()
    again = await cell.ask(Questions(), run_id="r2", may_ask=False)
    assert (cell.n_rows, again.evaluation.n_answered) == (40, first.evaluation.n_answered)
    assert (again.evaluation.n_reused, again.evaluation.is_within_budget) == (40, True)
    assert faulty.stats()["n_prompts"] == 0


async def test_a_replay_of_what_was_never_asked_says_so(cell, faulty) -> None:
    await cell.ask(Questions(n=10))
    faulty.set()
    asked = await cell.ask(Questions(n=40), run_id="r2", may_ask=False)
    assert (asked.evaluation.n_answered, asked.report.n_not_asked, faulty.stats()["n_prompts"]) == (10, 30, 0)
    with pytest.raises(
        FailureBudgetError, match=r"30 of 40 requests have no answer yet, and nothing was asked.*ask: true"
    ):
        asked.raise_if_over_budget(0.5)


async def test_a_replay_lands_what_a_killed_run_left_in_its_journal(cell) -> None:
    with cell.journal(Questions()) as journal:
        for response in answers(Questions(), 40):
            journal.append(response)
    asked = await cell.ask(Questions(), may_ask=False)
    assert (asked.n_recovered, asked.evaluation.n_answered, cell.n_rows) == (40, 40, 40)


async def test_known_long_answers_are_asked_first(cell) -> None:
    digests = [one.digest for one in Questions().requests()]
    lengths = {digest: 10 + number for number, digest in enumerate(digests)}
    order: list[str] = []
    await cell.ask(
        Questions(), expected_tokens=lambda wanted: {d: n for d, n in lengths.items() if d in wanted},
        endpoint={"max_in_flight": 1}, land=lambda _, new: order.extend(response.request_digest for _, response in new),
    )  # fmt: skip
    assert order == digests[::-1]


async def test_no_lengths_are_looked_up_for_log_likelihoods(cell) -> None:
    def never(_: Any) -> Any:
        raise AssertionError

    needs = frozenset({"echo_logprobs"})
    asked = await cell.ask(Questions(operation="loglikelihood", needs=needs), expected_tokens=never)
    assert asked.evaluation.n_answered == 40


def test_the_evaluation_id_changes_with_the_repeats_and_not_with_their_default() -> None:
    ids = [
        evaluation_id(MODEL, Questions(spec=BenchmarkSpec(task="sums", repeats=n)), None)  # type: ignore[arg-type]
        for n in (None, 1, 5)
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("change", [{"ask_version": "2-abc"}, {"name": "other"}], ids=str)
def test_the_evaluation_id_changes_with_the_questions(change) -> None:
    one, other = Questions(), Questions(**change)
    assert evaluation_id(MODEL, one, None) != evaluation_id(MODEL, other, None)  # type: ignore[arg-type]


def test_the_evaluation_id_changes_with_the_bytes_of_the_model() -> None:
    again = Model(MODEL.key, "hosted", "f2")
    assert evaluation_id(MODEL, Questions(), None) != evaluation_id(again, Questions(), None)  # type: ignore[arg-type]


def test_the_evaluation_id_changes_with_the_limit() -> None:
    assert evaluation_id(MODEL, Questions(), 10) != evaluation_id(MODEL, Questions(), None)  # type: ignore[arg-type]


def through(*interceptors: str | dict[str, Any]) -> Model:
    entry = ModelEntry.model_validate({"deployment": ["hosted"], "interceptors": list(interceptors)})
    return replace(MODEL, interceptors=entry.interceptors)


def test_only_interceptors_that_change_what_a_model_is_asked_make_it_another_evaluation() -> None:
    questions: Any = Questions()
    of_none = evaluation_id(MODEL, questions, None)
    assert evaluation_id(through("reasoning", "log"), questions, None) == of_none
    assert evaluation_id(through({"system_message": {"text": "a"}}), questions, None) != of_none


async def test_a_stopped_asking_is_no_success_even_within_its_budget(cell, faulty) -> None:
    class Stop(Interceptor):
        name = "stop"
        n = 0

        def received(self, attempt: Attempt) -> None:
            self.n += 1
            if self.n == 5:
                raise StopAsking("Five are enough.")

    asked = await cell.ask(Questions(spec=BenchmarkSpec(task="sums", max_failed_share=1.0)), interceptors=[Stop()])
    n = asked.evaluation.n_answered
    assert (asked.evaluation.is_within_budget, asked.report.n_not_asked) == (True, 40 - n)
    assert n == faulty.stats()["answered"], "the answer that ended it is an answer, too"
    with pytest.raises(AskingStoppedError, match=rf"Five are enough. {40 - n} of 40 requests were .*The {n} answers"):
        asked.raise_if_over_budget(1.0)
    assert len(cell.landed) == n
