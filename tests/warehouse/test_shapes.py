"""Files that were landed by earlier versions are read as if they were landed today."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval_pipelines.errors import WarehouseError
from eval_pipelines.records import FailureKind
from eval_pipelines.warehouse import migrations
from eval_pipelines.warehouse.footers import check_shape
from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import query
from eval_pipelines.warehouse.shapes import SHAPES, VERSION_KEY, arrow_schema

from .builders import answer, evaluation, land, requests

MODEL = "tiny@step-100"
LANDED = Path(__file__).parent / "landed"
VERSIONS = sorted(int(folder.name) for folder in LANDED.iterdir())


@pytest.fixture(params=VERSIONS)
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A data root with what was landed in that shape: one evaluation, one answer right, one request failed."""
    shutil.copytree(LANDED / str(request.param), tmp_path / "landing")
    return tmp_path


def test_each_released_shape_is_published_beside_the_newest(root: Path) -> None:
    land(root, evaluation("tiny@step-200"), (1, 1, 0, 0))

    assert publish(root).failing == ()

    board = query(root, "SELECT model_key, value, coverage FROM leaderboard ORDER BY model_key")
    assert [tuple(row.values()) for row in board] == [(MODEL, 1.0, 0.5), ("tiny@step-200", 0.5, 1.0)]
    said = query(root, f"SELECT answer, failure_kind FROM sample_scores WHERE model_key = '{MODEL}' ORDER BY sample_id")
    assert [tuple(row.values()) for row in said] == [("It is main/0.", None), (None, "overloaded")]
    [served] = query(root, f"SELECT n_running_max FROM serving_performance WHERE model_key = '{MODEL}'")
    assert served == {"n_running_max": 2}


def test_answers_of_each_released_shape_are_not_asked_again(root: Path) -> None:
    [right, failed] = requests(2)
    landing = Landing(root)

    assert set(landing.answered(MODEL, f"bytes-of-{MODEL}")) == {right.digest}
    found = landing.responses_for(MODEL, f"bytes-of-{MODEL}", [right.digest, failed.digest])
    assert found[right.digest] == answer(right)
    assert found[failed.digest].failure is not None
    assert found[failed.digest].failure.kind is FailureKind.OVERLOADED


def test_a_shape_that_changed_by_more_than_a_column_that_may_be_null_has_a_migration() -> None:
    """If this fails: write warehouse/migrations/NNN_<what>.sql, and land a tiny evaluation in tests/warehouse/landed/NNN/."""
    assert max(VERSIONS) == migrations.newest()
    for path in (LANDED / str(max(VERSIONS))).rglob("*.parquet"):
        kind = path.relative_to(LANDED).parts[1]
        landed, today = pq.read_schema(path), arrow_schema(kind)
        assert [
            field for field in landed if field.name not in today.names or field.type != today.field(field.name).type
        ] == []
        assert [name for name in today.names if name not in landed.names and not today.field(name).nullable] == []


def test_a_landed_file_says_which_shape_it_has(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    for path in (tmp_path / "landing").rglob("*.parquet"):
        assert check_shape(path.relative_to(tmp_path / "landing").parts[0], path).version == migrations.newest()


@pytest.fixture
def renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As if a later version had given responses other names and units."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    sql = "SELECT * EXCLUDE (words, latency_ms), words AS text, latency_ms / 1000 AS latency_s FROM landed"
    (folder / "002_responses_in_seconds.sql").write_text(f"-- 002: seconds.\n-- kind: responses\n{sql}\n")
    monkeypatch.setattr(migrations, "FOLDER", folder)
    migrations.found.cache_clear()
    yield folder
    migrations.found.cache_clear()


def test_a_renamed_column_is_read_under_its_new_name(tmp_path: Path, renamed: Path) -> None:
    root = tmp_path / "data"
    [one, other] = requests(2)
    land(root, evaluation(), (1, 1), pairs=[(one, answer(one)), (other, answer(other))])
    path = next((root / "landing/responses").rglob("*.parquet"))
    table = pq.ParquetFile(path).read()
    old = table.drop_columns(["text", "latency_s", "ttft_s"])
    old = old.append_column("words", table["text"]).append_column("latency_ms", pa.array([250.0, 250.0]))
    pq.write_table(old.replace_schema_metadata({VERSION_KEY: b"1"}), path)
    land(root, evaluation("tiny@step-200"), (1, 1))

    found = Landing(root).responses_for(MODEL, f"bytes-of-{MODEL}", [one.digest, other.digest])
    assert found == {one.digest: answer(one), other.digest: answer(other)}
    publish(root)
    rows = query(root, "SELECT DISTINCT model_key, sample_id, text, latency_s, ttft_s FROM responses ORDER BY ALL")
    assert [tuple(row.values()) for row in rows] == [
        (model, f"main/{n}", f"It is main/{n}.", 0.25, None) for model in (MODEL, "tiny@step-200") for n in range(2)
    ]


@pytest.mark.parametrize("name", ["003_gap.sql", "2_short.sql", "002_Loud.sql"])
def test_a_migration_that_cannot_be_is_named(renamed: Path, name: str) -> None:
    for path in renamed.iterdir():
        path.unlink()
    (renamed / name).write_text("-- kind: responses\nSELECT * FROM landed")
    migrations.found.cache_clear()

    with pytest.raises(WarehouseError, match=r"NNN_<what>|without a gap"):
        migrations.newest()


def test_every_migration_is_of_a_landed_kind() -> None:
    assert {one.kind for one in migrations.found()} <= set(SHAPES)


def test_a_file_of_a_later_shape_is_refused_in_words(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    path = next((tmp_path / "landing/metrics").rglob("*.parquet"))
    pq.write_table(pq.ParquetFile(path).read().replace_schema_metadata({VERSION_KEY: b"99"}), path)

    with pytest.raises(WarehouseError, match=r"is of shape 99, and this version of the project knows shapes up to"):
        publish(tmp_path)
