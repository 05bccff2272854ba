"""Who is computed when: a queue, and one thread that feeds the model. Knows no torch.

Requests that wait are computed together. A new batch joins those that run between two of their steps, so nobody waits
for the longest answer.
"""

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ._transformers_protocol import Refused
from ._transformers_text import Answer

_MIN_DENSITY = 0.75
_FEW_TOKENS = 256  # computed so fast that padding does not matter


class Scored(NamedTuple):
    """One token and what the model thought of it.

    Attributes:
        logprob: Natural logarithm; None if it was not asked for, and for a token that nothing precedes.
        top: The likeliest tokens at this position with theirs, best first.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False)
class Row:
    """One prompt to be continued once.

    Attributes:
        n_top: Alternatives to tell at each token; None if no log-probability is wanted.
        is_echo: The prompt's own tokens are scored too.
        seed: Of its sampling, which depends on nothing else in the batch.
        scores: Of the prompt's tokens, if `is_echo`.
        done: Called once from the engine's thread, with the reason if there is no answer.
    """

    ids: list[int]
    answer: Answer
    max_new_tokens: int
    ends: frozenset[int]
    done: "Callable[[Refused | None], None]"
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    n_top: int | None = None
    is_echo: bool = False
    scores: list[Scored] = field(default_factory=list)
    tokens: list[Scored] = field(default_factory=list)
    finish_reason: str | None = None
    is_cancelled: bool = False
    is_told: bool = False
    sampler: Any = None

    @property
    def is_over(self) -> bool:
        """Nothing more is computed for it."""
        return self.is_cancelled or self.finish_reason is not None

    def take(self, token: Scored) -> None:
        """Add a token that was generated."""
        self.tokens.append(token)
        if token.id in self.ends:
            self.answer.skip()
            self.finish("stop")
            return
        self.answer.feed(token.id)
        if self.answer.is_stopped:
            self.finish("stop")
        elif len(self.tokens) >= self.max_new_tokens:
            self.finish("length")

    def finish(self, reason: str) -> None:
        """End the answer."""
        self.answer.finish()
        # half a character told at the very end may complete a stop string
        self.finish_reason = "stop" if self.answer.is_stopped else reason


class Batch(Protocol):
    """Rows that are computed together."""

    rows: list[Row]


AnyBatch = TypeVar("AnyBatch", bound=Batch)


class Model(Protocol[AnyBatch]):
    """What computes. Tests put a fake here."""

    pads: bool

    def prefill(self, rows: Sequence[Row]) -> AnyBatch:
        """Read the prompts, score them where asked, and give each row that wants one its first token."""

    def step(self, batch: AnyBatch) -> None:
        """Give each row its next token."""

    def keep(self, batch: AnyBatch) -> AnyBatch | None:
        """The batch without the rows that are over; None if nothing is left to do."""

    def merge(self, one: AnyBatch, other: AnyBatch) -> AnyBatch | None:
        """Both as one; None if this model's state cannot be merged."""

    def blame(self, error: Exception) -> tuple[str, bool]:
        """What an error means to those whose rows it ended, and whether the model is beyond repair."""


class Engine(Generic[AnyBatch]):
    """The queue in front of a model. `run` belongs to one thread, the rest to any.

    Attributes:
        trouble: Why nothing can be computed any more; None while all is well.
    """

    def __init__(self, model: Model[AnyBatch], *, max_batch_size: int, max_batch_tokens: int, max_waiting: int) -> None:
        self._model, self._max_waiting = model, max_waiting
        self._max_batch_size, self._max_batch_tokens = max_batch_size, max_batch_tokens
        self._news = threading.Condition()
        self._waiting: deque[Row] = deque()
        self._batches: list[AnyBatch] = []
        self._read: list[Row] = []
        self._is_closed = False
        self.trouble: str | None = None

    @property
    def n_waiting(self) -> int:
        """Rows that no batch has taken yet."""
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        """Rows that are computed, or whose prompt is being read."""
        return len(self._read) + sum(len(batch.rows) for batch in self._batches)

    def submit(self, rows: Sequence[Row]) -> None:
        """Queue all rows of a request. Raises Refused if they would make the queue too long."""
        with self._news:
            if self.trouble or self._is_closed:
                raise Refused(self.trouble or "the server is stopping", status=503)
            if len(self._waiting) + len(rows) > self._max_waiting:
                raise Refused(
                    f"the queue is full: {len(self._waiting)} of {self._max_waiting} sequences wait; try again later",
                    status=503, code="overloaded", retry_after_s=1,
                )  # fmt: skip
            self._waiting.extend(rows)
            self._news.notify()

    def close(self) -> None:
        """End all rows at the next step, and `run`. Takes no lock: it is called in the middle of anything."""
        self._is_closed = True

    def run(self) -> None:
        """Compute until closed, or until the model is beyond repair."""
        while not self._is_closed and not self.trouble:
            with self._news:
                while not (self._waiting or self._batches or self._is_closed):
                    self._news.wait(0.5)  # close() cannot wake us
                self._read = self._next()
            if self._read:
                self._compute(self._read)
            self._read = []
            for batch in [*self._batches]:
                if batch in self._batches:
                    self._compute(batch.rows, batch)
        ended = Refused(self.trouble or "the server is stopping", status=503)
        with self._news:
            rows = [*self._waiting, *(row for batch in self._batches for row in batch.rows if not row.is_told)]
            self._waiting.clear()
        for row in rows:
            row.done(ended)

    def _start(self, rows: Sequence[Row]) -> None:
        batch = self._settle(self._model.prefill(rows))
        if batch is None:
            return
        for i, other in enumerate(self._batches):
            if (merged := self._model.merge(other, batch)) is not None:
                self._batches[i] = merged
                return
        self._batches.append(batch)

    def _advance(self, batch: AnyBatch) -> None:
        self._model.step(batch)
        left = self._settle(batch)
        at = self._batches.index(batch)
        self._batches[at : at + 1] = [left] if left else []

    def _settle(self, batch: AnyBatch) -> AnyBatch | None:
        for row in batch.rows:
            if row.is_over and not row.is_told:  # some models keep such rows to the end of their batch
                row.is_told = True
                row.done(None)
        return self._model.keep(batch)

    def _compute(self, rows: Sequence[Row], batch: AnyBatch | None = None) -> None:
        """Read new rows, or advance a batch. What goes wrong ends these rows alone."""
        try:
            if batch is None:
                self._start(rows)
            else:
                self._advance(batch)
        except Exception as error:  # noqa: BLE001 - one batch may fail, the server goes on
            traceback.print_exc(file=sys.stderr)
            words, is_fatal = self._model.blame(error)
            self._batches = [other for other in self._batches if other is not batch]
            for row in rows:
                if not row.is_told:
                    row.done(Refused(words, status=500))
            if is_fatal:
                self.trouble = words

    def _next(self) -> list[Row]:
        """Rows for a new batch: the oldest, and those that go well with it."""
        self._waiting = deque(row for row in self._waiting if not row.is_cancelled)
        found: list[Row] = []
        left = deque[Row]()
        free = self._max_batch_size - self.n_running
        while self._waiting and len(found) < free:
            row = self._waiting.popleft()
            if not found or self._fits(row, found):
                found.append(row)
            else:
                left.append(row)
        self._waiting.extendleft(reversed(left))
        return found

    def _fits(self, row: Row, found: Sequence[Row]) -> bool:
        """Alike in being scored, no more tokens than a batch may have, and most of them no padding."""
        lengths = [len(row.ids), *(len(other.ids) for other in found)]
        n_tokens = len(lengths) * max(lengths)
        is_dense = sum(lengths) >= _MIN_DENSITY * n_tokens or n_tokens <= _FEW_TOKENS
        is_alike = row.is_echo == found[0].is_echo and (self._model.pads or len(set(lengths)) == 1)
        return is_alike and is_dense and n_tokens <= self._max_batch_tokens
