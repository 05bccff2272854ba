"""Scores rest on what their evaluation could use; what may not be reused is asked anew, and only once."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.client.chain import Chain
from eval_pipelines.client.failures import Backoff
from eval_pipelines.client.interceptors.caching import Spec
from eval_pipelines.client.journal import Journal
from eval_pipelines.config import BenchmarkSpec, InterceptorEntry
from eval_pipelines.config.prices import Price
from eval_pipelines.endpoint import DailyBudget, Endpoint
from eval_pipelines.evaluate import Asked, ask_benchmark
from eval_pipelines.evaluation_record import evaluation_id
from eval_pipelines.records import Evaluation, Response, utc_now
from eval_pipelines.warehouse.landing import Landing
from tests.core.test_evaluate import MODEL, Questions

PRICE = Price(prompt=1, completion=2)  # of 5 and 5 tokens: 15 millionths an answer
FIVE_REFUSED = [{"kind": "400", "match": f" {i} +"} for i in range(5)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "wait_s", lambda *_: 0.005)


@dataclass
class Cell:
    """One cell, asked and landed as `responses` does it, read as `scores` does."""

    faulty: Any
    folder: Path
    questions: Any
    n_runs: int = 0

    @property
    def landing(self) -> Landing:
        return Landing(self.folder)

    async def ask(self, *, reuse: bool = True, caching: Any = None, tokens: int | None = None) -> Asked:
        self.n_runs += 1
        chain = Chain([InterceptorEntry(name="caching", spec=Spec(**caching))] if caching else [])
        budget = DailyBudget("here", f"mock {self.n_runs}", tokens=tokens) if tokens else None
        endpoint = Endpoint(
            self.faulty.url,
            "mock",
            "hosted",
            max_in_flight=8,
            offers=self.questions.needs,
            daily_budget=budget,
            price=PRICE,
        )

        def known() -> Any:
            if not reuse:
                return {}
            answered = self.landing.answered(MODEL.key, MODEL.fingerprint)
            begun = partial(self.landing.unfinished, MODEL.key, "sums", evaluation_id(MODEL, self.questions, None))
            return chain.reusable(answered, self.questions.requests(), utc_now(), begun)

        def land(evaluation: Evaluation, new: Any) -> None:
            self.landing.land_responses(evaluation, new)
            self.landing.land_evaluation(evaluation)

        return await ask_benchmark(
            self.questions, MODEL, lambda: nullcontext(endpoint), limit=None, run_id=f"r{self.n_runs}",
            asked_by="a test", journals=self.folder / "journal", known=known, land=land, price=(PRICE, "USD"),
            untold=partial(self.landing.untold, MODEL.key, "sums", MODEL.fingerprint),
        )  # type: ignore[arg-type]  # fmt: skip

    def graded(self) -> list[Response]:
        """The answers that a score would rest on."""
        one = self.landing.latest_evaluation(MODEL.key, "sums")
        assert one is not None
        digests = {request.digest for request in self.questions.requests()}
        found = self.landing.responses_for(MODEL.key, MODEL.fingerprint, digests, of=one)
        return [response for response in found.values() if response.is_answer]


@pytest.fixture
def cell(faulty: Any, tmp_path: Path) -> Cell:
    return Cell(faulty, tmp_path, Questions(spec=BenchmarkSpec(task="sums", max_failed_share=0.5, max_attempts=1)))


@pytest.mark.parametrize("options", [{"reuse": False}, {"caching": {"reuse": "never"}}])
async def test_a_failure_is_not_graded_with_an_answer_that_was_not_to_be_reused(cell, faulty, options) -> None:
    await cell.ask()
    faulty.change(faults=FIVE_REFUSED)
    asked = await cell.ask(**options)
    assert (asked.evaluation.n_answered, len(cell.graded())) == (35, 35)


async def test_nor_with_one_that_was_too_old(cell, faulty) -> None:
    await cell.ask()
    faulty.change(faults=FIVE_REFUSED)
    asked = await cell.ask(caching={"max_age_days": 1e-9})
    assert (asked.evaluation.n_reused, asked.evaluation.n_answered, len(cell.graded())) == (0, 35, 35)


async def test_what_was_not_asked_any_more_is_not_graded_with_an_old_answer_either(cell) -> None:
    await cell.ask()
    asked = await cell.ask(reuse=False, tokens=200)
    assert 0 < asked.evaluation.n_answered == len(cell.graded()) < 40


async def test_what_was_reused_is_graded(cell, faulty) -> None:
    faulty.set(faults=FIVE_REFUSED)
    await cell.ask()
    faulty.change(faults=FIVE_REFUSED[:2])
    asked = await cell.ask()
    assert (asked.evaluation.n_reused, asked.evaluation.n_answered, len(cell.graded())) == (35, 38, 38)


async def test_what_a_killed_run_was_answered_before_is_graded(cell) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Landing, "land_responses", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await cell.ask()
    asked = await cell.ask(reuse=False)
    assert (asked.n_recovered, len(cell.graded())) == (40, 40)


@pytest.mark.parametrize("n", [40, 30])
async def test_what_a_run_was_answered_that_was_killed_while_it_landed_is_in_the_cost_of_the_next_one_alone(
    cell, n
) -> None:
    questions, cell.questions = cell.questions, replace(cell.questions, n=n)
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Landing, "land_evaluation", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await cell.ask()
    cell.questions = questions
    told = [(await cell.ask()).evaluation for _ in range(2)]
    assert [(one.cost and round(one.cost * 1e6), one.n_reused) for one in told] == [(600, n), (None, 40)]


async def test_it_is_in_that_cost_too_where_the_next_one_wants_fewer_questions(cell) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Landing, "land_evaluation", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await cell.ask()
    costs = []
    for n in (10, 40):
        cell.questions = replace(cell.questions, n=n)
        costs.append((await cell.ask()).evaluation.cost)
    assert [cost and round(cost * 1e6) for cost in costs] == [600, None]


async def test_nor_is_it_told_twice_where_the_evaluation_was_landed_before_the_kill(cell) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "remove", lambda one: one.path.suffix == ".line" or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await cell.ask()
    assert (await cell.ask()).evaluation.cost is None


@pytest.mark.parametrize("caching", [{"reuse": "never"}, {"reuse": "only_greedy"}, {"max_age_days": 1e-9}])
async def test_what_may_not_be_reused_is_asked_to_its_end_over_several_days_of_a_budget(cell, faulty, caching) -> None:
    await cell.ask()
    faulty.set()
    days = [(await cell.ask(caching=caching, tokens=200)).evaluation.n_answered for _ in range(3)]
    assert days == sorted({*days})
    assert days[-1] == faulty.stats()["requests"] == len(cell.graded()) == 40


async def test_once_it_came_to_its_end_it_is_asked_anew(cell, faulty) -> None:
    for tokens in (200, None, None):
        asked = await cell.ask(caching={"reuse": "never"}, tokens=tokens)
    assert (asked.evaluation.n_reused, asked.report.n_answered) == (0, 40)


async def test_what_failed_over_budget_is_asked_again_without_the_rest(cell, faulty) -> None:
    faulty.set(faults=[{"kind": "400", "match": f" {i} +"} for i in range(15, 40)])
    first = await cell.ask(caching={"reuse": "never"})
    faulty.change(faults=[])
    second = await cell.ask(caching={"reuse": "never"})
    assert not first.evaluation.is_within_budget
    assert second.evaluation.n_reused == first.evaluation.n_answered > 0
    assert len(cell.graded()) == 40
