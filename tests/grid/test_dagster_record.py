"""Dagster's own record in SQLite, with one connection more that stays open."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from eval_pipelines import dagster_record


@pytest.fixture
def spared(tmp_path: Path) -> Iterator[Path]:
    """A Dagster home whose databases are spared."""
    dagster_record.spare_the_disk(tmp_path)
    yield tmp_path
    event.remove(Engine, "connect", dagster_record._connected)
    dagster_record._homes.clear()
    while dagster_record._open:
        dagster_record._open.popitem()[1].close()


def synchronous(path: Path) -> int:
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    with engine.connect() as connection:
        return int(connection.execute(text("PRAGMA synchronous")).scalar_one())


def materialized(instance: dg.DagsterInstance) -> str:
    @dg.asset
    def one() -> None: ...

    return dg.materialize([one], instance=instance).run_id


def test_the_log_of_a_run_is_not_written_back_at_each_of_its_events(spared) -> None:
    with dg.DagsterInstance.from_ref(dg.DagsterInstance.local_temp(str(spared)).get_ref()) as instance:
        run_id = materialized(instance)
        runs = spared / "history" / "runs"
        # SQLite removes the log as soon as the last connection closes
        assert {one.name for one in runs.glob("*-wal")} >= {"index.db-wal", f"{run_id}.db-wal"}
        assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.SUCCESS


def test_commits_to_dagsters_databases_wait_for_no_sync_and_those_to_others_do(spared, tmp_path_factory) -> None:
    assert synchronous(spared / "one.db") == 1
    assert synchronous(tmp_path_factory.mktemp("elsewhere") / "two.db") == 2


def test_however_many_runs_a_process_sees_few_databases_stay_open(spared) -> None:
    for number in range(2 * dagster_record._MOST_OPEN):
        engine = create_engine(f"sqlite:///{spared / str(number)}.db", poolclass=NullPool)
        for statement in ("PRAGMA journal_mode=WAL", "CREATE TABLE IF NOT EXISTS t (a)"):
            with engine.connect() as connection:
                connection.execute(text(statement))
    assert len(dagster_record._open) == dagster_record._MOST_OPEN
    assert len([*spared.glob("*-wal")]) == dagster_record._MOST_OPEN


def test_a_home_that_is_deleted_meanwhile_is_written_anew(spared) -> None:
    assert synchronous(spared / "one.db") == 1
    create_engine(f"sqlite:///{spared / 'one.db'}").connect().execute(text("PRAGMA journal_mode=WAL")).close()
    synchronous(spared / "one.db")
    for one in spared.iterdir():
        one.unlink()
    assert synchronous(spared / "one.db") == 1
