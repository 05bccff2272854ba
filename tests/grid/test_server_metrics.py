"""The whole way: a server that was started here is watched while it is asked; the run and the tables say how it did."""

import os
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

SERVER = Path(__file__).parent.parent / "faulty_server.py"
pytestmark = pytest.mark.slow


@pytest.fixture
def started(project: Any) -> Any:
    """The project, whose model is now served by a faulty server that the lease starts and that has a key."""
    project.content["deployments"]["mock"] = {
        "backend": "command",
        "argv": [sys.executable, str(SERVER), "--port", "{port}", "--model", "{model_key}"],
        "key_env": "FAULTY_API_KEY",
        "keep_warm_s": 0.5,
        "max_in_flight": 4,
        "metric_names": {
            "n_running": "mock_running",
            "kv_cache_share": 'mock_cache_share{engine="1"}',
            "prompt_tokens": "mock_prompt_tokens_total",
            "generation_tokens": "mock_completion_tokens_total",
            "n_finished": "mock_finished_total",
        },
    }
    (project.folder / "weights").write_text("some")
    project.content["models"]["mock@a"] = {"deployment": "mock", "weights": "weights"}
    return project.write()


def metadata(project: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of the newest materialization of the responses."""
    monkeypatch.setenv("DAGSTER_HOME", str(project.data / "dagster"))
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["responses", "gsm8k"]))
        assert event is not None
        assert event.asset_materialization is not None
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def performance(project: Any) -> dict[str, Any]:
    with duckdb.connect(str(project.data / "scores.duckdb"), read_only=True) as database:
        rows = database.execute("FROM serving_performance WHERE benchmark = 'gsm8k' ORDER BY recorded_at").fetchall()
        names = [column[0] for column in database.description or []]
    return dict(zip(names, rows[-1], strict=True))


def test_a_run_tells_what_its_server_did_and_where_its_log_is(started, monkeypatch) -> None:
    assert started.evaluate("gsm8k")["returncode"] == 0
    told, row = metadata(started, monkeypatch), performance(started)

    assert row["server_n_finished"] == 100
    assert row["server_generation_tokens"] == row["completion_tokens"] == 500
    assert row["server_generation_tokens_per_s"] == pytest.approx(500 / row["watched_s"])
    assert (row["kv_cache_share_max"], row["prefix_cache_hit_share"]) == (0.25, None)
    assert row["n_scrapes"] >= 2
    assert row["n_failed_scrapes"] == 0
    assert "| n_finished | 100 |" in told["server_metrics"]
    assert f"| n_scrapes | {row['n_scrapes']} |" in told["server_metrics"]
    assert os.path.isfile(told["server_log"])


def test_asking_nothing_anew_looks_at_nothing(started, monkeypatch) -> None:
    started.evaluate("gsm8k")
    started.evaluate("gsm8k")
    row = performance(started)
    assert (row["n_reused"], row["n_scrapes"], row["completion_tokens_per_s"]) == (100, None, None)
    assert "server_metrics" not in metadata(started, monkeypatch)


def test_a_server_whose_metrics_fail_is_asked_all_the_same(started, monkeypatch) -> None:
    started.content["deployments"]["mock"]["metrics_path"] = "/nothing"
    started.write()
    assert started.evaluate("gsm8k")["returncode"] == 0
    row = performance(started)
    assert (row["n_requests"], row["n_failed_scrapes"], row["server_n_finished"]) == (100, row["n_scrapes"], None)
    assert row["completion_tokens_per_s"] > 0


def test_a_hosted_model_without_metrics_has_a_row_of_our_own_figures(project, monkeypatch) -> None:
    project.evaluate("gsm8k")
    row, told = performance(project), metadata(project, monkeypatch)
    assert row["completion_tokens_per_s"] > 0
    assert (row["n_scrapes"], row["server_generation_tokens"]) == (None, None)
    assert not {"server_metrics", "server_log"} & told.keys()
    assert not (project.data / "landing" / "server_metrics").exists()
