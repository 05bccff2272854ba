"""Data of the hub, pinned to a commit: fetched by the library's own means from a hub that runs here."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.hub_server import COMMIT

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
from pathlib import Path
from eval_pipelines.benchmarks.harness import load
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.errors import DataError
spec = BenchmarkSpec.model_validate_json(sys.argv[1])
try:
    benchmark = load("sums", spec, limit=None, cache=Path(sys.argv[2]))
    print(json.dumps([benchmark.ask_version, [one.target for one in benchmark.samples()]]))
except DataError as error:
    print(json.dumps([str(error), None]))
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).with_name("hub_server.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def loaded(home: Path, endpoint: str, index: Path, **data: Any) -> list[Any]:
    source = {"hub": "acme/sums", "revision": COMMIT, "splits": {"test": "test", "train": "train"}, **data}
    spec = {"task": "gsm8k", "num_fewshot": 1, "data": source}
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", SCRIPT, json.dumps(spec), str(index)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_pinned_data_set_is_fetched_with_its_splits(tmp_path, hub, index) -> None:
    version, targets = loaded(tmp_path, hub, index)
    assert [target.split()[-1] for target in targets] == ["5", "7"]
    # its rows are part of the version, so the same rows from a file ask the same
    assert version.startswith("1-")


def test_a_data_set_out_of_reach_is_told_with_what_to_do(tmp_path, hub, index) -> None:
    told, _ = loaded(tmp_path, hub, index, hub="acme/gone")
    assert "hub acme/gone @c0ffee00c0ff split 'test' could not be fetched" in told
    assert "A `folder` with the files in it needs no network" in told
