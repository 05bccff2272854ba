"""The demo as a user runs it: a real daemon, real sensors, the real small model, in a fresh folder."""

import time
from pathlib import Path

import duckdb
import psutil
import pytest

from eval_pipelines.errors import NoSandboxError
from eval_pipelines.scoring import sandbox

pytestmark = pytest.mark.slow


def test_the_demo_fills_the_leaderboard_with_both_checkpoints_and_nothing_for_a_half_written_one(
    project, small_model: Path
) -> None:
    checkpoints = project.data / "checkpoints"
    checkpoints.mkdir(parents=True)
    whole = small_model.read_bytes()
    (checkpoints / "step-3000.gguf").write_bytes(whole[: len(whole) // 2])
    project.content["deployments"] = {"embedded": {"backend": "embedded", "keep_warm_s": 5}}
    project.content["models"] = {}
    project.content["watched"] = [
        {"path": "data/checkpoints", "family": "smol", "deployment": "embedded", "suite": "both"}
    ]
    project.content["benchmarks"]["gsm8k"] |= {"limit": 3, "generation": {"max_tokens": 48}}
    project.content["benchmarks"]["hellaswag"] |= {"limit": 4}
    project.content["benchmarks"]["capitals"] = {"task": "capitals", "protocol": "chat", "limit": 2}
    project.content["suites"]["both"] = [*project.content["suites"]["both"], "capitals"]
    project.content["benchmarks"]["humaneval"] = {"task": "humaneval", "limit": 2, "generation": {"max_tokens": 48}}
    project.content["suites"]["demo_code"] = ["humaneval"]
    project.write()
    done = project.run("demo", "--weights", str(small_model), timeout=280)
    assert done.returncode == 0, done.stderr + done.stdout
    with duckdb.connect(str(project.data / "scores.duckdb"), read_only=True) as database:
        board = database.execute("SELECT model_key, benchmark, n, coverage FROM leaderboard ORDER BY ALL").fetchall()
    models = ("smol@step-1000", "smol@step-2000-noised")
    asked = [("capitals", 2), ("gsm8k", 3), ("hellaswag", 4), *([("humaneval", 2)] if has_sandbox() else [])]
    assert board == [(model, name, n, 1.0) for model in models for name, n in asked]
    assert ("left out: humaneval" in done.stdout) == (not has_sandbox())
    for said in ("rank", "coverage", "significant", "scores.duckdb", "sample_scores", "make ui"):
        assert said in done.stdout
    assert "step-3000" not in done.stdout


def test_a_demo_killed_with_kill_9_leaves_no_daemon_that_would_fight_the_next_one(project, small_model: Path) -> None:
    project.content["deployments"] = {"embedded": {"backend": "embedded"}}
    project.content["models"] = {}
    project.content["watched"] = [{"path": "checkpoints", "family": "smol", "deployment": "embedded", "suite": "both"}]
    project.write()
    with project.start("demo", "--weights", str(small_model)) as demo:
        daemon = until(lambda: daemon_of(demo.pid))
        demo.kill()
        demo.communicate()
    until(lambda: not psutil.pid_exists(daemon) or psutil.Process(daemon).status() == psutil.STATUS_ZOMBIE)


def has_sandbox() -> bool:
    try:
        sandbox.require()
    except NoSandboxError:
        return False
    return True


def daemon_of(pid: int) -> int | None:
    children = psutil.Process(pid).children()
    return next((child.pid for child in children if "dagster._daemon" in child.cmdline()), None)


def until(value, timeout_s: float = 60):
    deadline = time.monotonic() + timeout_s
    while not (found := value()):
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)
    return found
