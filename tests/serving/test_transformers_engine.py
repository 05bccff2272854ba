"""The queue of the transformers server, before a model that writes down what it was asked to compute."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from eval_pipelines.serving.servers._transformers_engine import Engine, Row, Scored
from eval_pipelines.serving.servers._transformers_protocol import Refused
from eval_pipelines.serving.servers._transformers_text import Answer, Speller

pytestmark = pytest.mark.unit


class NoText:
    def decode(self, ids: Sequence[int], **_: bool) -> str:
        return "a" * len(ids)


@dataclass(eq=False)
class FakeBatch:
    rows: list[Row]


@dataclass
class FakeModel:
    """Every next token is `a`."""

    pads: bool = True
    merges: bool = True
    drops: bool = True
    on_prefill: Callable[[], None] = lambda: None
    prefilled: list[list[int]] = field(default_factory=list)
    stepped: list[int] = field(default_factory=list)

    def prefill(self, rows: Sequence[Row]) -> FakeBatch:
        self.prefilled.append([len(row.ids) for row in rows])
        self.on_prefill()
        for row in rows:
            row.take(Scored(1))
        return FakeBatch([*rows])

    def step(self, batch: FakeBatch) -> None:
        self.stepped.append(len(batch.rows))
        for row in batch.rows:
            if not row.is_over:
                row.take(Scored(1))

    def keep(self, batch: FakeBatch) -> FakeBatch | None:
        left = [row for row in batch.rows if not row.is_over]
        batch.rows = left if self.drops else batch.rows
        return batch if left else None

    def merge(self, one: FakeBatch, other: FakeBatch) -> FakeBatch | None:
        return FakeBatch(one.rows + other.rows) if self.merges else None

    def blame(self, error: Exception) -> tuple[str, bool]:
        return str(error), "fatal" in str(error)


class Asked:
    """Rows that are queued, and how they ended."""

    def __init__(self, model: FakeModel, **limits: int) -> None:
        self.engine = Engine(model, **{"max_batch_size": 4, "max_batch_tokens": 1000, "max_waiting": 100, **limits})
        self.ended: list[tuple[Row, Refused | None]] = []
        self.n_left = 0

    def row(self, length: int = 3, n_new: int = 1, **more: bool) -> Row:
        row = Row(
            [1] * length, Answer(Speller(NoText())), n_new, frozenset(), done=lambda why: self._end(row, why), **more
        )
        return row

    def ask(self, *rows: Row) -> None:
        self.n_left += len(rows)
        self.engine.submit(rows)

    def run(self) -> None:
        """Compute until every row has ended."""
        thread = threading.Thread(target=self.engine.run)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()

    def _end(self, row: Row, why: Refused | None) -> None:
        self.ended.append((row, why))
        if len(self.ended) >= self.n_left:
            self.engine.close()


def test_rows_that_wait_are_read_together_up_to_the_size_of_a_batch() -> None:
    asked = Asked(model := FakeModel())
    asked.ask(*(asked.row() for _ in range(6)))
    asked.run()
    assert model.prefilled == [[3, 3, 3, 3], [3, 3]]
    assert [why for _, why in asked.ended] == [None] * 6


def test_a_newcomer_does_not_wait_for_the_longest_answer() -> None:
    asked = Asked(model := FakeModel())
    long, short = asked.row(n_new=50), asked.row(n_new=2)
    model.on_prefill = lambda: asked.ask(short) if not asked.n_left - 1 else None
    asked.ask(long)
    asked.run()
    assert [row for row, _ in asked.ended] == [short, long]
    assert (len(long.tokens), len(short.tokens)) == (50, 2)
    assert 2 in model.stepped  # both in one step


def test_batches_that_cannot_be_merged_take_turns() -> None:
    asked = Asked(model := FakeModel(merges=False))
    long, short = asked.row(n_new=50), asked.row(n_new=2)
    model.on_prefill = lambda: asked.ask(short) if not asked.n_left - 1 else None
    asked.ask(long)
    asked.run()
    assert [row for row, _ in asked.ended] == [short, long]
    assert {*model.stepped} == {1}


def test_a_model_that_cannot_drop_rows_from_a_batch_tells_each_end_once() -> None:
    asked = Asked(FakeModel(drops=False))
    rows = [asked.row(n_new=n) for n in (1, 30, 2)]
    asked.ask(*rows)
    asked.run()
    assert [row for row, _ in asked.ended] == [rows[0], rows[2], rows[1]]
    assert [len(row.tokens) for row in rows] == [1, 30, 2]


def test_no_batch_has_more_tokens_than_it_may() -> None:
    asked = Asked(model := FakeModel(), max_batch_tokens=1000)
    asked.ask(*(asked.row(400) for _ in range(5)))
    asked.run()
    assert model.prefilled == [[400, 400], [400, 400], [400]]


def test_a_prompt_longer_than_a_batch_is_read_alone() -> None:
    asked = Asked(model := FakeModel(), max_batch_tokens=100)
    asked.ask(asked.row(500), asked.row(3))
    asked.run()
    assert model.prefilled == [[500], [3]]


def test_short_prompts_are_not_padded_to_a_long_one() -> None:
    asked = Asked(model := FakeModel())
    asked.ask(asked.row(300), asked.row(5), asked.row(290), asked.row(6))
    asked.run()
    assert model.prefilled == [[300, 290], [5, 6]]


def test_prompts_to_be_scored_do_not_mix_with_others() -> None:
    asked = Asked(model := FakeModel())
    asked.ask(asked.row(3), asked.row(4, is_echo=True), asked.row(5), asked.row(6, is_echo=True))
    asked.run()
    assert model.prefilled == [[3, 5], [4, 6]]


def test_a_model_whose_state_knows_no_padding_reads_equal_lengths_together() -> None:
    asked = Asked(model := FakeModel(pads=False))
    asked.ask(asked.row(3), asked.row(4), asked.row(3))
    asked.run()
    assert model.prefilled == [[3, 3], [4]]


def test_a_queue_that_is_full_says_when_to_come_back() -> None:
    asked = Asked(FakeModel(), max_waiting=3)
    asked.ask(asked.row(), asked.row())
    with pytest.raises(Refused, match="the queue is full: 2 of 3") as refused:
        asked.engine.submit([asked.row(), asked.row()])
    assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
    assert asked.engine.n_waiting == 2


def test_a_row_nobody_waits_for_is_not_computed() -> None:
    asked = Asked(model := FakeModel())
    forgotten, wanted = asked.row(7), asked.row(3)
    asked.ask(wanted)
    asked.engine.submit([forgotten])
    forgotten.is_cancelled = True
    asked.run()
    assert model.prefilled == [[3]]


def test_a_batch_that_fails_does_not_end_the_others() -> None:
    def fail_once() -> None:
        if len(model.prefilled) == 1:
            raise ValueError("NaN")

    asked = Asked(model := FakeModel(on_prefill=fail_once), max_batch_size=1)
    asked.ask(asked.row(), asked.row())
    asked.run()
    assert [why and (why.status, str(why)) for _, why in asked.ended] == [(500, "NaN"), None]
    assert asked.engine.trouble is None


def test_a_model_beyond_repair_ends_everything() -> None:
    def fail() -> None:
        raise ValueError("fatal")

    asked = Asked(FakeModel(on_prefill=fail), max_batch_size=1)
    asked.ask(asked.row(), asked.row())
    asked.run()
    assert [why and why.status for _, why in asked.ended] == [500, 503]
    with pytest.raises(Refused, match="fatal"):
        asked.engine.submit([asked.row()])


def test_who_waits_when_the_server_stops_is_told() -> None:
    asked = Asked(model := FakeModel(), max_batch_size=1)
    model.on_prefill = asked.engine.close
    asked.ask(asked.row(n_new=50), asked.row())
    asked.run()
    assert [why and why.status for _, why in asked.ended] == [503, 503]
