"""A record that several machines keep together, on a real S3 server and on DuckLake with a real Postgres."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from eval_pipelines.errors import ConfigError, WarehouseError
from eval_pipelines.warehouse import migrations, noticed
from eval_pipelines.warehouse.configured import said
from eval_pipelines.warehouse.landed_rows import read
from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.mirror import Mirror, Synced
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import query
from eval_pipelines.warehouse.shapes import SHAPES, VERSION_KEY
from eval_pipelines.warehouse.stores import Store, open_store
from eval_pipelines.warehouse.stores.ducklake import Spec as LakeSpec
from eval_pipelines.warehouse.stores.object_store import Spec as ObjectSpec
from tests.warehouse.builders import NOON, answer, evaluation, land, requests, samples
from tests.warehouse.store_servers import POSTGRES, postgres, s3_server

pytestmark = pytest.mark.slow

SECRETS = {"S3_KEY": "key", "S3_SECRET": "secret-1234"}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture(scope="module")
def catalogue() -> Iterator[int]:
    if not _has_ducklake():
        pytest.skip(f"DuckLake's extensions are not installed for DuckDB {duckdb.__version__}")
    with postgres("lake") as port:
        yield port


def objects(url: str, server: str) -> ObjectSpec:
    return ObjectSpec(
        url=url, endpoint_url=server, region="us-east-1", access_key_env="S3_KEY", secret_key_env="S3_SECRET"
    )


def _has_ducklake() -> bool:
    from eval_pipelines.warehouse.stores import ducklake

    try:
        return all(ducklake._extension(name, duckdb.__version__) for name in ducklake._EXTENSIONS)
    except ConfigError:
        return False


@pytest.fixture(params=["object_store", "ducklake"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Opens one and the same store, as each machine does for itself; empty at first."""
    if request.param == "object_store":
        spec = objects(f"s3://evals/{tmp_path.name}", request.getfixturevalue("s3"))
        return lambda: open_store("object_store", spec, SECRETS)
    port = request.getfixturevalue("catalogue")
    database = tmp_path.name.lower().replace("-", "_")[:60]
    create = [POSTGRES[-1] / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "evals", database]
    subprocess.run(create, check=True)
    lake = LakeSpec(port=port, database=database, user="evals", data_path=str(tmp_path / "lake"))
    return lambda: open_store("ducklake", lake, {})


class Machine:
    """One machine's data root, its landing kept in the store."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root, self.landing = root, Landing(root, store)

    def land(self, **fields: object) -> None:
        """A whole evaluation, landed without the store, then kept: as `land` of the builders, then a sync."""
        land(self.root, evaluation(**fields))  # type: ignore[arg-type]


@pytest.fixture
def machines(store: Callable[[], Store], tmp_path: Path) -> tuple[Machine, Machine]:
    return Machine(tmp_path / "a", store()), Machine(tmp_path / "b", store())


def test_what_one_machine_landed_another_reads_and_does_not_ask_again(machines) -> None:
    a, b = machines
    asked, what = requests(), evaluation()
    a.landing.land_samples("gsm8k", what.ask_version, samples())
    a.landing.land_responses(what, [(one, answer(one)) for one in asked])
    a.landing.land_evaluation(what)
    assert set(b.landing.answered(what.model_key, what.fingerprint)) == {one.digest for one in asked}
    assert b.landing.latest_evaluation(what.model_key, "gsm8k") == what
    assert b.landing.land_samples("gsm8k", what.ask_version, samples()) is None, "the samples are known there too"


def test_both_machines_publish_the_same_numbers(machines) -> None:
    a, b = machines
    a.land(model="tiny@step-100")
    b.land(model="tiny@step-200", run_id="run2")
    for machine in (a, b, a):
        machine.landing.sync()
    boards = []
    for machine in (a, b):
        publish(machine.root)
        boards.append(query(machine.root, "SELECT model_key, value, n, coverage FROM leaderboard ORDER BY 1"))
    assert [row["model_key"] for row in boards[0]] == ["tiny@step-100", "tiny@step-200"]
    assert boards[0] == boards[1]


def test_what_the_configuration_of_one_machine_asks_for_is_missing_on_both(machines) -> None:
    a, b = machines
    wanted = dict.fromkeys([("", ""), ("tiny@step-300", ""), ("", "gsm8k"), ("tiny@step-300", "gsm8k")], True)
    a.landing.land_configured("a:/srv/evals.yaml", wanted, NOON)
    assert b.landing.sync() == Synced(1, 0)
    for machine in (a, b):
        publish(machine.root)
        [cell] = query(machine.root, "SELECT model_key, benchmark, status, is_wanted FROM grid")
        assert [*cell.values()] == ["tiny@step-300", "gsm8k", "missing", True]
    shutil.rmtree(a.root)
    assert list(a.landing.configured_folder("a:/srv/evals.yaml").glob("*.parquet")), "it knows again what it said"
    assert said(a.root, "a:/srv/evals.yaml", NOON) == wanted.keys()


def test_what_a_killed_process_left_on_its_machine_is_kept_by_the_next_sync(machines) -> None:
    a, b = machines
    a.land()
    n = len(list((a.root / "landing").rglob("*.parquet")))
    assert a.landing.sync() == Synced(0, n)
    assert a.landing.sync() == Synced(0, 0)
    assert b.landing.sync() == Synced(n, 0)
    copies = [sorted((m.root / "landing").rglob("*.parquet")) for m in (a, b)]
    assert [p.relative_to(a.root) for p in copies[0]] == [p.relative_to(b.root) for p in copies[1]]


def test_two_files_of_one_name_and_different_rows_are_both_kept(machines) -> None:
    a, b = machines
    paths = [machine.root / "landing" / "samples" / "benchmark=gsm8k" / "1.0-x.parquet" for machine in machines]
    Landing(a.root).land_samples("gsm8k", "1.0-x", samples(2))
    Landing(b.root).land_samples("gsm8k", "1.0-x", samples(4))
    assert all(path.exists() for path in paths)
    for machine in (a, b):
        machine.landing._mirror.keep(machine.root / "landing" / "samples" / "benchmark=gsm8k" / "1.0-x.parquet")
    b.landing.sync()
    names = sorted(path.name for path in paths[1].parent.iterdir())
    assert names == ["1.0-x-2.parquet", "1.0-x.parquet"]

    # b took another name, and fetched a's file under the first: the notes of it, once old, must not cost a landed file
    notes = noticed.notices(b.root / "landing")
    assert len(notes) == 3  # landed, renamed, fetched
    for note in notes:
        os.utime(note.path, (1, 1))
    assert all(note.is_finished for note in noticed.notices(b.root / "landing"))
    assert sorted(path.name for path in paths[1].parent.iterdir()) == names


def test_a_file_that_is_kept_twice_at_once_stays_one_file(machines) -> None:
    a, b = machines
    landed = Landing(a.root).land_samples("gsm8k", "1.0-x", samples(12_000))
    assert landed is not None
    for _ in range(2):  # the landing itself, and a sync that listed the store before it
        assert a.landing._mirror.keep(landed) == landed
    b.landing.sync()
    assert [path.name for path in (b.root / "landing/samples").rglob("*.parquet")] == [landed.name]


def test_of_machines_that_keep_one_name_at_the_same_moment_one_does(store, tmp_path) -> None:
    n = 3
    landed = Landing(tmp_path / "a").land_samples("gsm8k", "1.0-x", samples(100))
    together = threading.Barrier(n)

    def keep(one: Store, name: str) -> bool:
        together.wait(timeout=60)
        return one.put(name, landed)

    with ThreadPoolExecutor(n) as pool:
        stores = list(pool.map(lambda _: store(), range(n)))  # a new store is opened by all at once, too
        for name in (f"samples/benchmark=gsm8k/{i}.parquet" for i in range(4)):
            assert sorted(pool.map(keep, stores, [name] * n)) == [False, False, True]
            stores[0].get(name, tmp_path / "fetched.parquet")
            assert pq.read_metadata(tmp_path / "fetched.parquet").num_rows == 100


def test_a_copy_here_is_never_replaced_and_never_half_written(machines, monkeypatch) -> None:
    a, b = machines
    a.land()
    a.landing.sync()
    real = Mirror._fetch
    fetched: list[str] = []

    def dies_after_three(mirror: Mirror, name: str) -> None:
        if len(fetched) >= 3:
            raise KeyboardInterrupt
        real(mirror, name)
        fetched.append(name)

    monkeypatch.setattr(Mirror, "_fetch", dies_after_three)
    with pytest.raises(KeyboardInterrupt):
        b.landing.sync()
    monkeypatch.undo()
    kinds = {path.relative_to(b.root / "landing").parts[0] for path in (b.root / "landing").rglob("*.parquet")}
    assert "metrics" not in kinds, "what rests on other files comes after them"
    b.landing.sync()
    publish(b.root)
    assert [row["n"] for row in query(b.root, "SELECT n FROM leaderboard")] == [4]


# object stores


def test_a_store_that_does_not_answer_costs_nothing_that_was_landed(tmp_path) -> None:
    spec = objects("s3://evals/x", "http://127.0.0.1:9")
    landing = Landing(tmp_path, open_store("object_store", spec, SECRETS))
    with pytest.raises(WarehouseError, match=r"s3://evals/x did not do what was asked.*eval-pipelines sync") as raised:
        landing.land_evaluation(evaluation())
    assert "secret-1234" not in str(raised.value)
    assert Landing(tmp_path).latest_evaluation("tiny@step-100", "gsm8k") == evaluation()


def test_a_bucket_that_is_not_there_is_told_in_one_sentence(s3) -> None:
    spec = objects("s3://nowhere/x", s3)
    with pytest.raises(WarehouseError, match="404 Not Found") as raised:
        open_store("object_store", spec, SECRETS).names("metrics")
    assert "<?xml" not in str(raised.value)


def test_a_secret_that_is_not_set_is_named(s3) -> None:
    spec = ObjectSpec(url="s3://evals/x", endpoint_url=s3, secret_key_env="S3_SECRET")
    with pytest.raises(ConfigError, match="S3_SECRET is not set"):
        open_store("object_store", spec, {})


# DuckLake


def test_a_catalogue_that_does_not_answer_is_named_without_its_password(tmp_path) -> None:
    if not _has_ducklake():
        pytest.skip(f"DuckLake's extensions are not installed for DuckDB {duckdb.__version__}")
    spec = LakeSpec(port=9, database="lake", user="evals", password_env="PW", data_path=str(tmp_path))
    with pytest.raises(WarehouseError, match=r"the lake in 'lake' at 127\.0\.0\.1:9") as raised:
        open_store("ducklake", spec, {"PW": "hidden-word"})
    assert "hidden-word" not in str(raised.value)


def test_without_its_extensions_ducklake_says_what_to_install(tmp_path) -> None:
    if _has_ducklake():
        pytest.skip("they are installed")
    spec = LakeSpec(database="lake", user="evals", data_path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"pip install 'eval-pipelines\[ducklake\]'"):
        open_store("ducklake", spec, {})


@pytest.mark.parametrize("store", ["ducklake"], indirect=True)
def test_what_a_lake_kept_before_a_migration_is_read_through_it(store, tmp_path, monkeypatch) -> None:
    new = Landing(tmp_path / "new").land_samples("gsm8k", "1.0-new", samples(2))
    table = pq.ParquetFile(new).read()
    old = tmp_path / "old.parquet"
    table = table.rename_columns(["prompt" if name == "question" else name for name in table.column_names])
    pq.write_table(table, old)
    today = SHAPES["samples"]
    before = {"prompt" if name == "question" else name: typ for name, typ in today.items()}
    names = {path: f"samples/benchmark=gsm8k/{path.stem}.parquet" for path in (old, new)}

    monkeypatch.setitem(SHAPES, "samples", before)
    machine_of_before = store()
    assert machine_of_before.put(names[old], old)

    monkeypatch.setitem(SHAPES, "samples", today)
    migrated = "-- kind: samples\nSELECT * RENAME (prompt AS question) FROM landed"
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "002_questions.sql").write_text(migrated)
    monkeypatch.setattr(migrations, "FOLDER", tmp_path / "migrations")
    migrations.found.cache_clear()
    try:
        machine = store()
        shutil.copy(old, late := tmp_path / "late.parquet")
        pq.write_table(pq.ParquetFile(new).read().replace_schema_metadata({VERSION_KEY: "2"}), new)
        names[late] = "samples/benchmark=gsm8k/late.parquet"
        assert machine.put(names[new], new)
        assert machine.put(names[late], late), "landed before the migration, kept after it"
        for name in names.values():
            machine.get(name, fetched := tmp_path / "fetched.parquet")
            assert [row["question"] for row in read("samples", [fetched])] == ["What is 0?", "What is 1?"]
    finally:
        monkeypatch.undo()
        migrations.found.cache_clear()
    with pytest.raises(
        WarehouseError, match="of shape 2, and this version of the project knows shapes up to 1: update"
    ):
        machine_of_before.get(names[new], tmp_path / "fetched.parquet")
