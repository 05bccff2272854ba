"""Tokens and money per UTC day, counted together by all processes of a machine. The rule is in spent.py."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

from eval_pipelines.client.interception import StopAsking
from eval_pipelines.client.rate import WINDOW_S, estimate_tokens, limits_of_answers
from eval_pipelines.client.spent import (
    DAY_S,
    Amount,
    Reservation,
    Spent,
    begin_day,
    count,
    file_at,
    is_alive,
    is_refused,
    lacking,
    ourselves,
    path_of,
    settle,
    spent_in,
    told_of,
)
from eval_pipelines.config.prices import UNITS, Price, in_words
from eval_pipelines.endpoint import DailyBudget, Endpoint
from eval_pipelines.errors import ConfigError, SpendingLimitError
from eval_pipelines.records import Failure, Request

_LOOK_EVERY_S = 0.02
_N_TRIES, _TRY_EVERY_S = 100, 0.001
_MOST_PROCESSES, _MOST_DEPLOYMENTS = 64, 8  # a state must fit into its slot


class BudgetIsUsed(StopAsking):
    """Raised inside the client only: the next request might exceed a daily budget."""

    error = SpendingLimitError


class Spending:
    """The daily budget of one endpoint."""

    def __init__(
        self,
        budget: DailyBudget,
        price: Price | None,
        currency: str,
        path: Path | None,
        *,
        patience_s: float = 300.0,
        renames: Mapping[str, str | None] = MappingProxyType({}),
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            path: The file in which everybody counts; None: this object counts alone.
            patience_s: Seconds to wait for what others have in flight, if nothing of it comes back.
            renames: As of the endpoint.
        """
        self.budget, self.price, self.currency = budget, price, currency
        self._file = file_at(path) if path else None
        self._patience_s, self._limits, self._now = patience_s, limits_of_answers(renames), now
        self._own = Spent()
        # one in the queue asks for all in this process: first come, first served, and no crowd at the lock
        self._queue = asyncio.Lock()
        self._over: list[tuple[Reservation, Amount | None]] = []
        self._used_up: str = ""

    async def reserve(self, request: Request, n_answers: int = 1) -> Reservation:
        """Count what an attempt may take; waits while attempts in flight may still give back enough for it.

        Raises:
            BudgetIsUsed: there is no room for it today, and for nothing after it.
            ConfigError: the count cannot be kept.
        """
        estimate = self._estimate(request, n_answers)
        seen, changed_at = Amount(-1, -1), time.monotonic()
        async with self._queue:
            while not self._used_up:
                with self._state() as state:
                    if state is not None:
                        want = Amount(estimate.tokens + state.short.tokens, estimate.cost + state.short.cost)
                        key = lacking(state, self.budget, self.currency, want)
                        if not key:
                            return self._take(state, estimate, want)
                        used = Amount(state.tokens, state.costs.get(self.currency, 0))
                        if used != seen:
                            seen, changed_at = used, time.monotonic()
                        if not state.in_flight or time.monotonic() - changed_at > self._patience_s:
                            self._used_up = _in_words(key, self.budget, self.currency, used, want, self._now())
                if not self._used_up:
                    await asyncio.sleep(_LOOK_EVERY_S)
        raise BudgetIsUsed(self._used_up)

    def settle(self, held: Reservation, told: Sequence[Mapping[str, Any]], failed: Failure | None) -> None:
        """An attempt is over: Response fields of its answers, or its failure; neither if it was cancelled."""
        self._settle(held, Amount() if is_refused(failed) else self._counted(told))

    def give_back(self, held: Reservation) -> None:
        """An attempt was not sent."""
        self._settle(held, Amount())

    def _settle(self, held: Reservation, really: Amount | None) -> None:
        self._over.append((held, really))
        for _ in range(_N_TRIES):
            try:
                with self._state() as state:
                    if state is not None:
                        return
            except ConfigError:
                return  # the next one to ask is told; this answer is there, and must not be lost
            time.sleep(_TRY_EVERY_S)  # who has the lock keeps it for less than that

    def _estimate(self, request: Request, n_answers: int) -> Amount:
        prompt = estimate_tokens(request, 0)
        answers = estimate_tokens(request, n_answers, self._limits) - prompt
        return Amount(prompt + answers, self.price.cost(prompt, answers) if self.price else 0)

    def _counted(self, told: Sequence[Mapping[str, Any]]) -> Amount | None:
        names = ("prompt_tokens", "completion_tokens", "cached_prompt_tokens")
        prompt, answers, cached = (sum(answer.get(name) or 0 for answer in told) for name in names)
        if prompt + answers == 0:
            return None
        return Amount(prompt + answers, self.price.cost(prompt, answers, cached) if self.price else 0)

    def _take(self, state: Spent, estimate: Amount, want: Amount) -> Reservation:
        count(state, self.currency, want)
        state.in_flight[ourselves()] = state.in_flight.get(ourselves(), 0) + 1
        state.account = self.budget.account
        if self.budget.deployment not in state.deployments:
            state.deployments = [self.budget.deployment, *state.deployments[: _MOST_DEPLOYMENTS - 1]]
        return Reservation(state.day, estimate, want)

    @contextmanager
    def _state(self) -> Iterator[Spent | None]:
        """The state of today, to be changed within; None if somebody else is changing it."""
        if self._file is None:
            self._bring_up_to_date(self._own)
            yield self._own
            return
        with self._file.draft() as draft:
            if draft is None:
                yield None
                return
            state = spent_in(draft.value)
            self._bring_up_to_date(state)
            yield state
            draft.value = told_of(state)

    def _bring_up_to_date(self, state: Spent) -> None:
        begin_day(state, self._now())
        for held, really in self._over:
            settle(state, self.currency, held, really)
            left = state.in_flight.pop(ourselves(), 0) - 1
            state.in_flight |= {ourselves(): left} if left > 0 else {}
        self._over.clear()
        if len(state.in_flight) > 1 or ourselves() not in state.in_flight:
            alive = [owner for owner in state.in_flight if is_alive(owner)][:_MOST_PROCESSES]
            state.in_flight = {owner: state.in_flight[owner] for owner in alive}


def spending_of(endpoint: Endpoint) -> Spending | None:
    """Who counts what is spent at an endpoint; None where nothing limits it. Raises ConfigError: nobody can count."""
    budget = endpoint.daily_budget
    if budget is None:
        return None
    path = path_of(budget.account, endpoint.budgets_folder)
    patience_s = endpoint.request_timeout_s + 10
    if endpoint.requests_per_minute or endpoint.tokens_per_minute:
        patience_s += 2 * WINDOW_S  # what is reserved may still wait for its turn
    return Spending(budget, endpoint.price, endpoint.currency, path, patience_s=patience_s, renames=endpoint.renames)


def _in_words(key: str, budget: DailyBudget, currency: str, used: Amount, want: Amount, now: float) -> str:
    if key == "daily_tokens":
        limit, spent, next_ = (f"{n or 0:,} tokens" for n in (budget.tokens, used.tokens, want.tokens))
    else:
        limit, spent, next_ = (in_words((n or 0) / UNITS, currency) for n in (budget.cost, used.cost, want.cost))
    left = timedelta(seconds=DAY_S - int(now) % DAY_S)
    when = (datetime.fromtimestamp(now, UTC) + left).strftime("%Y-%m-%d")
    return (
        f"{key} of deployment {budget.deployment!r} is used up: {limit} a day for {budget.account}, {spent} are spent, "
        f"and the next request may take {next_}. The budget begins anew at 00:00 UTC on {when} (in {left}); to ask on "
        f"today, raise deployments.{budget.deployment}.{key} in evals.yaml."
    )
