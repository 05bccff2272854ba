"""A checkpoint whose run failed is tried again, later each time, and not for ever; on real runs that really fail."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from eval_pipelines.definitions import build
from eval_pipelines.records import utc_now
from eval_pipelines.retries import WAITS, Failed, what_to_retry
from sensors import retries as retry_room
from sensors.retries import retry_sensor
from tests.grid.conftest import GSM8K
from tests.grid.watched import Watched, drop

NOW = utc_now()


def failed(key: str, *, n_tries: int = 1, ago: timedelta = timedelta(0)) -> Failed:
    return Failed(run_id=f"run-{key}", model_key=key, fingerprint="f", n_tries=n_tries, ended_at=NOW - ago)


def test_each_try_waits_longer_than_the_last_until_it_is_given_up() -> None:
    waits = [what_to_retry([failed("a@1", n_tries=n)], now=NOW, limit=9) for n in range(1, len(WAITS) + 2)]
    assert [one.due for one in waits] == [()] * (len(WAITS) + 1)
    due = [failed("a@1", n_tries=n).due_at for n in range(1, len(WAITS) + 2)]
    assert due[-1] is None
    assert sorted(due[:-1]) == due[:-1]
    assert "given up after 6 tries, materialize by hand: a@1" in waits[-1].reason


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
