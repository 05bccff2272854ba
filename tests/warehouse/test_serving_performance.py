"""serving_performance: the mart and the run's own summary agree; data from before server metrics still publishes."""

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.records import Evaluation, ServerMetrics
from eval_pipelines.serving.metrics import COUNTERS, NAMES, summarise
from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import query

from .builders import NOON, evaluation, land

pytestmark = pytest.mark.slow

# the mart's name of a figure → the summary's
FIGURES = {
    "n_running_mean": "n_running_mean",
    "n_running_max": "n_running_max",
    "n_waiting_mean": "n_waiting_mean",
    "n_waiting_max": "n_waiting_max",
    "kv_cache_share_mean": "kv_cache_share_mean",
    "kv_cache_share_max": "kv_cache_share_max",
    "prefix_cache_hit_share": "prefix_cache_hit_share",
    "server_prompt_tokens_per_s": "prompt_tokens_per_s",
    "server_generation_tokens_per_s": "generation_tokens_per_s",
    "server_n_finished": "n_finished",
    "server_n_preempted": "n_preempted",
    "watched_s": "watched_s",
    "n_replicas": "n_replicas",
    "n_scrapes": "n_scrapes",
    "n_failed_scrapes": "n_failed_scrapes",
}


def look(at_s: float, *, replica: str = "http://one/v1", started_s: float = 0, **fields: Any) -> ServerMetrics:
    moments = {"started_at": NOON + timedelta(seconds=started_s), "scraped_at": NOON + timedelta(seconds=at_s)}
    return ServerMetrics(replica=replica, **moments, **fields)


def landed(root: Path, records: list[ServerMetrics], **fields: Any) -> Evaluation:
    what = evaluation(**fields)
    Landing(root).land_server_metrics(what, records)
    return land(root, what)


def performance(root: Path) -> dict[str, Any]:
    assert publish(root).failing == ()
    [row] = query(root, "FROM serving_performance")
    return row


def some_looks(seed: int) -> list[ServerMetrics]:
    """Two replicas over uneven time; looks fail, values are missing, one replica may not tell a metric at all."""
    dice = random.Random(seed)
    never = {dice.choice(NAMES)}
    records, at_s, counted = [], 0.0, dict.fromkeys(sorted(COUNTERS), 0)
    for _ in range(dice.randrange(1, 12)):
        for replica in ("http://one/v1", "http://two/v1"):
            if dice.random() < 0.2:
                records.append(look(at_s, replica=replica, failure="HTTP 503"))
                continue
            counted = {name: n + dice.randrange(50) for name, n in counted.items()}
            counted["prefix_cache_queries"] += counted["prefix_cache_hits"]
            told = {"n_running": dice.randrange(9), "n_waiting": dice.randrange(9), "kv_cache_share": dice.random()}
            fields = {n: v for n, v in {**told, **counted}.items() if n not in never and dice.random() < 0.9}
            records.append(look(at_s, replica=replica, **fields))
        at_s += dice.choice((0.5, 1.0, 7.25))
    return records


@pytest.mark.parametrize("seed", range(12))
def test_the_mart_says_what_the_run_said(tmp_path: Path, seed: int) -> None:
    records = [
        one.model_copy(update={"prefix_cache_hits": None, "prefix_cache_queries": None})
        if None in (one.prefix_cache_hits, one.prefix_cache_queries)
        else one
        for one in some_looks(seed)
    ]
    landed(tmp_path, records)
    said, row = summarise(records), performance(tmp_path)
    assert said is not None
    for mine, theirs in FIGURES.items():
        expected = getattr(said, theirs)
        if theirs == "watched_s" and all(one.failure for one in records):
            expected = None
        assert row[mine] == (expected if expected is None else pytest.approx(expected)), mine


def test_our_clock_and_the_servers_stand_side_by_side(tmp_path: Path) -> None:
    records = [look(0, generation_tokens=0), look(4, generation_tokens=400)]
    landed(
        tmp_path, records, wall_s=2.0, completion_tokens=300, prompt_tokens=50, latency_p95_s=0.5, server_version="9"
    )
    row = performance(tmp_path)
    assert (row["completion_tokens_per_s"], row["prompt_tokens_per_s"]) == (150, 25)
    assert (row["server_generation_tokens_per_s"], row["server_prompt_tokens_per_s"]) == (100, None)
    assert (row["latency_p95_s"], row["backend"], row["server_version"]) == (0.5, "vllm", "9")


def test_who_had_nothing_to_ask_was_not_slow(tmp_path: Path) -> None:
    landed(tmp_path, [], n_reused=4, wall_s=0.001)
    assert performance(tmp_path)["completion_tokens_per_s"] is None


def test_a_data_root_without_any_server_metrics_publishes_and_later_ones_are_added(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    row = performance(tmp_path)
    assert not (tmp_path / "landing" / "server_metrics").exists()
    assert {row[name] for name in FIGURES} == {None}

    landed(tmp_path, [look(0, n_running=1), look(1, n_running=3)], run_id="run2", recorded_at=NOON + timedelta(hours=1))
    report = publish(tmp_path)
    assert (report.is_full_rebuild, report.failing, report.n_rows["server_metrics"]) == (False, (), 2)
    found = query(tmp_path, "SELECT run_id, n_running_mean FROM serving_performance ORDER BY 1")
    assert [tuple(one.values()) for one in found] == [("run1", None), ("run2", 2.0)]


def test_a_retried_step_counts_with_its_newest_watch_alone(tmp_path: Path) -> None:
    what = evaluation()
    first = [look(0, n_running=9, n_finished=0), look(5, n_running=9, n_finished=90)]
    Landing(tmp_path).land_server_metrics(what, first)
    landed(tmp_path, [look(7, started_s=7, n_running=1, n_finished=0), look(9, started_s=7, n_running=1, n_finished=2)])
    row = performance(tmp_path)
    assert (row["n_scrapes"], row["n_running_max"], row["server_n_finished"]) == (2, 1, 2)


def test_looks_of_a_try_that_never_finished_are_in_no_row(tmp_path: Path) -> None:
    Landing(tmp_path).land_server_metrics(evaluation(run_id="killed"), [look(0)])
    land(tmp_path, evaluation())
    assert performance(tmp_path)["run_id"] == "run1"


@pytest.mark.parametrize(
    ("fields", "test"),
    [
        ({"kv_cache_share": 36.4}, "shares_of_a_server_are_shares"),
        ({"prefix_cache_hits": 3, "prefix_cache_queries": 2}, "shares_of_a_server_are_shares"),
        ({"generation_tokens": 2}, "servers_count_what_they_answered"),
    ],
)
def test_numbers_that_cannot_be_are_found(tmp_path: Path, fields: dict[str, Any], test: str) -> None:
    landed(tmp_path, [look(0, **fields)], completion_tokens=3)
    [failing] = publish(tmp_path).failing
    assert (failing.name, failing.n_failing) == (test, 1)
