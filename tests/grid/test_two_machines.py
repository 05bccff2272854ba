"""Two machines with one record: what one asked, the other reads and does not ask again; on a real S3 server."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from tests.grid.conftest import Project
from tests.warehouse.store_servers import s3_server

pytestmark = pytest.mark.slow


@pytest.fixture
def machines(project: Project, tmp_path: Path):
    with s3_server(tmp_path) as url:
        project.env = {"S3_KEY": "key", "S3_SECRET": "secret-1234"}
        project.content["store"] = {
            "kind": "object_store", "url": "s3://evals/record", "endpoint_url": url, "region": "us-east-1",
            "access_key_env": "S3_KEY", "secret_key_env": "S3_SECRET",
        }  # fmt: skip
        other = dataclasses.replace(project, folder=tmp_path / "other")
        other.folder.mkdir()
        yield project.write(), other.write()


def test_a_second_machine_asks_nothing_again_and_has_the_same_numbers(machines, faulty) -> None:
    here, there = machines
    first = here.evaluate("gsm8k", limit=6)
    n_asked = faulty.stats()["requests"]
    second = there.evaluate("gsm8k", limit=6)
    assert (first["returncode"], second["returncode"]) == (0, 0), second["stderr"]
    assert faulty.stats()["requests"] == n_asked, "the other machine's answers were used"
    numbers = [{k: (m["value"], m["n"], m["coverage"]) for k, m in told["metrics"].items()} for told in (first, second)]
    assert numbers[0] == numbers[1]
    files = [path for path in there.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in files if b"secret-1234" in path.read_bytes()] == [], "a secret was written down"


def test_a_machine_that_lost_its_disk_gets_the_record_back(machines) -> None:
    here, _ = machines
    before = here.evaluate("gsm8k", limit=4)
    shutil.rmtree(here.data / "landing")
    (here.data / "scores.duckdb").unlink()
    done = here.run("publish")
    assert done.returncode == 0, done.stderr
    board = here.run("leaderboard").stdout
    (metric,) = [m for m in before["metrics"].values() if m["is_headline"]]
    assert f"{metric['value']:.3f}" in board
