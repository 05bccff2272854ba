"""What evals.yaml asks for, on record: which cells are missing though nobody ever asked them."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.configured import Configured
from eval_pipelines.warehouse.configured import name_of, said
from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import query

from .builders import NOON, at, evaluation, land

pytestmark = pytest.mark.slow

HERE, THERE = "here:/srv/evals.yaml", "there:/srv/evals.yaml"
FIRST, LATER, BY_HAND = "tiny@step-100", "tiny@step-200", "hosted@v1"


def configured(wanted: dict[str, tuple[str, ...]], benchmarks: tuple[str, ...] = ("gsm8k", "mmlu")) -> Configured:
    """Models with what they are to be asked by themselves."""
    pairs = {("", ""), *((model, "") for model in wanted), *(("", name) for name in benchmarks)}
    return Configured(frozenset(pairs | {(model, name) for model, names in wanted.items() for name in names}))


def tell(root: Path, what: Configured, now: datetime = NOON, by: str = HERE) -> int:
    """As `WarehouseResource.record_configured`: how many rows landed."""
    changes = what.changes(said(root, by, now))
    if changes:
        Landing(root).land_configured(by, changes, now)
    return len(changes)


def grid(root: Path, sql: str = "SELECT model_key, benchmark, status, is_wanted FROM grid ORDER BY 1, 2") -> list[Any]:
    assert publish(root).failing == ()
    return [tuple(row.values()) for row in query(root, sql)]


def test_what_is_configured_and_was_never_asked_is_missing(tmp_path: Path) -> None:
    land(tmp_path, evaluation(FIRST, "gsm8k"))
    tell(tmp_path, configured({FIRST: ("gsm8k",), LATER: ("gsm8k",), BY_HAND: ()}))

    assert grid(tmp_path) == [
        (BY_HAND, "gsm8k", "missing", False),
        (BY_HAND, "mmlu", "missing", False),
        (FIRST, "gsm8k", "scored", True),
        (FIRST, "mmlu", "missing", False),
        (LATER, "gsm8k", "missing", True),
        (LATER, "mmlu", "missing", False),
    ]


def test_it_is_missing_before_anything_at_all_was_asked(tmp_path: Path) -> None:
    tell(tmp_path, configured({LATER: ("gsm8k",)}, ("gsm8k",)))
    assert grid(tmp_path) == [(LATER, "gsm8k", "missing", True)]


def test_a_record_on_which_no_configuration_stands_says_of_no_cell_whether_it_is_wanted(tmp_path: Path) -> None:
    land(tmp_path, evaluation(FIRST, "gsm8k"))
    land(tmp_path, evaluation(LATER, "mmlu"))
    assert [row[2:] for row in grid(tmp_path)] == [
        ("scored", None), ("missing", None), ("missing", None), ("scored", None)
    ]  # fmt: skip


def test_only_what_changed_is_landed_whether_published_or_not(tmp_path: Path) -> None:
    before = configured({FIRST: ("gsm8k", "mmlu")})
    told = [tell(tmp_path, before), tell(tmp_path, before, at(1))]
    publish(tmp_path)
    told += [tell(tmp_path, before, at(2)), tell(tmp_path, configured({FIRST: ("gsm8k",), LATER: ()}), at(3))]
    told += [tell(tmp_path, configured({FIRST: ("gsm8k",), LATER: ()}), at(4))]
    assert told == [6, 0, 0, 2, 0]
    publish(tmp_path)
    assert said(tmp_path, HERE, at(5)) == configured({FIRST: ("gsm8k",), LATER: ()}).pairs


def test_what_is_no_longer_configured_goes_but_for_what_was_asked(tmp_path: Path) -> None:
    land(tmp_path, evaluation(FIRST, "gsm8k"))
    tell(tmp_path, configured({FIRST: ("gsm8k",), LATER: ("gsm8k",)}))
    grid(tmp_path)
    tell(tmp_path, configured({}, ("maths",)), at(1))  # both checkpoints were deleted, the benchmark was renamed

    assert grid(tmp_path) == [(FIRST, "gsm8k", "scored", False), (FIRST, "maths", "missing", False)]
    tell(tmp_path, configured({LATER: ("maths",)}, ("maths",)), at(2))
    assert [row[1:] for row in grid(tmp_path) if row[0] == LATER] == [
        ("gsm8k", "missing", False),
        ("maths", "missing", True),
    ]


def test_what_any_of_two_configurations_asks_for_is_wanted(tmp_path: Path) -> None:
    tell(tmp_path, configured({FIRST: ("gsm8k",)}))
    tell(tmp_path, configured({FIRST: ("gsm8k",), LATER: ("mmlu",)}), at(1), THERE)
    tell(tmp_path, configured({}), at(2))  # it is still wanted there
    wanted = "SELECT model_key, benchmark FROM grid WHERE is_wanted ORDER BY 1, 2"
    assert grid(tmp_path, wanted) == [(FIRST, "gsm8k"), (LATER, "mmlu")]


def test_a_configuration_says_each_day_that_it_is_there_and_one_that_is_silent_for_a_week_is_gone(
    tmp_path: Path,
) -> None:
    tell(tmp_path, configured({FIRST: ("gsm8k",)}))
    for day in range(9):
        now = NOON + timedelta(days=day)
        tell(tmp_path, configured({LATER: ("gsm8k",)}), now, THERE)
        assert tell(tmp_path, configured({LATER: ("gsm8k",)}), now + timedelta(hours=23), THERE) == 0
        left = grid(tmp_path, "SELECT model_key FROM grid WHERE is_wanted ORDER BY 1")
        assert left == [(FIRST,), (LATER,)] if day < 7 else [(LATER,)]
    assert len(list((tmp_path / "landing" / "configured").rglob("*.parquet"))) == 10
    since = query(tmp_path, "SELECT since FROM stg_configured WHERE model_key <> '' AND benchmark <> ''")
    assert [row["since"] for row in since] == [NOON]


def test_a_rebuilt_database_holds_the_same(tmp_path: Path) -> None:
    for minute, models in enumerate(((FIRST,), (FIRST, LATER), (LATER,))):
        tell(tmp_path, configured(dict.fromkeys(models, ("gsm8k",))), at(minute))
        extended = grid(tmp_path)
    (tmp_path / "scores.duckdb").unlink()
    assert grid(tmp_path) == extended
    assert said(tmp_path, HERE, at(4)) == configured({LATER: ("gsm8k",)}).pairs


def test_a_data_root_keeps_its_name_on_the_record_when_its_host_has_another(tmp_path: Path) -> None:
    assert name_of(tmp_path, "pod-1") == "pod-1"
    assert name_of(tmp_path, "pod-2") == "pod-1"
