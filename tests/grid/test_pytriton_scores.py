"""The same weights get the same score behind Triton as behind the embedded server, through the same assets."""

import json

import duckdb
import pytest

from tests.installed import installed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
N_QUESTIONS = {"gsm8k": 6, "hellaswag": 10}


@pytest.fixture
def python() -> str:
    return str(installed("EVAL_PIPELINES_PYTRITON"))


def verdicts(project, model: str) -> dict[tuple[str, str, str], tuple[str, float]]:
    """(question, metric, filter) → answer and score."""
    with duckdb.connect(str(project.data / "scores.duckdb"), read_only=True) as database:
        found = database.execute(
            "SELECT question, metric, filter, answer, value FROM sample_scores WHERE model_key = ?", [model]
        ).fetchall()
    return {(*key, name): (answer, value) for *key, name, answer, value in found}


def test_two_benchmarks_score_the_same_behind_triton_as_behind_the_embedded_server(
    project, small_model, python
) -> None:
    project.content["deployments"] = {
        "embedded": {"backend": "embedded", "keep_warm_s": 0, "max_context": 2048},
        "triton": {"backend": "pytriton", "python": python, "keep_warm_s": 0, "max_context": 2048},
    }
    project.content["models"] = {
        f"smol@{name}": {"deployment": name, "weights": str(small_model)} for name in ("embedded", "triton")
    }
    for name, n in N_QUESTIONS.items():
        project.content["benchmarks"][name] |= {"limit": n}
    project.write()
    told = {}
    for name in ("embedded", "triton"):
        told[name] = project.evaluate("both", model=f"smol@{name}")
        assert told[name]["returncode"] == 0, told[name]["stderr"]
    values = {
        name: {
            key: (one["value"], one["n"], one["coverage"])
            for key, one in done["metrics"].items()
            if not key[1].endswith("_share")  # one of them does not say how its answers ended
        }
        for name, done in told.items()
    }
    print("\n" + json.dumps({name: {str(key): value for key, value in one.items()} for name, one in values.items()}))
    assert values["triton"] == values["embedded"]
    assert {(key[0], *value[1:]) for key, value in values["triton"].items()} == {
        (name, n, 1.0) for name, n in N_QUESTIONS.items()
    }
    assert 0 < values["triton"]["hellaswag", "acc_norm", "none"][0] < 1, "all right or all wrong would prove nothing"
    assert verdicts(project, "smol@triton") == verdicts(project, "smol@embedded")
