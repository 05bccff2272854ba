"""Everybody at once, for fifteen seconds: the bench of ten minutes, in small."""

from pathlib import Path

import pytest

from eval_pipelines.warehouse.read import Reader, query
from tests.bench import concurrency

pytestmark = pytest.mark.slow


def test_writers_and_readers_of_every_kind_neither_fail_nor_see_half_a_state(tmp_path: Path) -> None:
    pytest.importorskip("duckdb_engine")

    told = concurrency.run(tmp_path, seconds=15, n_writers=2, is_flat_out=True)

    assert [error for one in told for error in one.errors] == []
    assert {one.name for one in told} >= {reader.__name__ for reader in concurrency.READERS}
    # on a machine with nothing else to do the longest is far below a second; here only waiting for a lock would show
    assert max(one.median_s for one in told if one.name != "publish_on") < 5
    with Reader(tmp_path) as reader:
        assert reader.query("SELECT generation FROM meta") == query(tmp_path, "SELECT generation FROM meta")
