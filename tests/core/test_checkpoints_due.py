"""Which checkpoints are due, and what is said of the others."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from eval_pipelines.checkpoints import Checkpoint, Waiting, what_is_due
from eval_pipelines.keys import ModelKey

pytestmark = pytest.mark.unit

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def checkpoint(revision: str, content: str = "f1") -> Checkpoint:
    return Checkpoint(ModelKey("smol", revision), Path("/x") / revision, "gguf", content, 1, NOW)


def test_new_and_changed_checkpoints_are_due_earliest_step_first() -> None:
    found = [checkpoint("final"), checkpoint("step-1000"), checkpoint("step-200"), checkpoint("step-30")]
    due = what_is_due(seen={"smol@step-30": "f1", "smol@step-200": "f0"}, found=found, limit=9, now=NOW)
    assert [one.model_key.revision for one in due.due] == ["step-200", "step-1000", "final"]
    assert due.reason == "4 finished, 2 new, 1 changed"


def test_more_than_the_limit_is_left_for_the_next_time() -> None:
    found = [checkpoint(f"step-{i}") for i in range(5)]
    first = what_is_due(seen={}, found=found, limit=3, now=NOW)
    assert len(first.due) == 3
    assert first.reason == "5 finished, 5 new, 0 changed; 2 left for the next time"
    second = what_is_due(seen=first.seen, found=found, limit=3, now=NOW)
    assert [one.model_key.revision for one in second.due] == ["step-3", "step-4"]
    assert not what_is_due(seen=second.seen, found=found, limit=3, now=NOW).due


def test_nothing_due_says_what_waits_and_since_when() -> None:
    waiting = [Waiting("step-300", "no DONE marker yet", NOW - timedelta(hours=3)), Waiting("step-400", "x", NOW)]
    due = what_is_due(seen={"smol@a": "f1"}, found=[checkpoint("a")], waiting=waiting, limit=9, now=NOW)
    assert due.reason == (
        "1 finished, none new or changed; 2 still being written: "
        "step-300 (no DONE marker yet; nothing written for 3 h), step-400 (x)"
    )


def test_a_checkpoint_that_went_away_and_comes_back_unchanged_is_not_due() -> None:
    gone = what_is_due(seen={"smol@a": "f1"}, found=[], limit=9, now=NOW)
    assert not what_is_due(seen=gone.seen, found=[checkpoint("a")], limit=9, now=NOW).due


def test_of_two_with_one_key_the_first_counts() -> None:
    due = what_is_due(seen={}, found=[checkpoint("a", "f1"), checkpoint("a", "f2")], limit=9, now=NOW)
    assert [one.fingerprint for one in due.due] == ["f1"]
