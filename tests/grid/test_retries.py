"""A checkpoint whose run failed is tried again, later each time, and not for ever; on real runs that really fail."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from assets.partitions import ANSWERED_TAG, BUDGET_TAG
from eval_pipelines.definitions import build
from eval_pipelines.records import utc_now
from eval_pipelines.retries import WAITS, Failed, budget_begins_at, what_to_retry
from sensors import retries as retry_room
from sensors.retries import retry_sensor
from tests.grid.conftest import GSM8K
from tests.grid.watched import Watched, drop

NOW = utc_now()
FAULTY_SERVER = Path(__file__).parent.parent / "faulty_server.py"


def failed(key: str, *, n_tries: int = 1, ago: timedelta = timedelta(0)) -> Failed:
    return Failed(run_id=f"run-{key}", model_key=key, fingerprint="f", n_tries=n_tries, ended_at=NOW - ago)


def test_each_try_waits_longer_than_the_last_until_it_is_given_up() -> None:
    waits = [what_to_retry([failed("a@1", n_tries=n)], now=NOW, limit=9) for n in range(1, len(WAITS) + 2)]
    assert [one.due for one in waits] == [()] * (len(WAITS) + 1)
    due = [failed("a@1", n_tries=n).due_at for n in range(1, len(WAITS) + 2)]
    assert due[-1] is None
    assert sorted(due[:-1]) == due[:-1]
    assert "given up after 6 tries without an answer, materialize by hand: a@1" in waits[-1].reason


def test_a_try_that_was_answered_something_is_not_counted_and_never_the_last() -> None:
    one = replace(failed("a@1", n_tries=len(WAITS) + 1), has_answers=True)
    assert one.due_at == NOW + WAITS[-1]
    assert (one.n_tries_of_next, replace(one, has_answers=False).n_tries_of_next) == (1, len(WAITS) + 2)


@pytest.mark.parametrize("n_tries", [1, 3, 5])
def test_where_a_daily_budget_ended_it_the_next_try_waits_for_the_next_day_and_no_longer(n_tries) -> None:
    used_up = datetime(2026, 3, 1, 14, 30, tzinfo=UTC)
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    assert budget_begins_at(used_up) == budget_begins_at(midnight - timedelta(seconds=1)) == midnight
    one = replace(failed("a@1", n_tries=n_tries), ended_at=used_up, budget_begins_at=midnight)
    assert one.due_at == midnight
    # used up just before midnight; what was in flight was awaited beyond it
    assert replace(one, ended_at=midnight + timedelta(seconds=5)).due_at == midnight + timedelta(seconds=65)


def test_the_longest_overdue_goes_first_and_no_more_than_the_limit() -> None:
    old, new = failed("old@1", ago=timedelta(hours=2)), failed("new@1", ago=timedelta(minutes=2))
    assert what_to_retry([new, old], now=NOW, limit=1).due == (old,)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with dg.DagsterInstance.ephemeral() as instance:
        found = Watched(tmp_path, instance)
        found.content["benchmarks"] = {"gsm8k": GSM8K}
        found.content["suites"] = {"short": ["gsm8k"]}
        found.content["deployments"]["own"]["argv"] = ["no-such-server", "{weights}", "{port}"]
        found.write()
        yield found


def fail(watched: Watched, request: dg.RunRequest) -> str:
    """Run what a sensor requested; its server does not exist."""
    job = build(watched.folder / "evals.yaml").resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(
        partition_key=request.partition_key,
        asset_selection=request.asset_selection,
        tags=dict(request.tags),
        instance=watched.instance,
        raise_on_error=False,
    )
    assert not done.success
    return done.run_id


def later(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    now = utc_now() + by
    monkeypatch.setattr(retry_room, "utc_now", lambda: now)


@pytest.fixture
def once_failed(watched: Watched) -> tuple[Watched, dg.RunRequest]:
    drop(watched.root / "step-100")
    (request,) = watched.requested()
    fail(watched, request)
    return watched, request


@pytest.mark.slow
def test_a_failed_run_is_requested_again_with_the_same_cells_after_its_time(once_failed, monkeypatch) -> None:
    watched, first = once_failed
    assert watched.skipped(retry_sensor).startswith("later: smol@step-100 at ")
    later(monkeypatch, timedelta(minutes=2))
    told = watched.tick(retry_sensor)
    assert isinstance(told, dg.SensorResult)
    (again,) = told.run_requests or []
    assert (again.partition_key, set(again.asset_selection or ())) == (
        first.partition_key,
        set(first.asset_selection or ()),
    )
    assert again.tags["eval_pipelines/fingerprint"] == first.tags["eval_pipelines/fingerprint"]
    fail(watched, again)
    later(monkeypatch, timedelta(minutes=9))
    assert watched.skipped(retry_sensor).startswith("later: "), "the second wait is ten minutes"


@pytest.mark.slow
def test_bytes_that_changed_since_are_not_tried_again(once_failed, monkeypatch) -> None:
    watched, _ = once_failed
    drop(watched.root / "step-100", fill=b"\2")
    later(monkeypatch, timedelta(minutes=2))
    assert watched.skipped(retry_sensor) == "no checkpoint's newest run failed"


@pytest.mark.slow
def test_a_run_that_somebody_followed_by_hand_is_left_alone(once_failed, monkeypatch) -> None:
    watched, first = once_failed
    fail(watched, first._replace(tags={}))
    later(monkeypatch, timedelta(minutes=2))
    assert watched.skipped(retry_sensor) == "no checkpoint's newest run failed"


@pytest.mark.slow
def test_a_budget_of_several_days_is_not_given_up(watched, monkeypatch) -> None:
    serve = f"exec {sys.executable} {FAULTY_SERVER} --port {{port}} --model {{model_key}}"
    argv = ["sh", "-c", serve, "{weights}"]
    watched.content["deployments"]["own"] |= {"argv": argv, "daily_tokens": 2_000}
    watched.content["benchmarks"]["gsm8k"] = GSM8K | {"generation": {"max_tokens": 32}}
    watched.write()
    drop(watched.root / "step-100")
    (request,) = watched.requested()
    for n in range(2):  # the second try is not even let to ask a first request: it counts
        run = watched.instance.get_run_by_id(fail(watched, request))
        midnight = budget_begins_at(utc_now())
        assert run is not None
        assert (ANSWERED_TAG in run.tags, run.tags[BUDGET_TAG]) == (n == 0, midnight.isoformat())
        assert watched.skipped(retry_sensor) == "later: smol@step-100 at 00:00 UTC"
        with monkeypatch.context() as patch:
            later(patch, midnight - utc_now() + timedelta(seconds=1))
            told = watched.tick(retry_sensor)
        assert isinstance(told, dg.SensorResult)
        (request,) = told.run_requests or []
        assert request.tags["eval_pipelines/tries"] == str(n + 1)
        assert not {ANSWERED_TAG, BUDGET_TAG} & set(request.tags)
