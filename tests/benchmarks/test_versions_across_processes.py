"""A version must be the same in every process, or equal questions would count as different ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from eval_pipelines.config import load_config

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import sys
from pathlib import Path
from eval_pipelines.benchmarks.harness import load
from eval_pipelines.config import load_config
config = load_config(Path("evals.yaml"))
for name, spec in config.benchmarks.items():
    benchmark = load(name, spec, limit=2, cache=Path(sys.argv[1]))
    print(name, benchmark.ask_version, benchmark.score_version)
"""


@pytest.mark.slow
def test_two_processes_give_every_benchmark_of_the_demo_the_same_versions(tmp_path: Path) -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert told[0] == told[1]
    assert len(told[0].splitlines()) == len(load_config(ROOT / "evals.yaml").benchmarks)
