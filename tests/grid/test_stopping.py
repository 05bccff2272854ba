"""An evaluation that stops once enough is known, the whole way through a real server."""

import json
from typing import Any

import pytest

from eval_pipelines.warehouse.read import query
from tests.grid.conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_asking_stops_early_says_so_and_goes_on_when_more_is_wanted(project: Project, faulty: Any) -> None:
    project.content["benchmarks"]["gsm8k"]["stop_early"] = {"half_width": 0.12, "batch": 10}
    project.write()
    told = project.evaluate("gsm8k")
    assert told["returncode"] == 0, told["stderr"]
    found = told["metrics"]["gsm8k", "exact_match", "flexible-extract"]
    n = found["n"]
    assert faulty.stats()["answered"] == n
    assert (found["n_asked"], n % 10, n < 100) == (n, 0, True)
    assert (found["ci_method"], found["coverage"]) == ("sequential", 1.0)
    assert found["ci_high"] - found["ci_low"] <= 0.24
    [row] = query(
        project.data, "SELECT parameters, n_samples, n_requests, n_answered, is_within_budget FROM stg_evaluations"
    )
    stopped = json.loads(row["parameters"])["stop_early"]
    assert (stopped["n"], stopped["of"], row["n_samples"], row["n_requests"], row["n_answered"]) == (n, 100, n, n, n)
    assert stopped["reason"].startswith("the interval is narrow enough: ")
    assert row["is_within_budget"]

    # the same again asks nobody; without the rule only the rest is asked
    faulty.set()
    assert project.evaluate("gsm8k")["metrics"]["gsm8k", "exact_match", "flexible-extract"]["n"] == n
    assert faulty.stats().get("answered", 0) == 0
    del project.content["benchmarks"]["gsm8k"]["stop_early"]
    project.write()
    whole = project.evaluate("gsm8k")["metrics"]["gsm8k", "exact_match", "flexible-extract"]
    assert (whole["n"], faulty.stats()["answered"]) == (100, 100 - n)
    assert whole["ci_method"] != "sequential"
    assert found["ci_low"] <= whole["value"] <= found["ci_high"]
