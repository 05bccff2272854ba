"""Several answers to each question, the whole way through; and a replay of them that asks nobody."""

import subprocess
import sys
from typing import Any

import duckdb
import pytest

from tests.grid.conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REPLAY = """
import sys
import dagster as dg
from pathlib import Path
from eval_pipelines.definitions import assets_of, resources_of
from eval_pipelines.home import enter_home
from resources.config import read_config

config = read_config(Path(sys.argv[1]))
enter_home(config)
keys = [dg.AssetKey([kind, "gsm8k"]) for kind in sys.argv[2:]]
with dg.DagsterInstance.get() as instance:
    done = dg.materialize(
        assets_of(config), selection=keys, partition_key="mock@a", instance=instance,
        resources=resources_of(Path(sys.argv[1])),
        run_config={"ops": {"responses__gsm8k": {"config": {"ask": False}}} if "responses" in sys.argv else {}},
        raise_on_error=False,
    )
sys.exit(not done.success)
"""


def scores(project: Project) -> list[tuple[Any, ...]]:
    """Of the newest grading."""
    files = project.data / "landing" / "scores" / "*" / "*" / "*.parquet"
    return duckdb.sql(
        f"SELECT sample_id, metric, filter, value, extracted FROM read_parquet('{files}') "
        "QUALIFY recorded_at = max(recorded_at) OVER () ORDER BY ALL"
    ).fetchall()


def replay(project: Project, *kinds: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", REPLAY, str(project.config), *kinds],
        cwd=project.folder,
        env=project.environment(),
        timeout=200,
        capture_output=True,
        text=True,
    )


def test_one_answer_then_three_then_a_replay(project, faulty) -> None:
    project.content["benchmarks"]["gsm8k"] |= {"generation": {"temperature": 0.8}, "limit": 5}
    project.content["deployments"]["mock"]["n_per_request"] = 4
    project.write()
    faulty.set(is_sampling=True)
    once = project.evaluate("gsm8k")["metrics"]["gsm8k", "exact_match", "flexible-extract"]
    assert faulty.stats()["answered"] == 5

    project.content["benchmarks"]["gsm8k"]["repeats"] = 3
    project.write()
    ungraded = replay(project, "scores")
    assert "gsm8k asks each question 3 times now, and mock@a was asked 1 times" in ungraded.stderr
    faulty.set(is_sampling=True)
    often = project.evaluate("gsm8k")
    found = often["metrics"]["gsm8k", "exact_match", "flexible-extract"]
    assert (once["n"], found["n"], found["n_asked"]) == (5, 5, 5)
    # the first answers are known; the other two of each question are asked together
    assert faulty.stats()["answered"] == 5
    before = scores(project)

    faulty.set(is_sampling=True)
    n_gradings = len(list((project.data / "landing" / "scores").rglob("*.parquet")))
    done = replay(project, "responses", "scores")
    assert done.returncode == 0, done.stderr
    assert len(list((project.data / "landing" / "scores").rglob("*.parquet"))) == n_gradings + 1
    assert scores(project) == before
    assert faulty.stats().get("requests", 0) == 0, "not even a canary"
