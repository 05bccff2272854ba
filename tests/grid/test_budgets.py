"""A daily budget in the middle of an evaluation: what is there stays, and the rest is asked once it may be."""

import json
import time

import dagster as dg
import duckdb
import pytest

from eval_pipelines.client.spent import spent_today
from eval_pipelines.config.prices import in_words

pytestmark = pytest.mark.slow

PRICES = {"currency": "EUR", "per_million_tokens": {"mo*": {"prompt": 1, "completion": 2}}}


def limited(project, **budgets) -> None:
    project.content["prices"] = PRICES
    project.content["deployments"]["mock"] |= budgets
    project.content["benchmarks"]["gsm8k"]["generation"] = {"max_tokens": 32}
    project.write()


def costs(project) -> list[tuple]:
    with duckdb.connect(str(project.data / "scores.duckdb"), read_only=True) as database:
        return database.execute(
            "SELECT prompt_tokens, completion_tokens, cost, currency FROM serving_performance ORDER BY recorded_at"
        ).fetchall()


def test_a_used_up_budget_ends_a_cell_with_its_answers_landed_and_the_rest_is_asked_later(project, faulty) -> None:
    limited(project, daily_tokens=4_000)
    told = project.evaluate("gsm8k")
    n_first = faulty.stats()["answered"]
    assert told["returncode"] == 1
    assert 0 < n_first < 100
    for words in (
        "daily_tokens of deployment 'mock' is used up: 4,000 tokens a day for http://127.0.0.1",
        "The budget begins anew at 00:00 UTC",
        "raise deployments.mock.daily_tokens in evals.yaml",
        f"{100 - n_first} of 100 requests were not asked. The {n_first} answers are landed",
        "materialize again to ask only the rest",
    ):
        assert words in told["stderr"]
    assert spent_today(project.data / "leases", time.time())[0].tokens <= 4_000

    again = project.evaluate("gsm8k")
    assert "is used up" in again["stderr"]
    assert "not ready" not in again["stderr"].lower()

    limited(project, daily_tokens=1_000_000)
    done = project.evaluate("gsm8k")
    assert done["metrics"]["gsm8k", "exact_match", "strict-match"]["coverage"] == 1.0
    assert faulty.stats()["answered"] == 100
    assert "asked_again_though_answered" not in faulty.stats()


def test_what_an_evaluation_cost_is_in_its_table_and_what_is_left_is_told(project, faulty, monkeypatch) -> None:
    limited(project, daily_cost=1.5)
    project.evaluate("gsm8k", limit=8)
    [(prompt, completion, cost, currency)] = costs(project)
    assert (completion, currency) == (40, "EUR")
    assert cost == pytest.approx((prompt + 2 * 40) / 1e6)

    monkeypatch.setenv("DAGSTER_HOME", str(project.data / "dagster"))
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["responses", "gsm8k"]))
    assert event.asset_materialization.metadata["cost"].value == in_words(cost, "EUR")

    [told] = json.loads(project.run("spent", "--json").stdout)
    assert told["costs"]["EUR"] == pytest.approx(cost + 3e-6 * 2, abs=1e-5), "the first requests cost as well"
    assert told["left"]["mock"]["costs"]["EUR"] == pytest.approx(1.5 - told["costs"]["EUR"])
    shown = project.run("spent").stdout
    assert f"{faulty.url}  " in shown
    assert "mock: 1.49" in shown
    assert " EUR left" in shown
