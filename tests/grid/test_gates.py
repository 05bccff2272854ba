"""Gates from the published record to the asset check: who is judged, against whom, when, and what is told."""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from assets.partitions import add_models
from eval_pipelines.analysis.gating import gates_due, judge_model
from eval_pipelines.config import Config, load_config
from eval_pipelines.definitions import assets_of, resources_of
from eval_pipelines.errors import ConfigError
from eval_pipelines.home import enter_home
from eval_pipelines.scoring.gate_records import JUDGING_VERSION, GateVerdict
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import open_published, query
from sensors.gates import gates_sensor
from tests.grid.gated import BAD, FAIR, GOOD, N, land_verdicts, put
from tests.warehouse.builders import at, evaluation, grade, land

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GATES = """
deployments: {d: {backend: embedded}}
watched: [{path: checkpoints, deployment: d, suite: gsm8k}]
benchmarks: {gsm8k: {task: gsm8k}, mmlu: {task: mmlu}}
gates:
  release:
    defaults: {max_drop: 0.1}
    benchmarks: {gsm8k: , mmlu: {tier: supporting}}
  best: {baseline: best, benchmarks: {gsm8k: {max_drop: 0.1}}}
  others: {families: [huge], baseline: "tiny@step-100", benchmarks: {gsm8k: {max_drop: 0.1}}}
"""
MODELS = ["tiny@step-100", "tiny@step-200"]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "evals.yaml").write_text(f"data_root: data\n{GATES}")
    return load_config(tmp_path / "evals.yaml")


def judged(config: Config, gate: str, model: str, **options: Any) -> GateVerdict:
    with closing(open_published(config.data_root)) as connection:
        return judge_model(connection, gate, config.gate(gate), model, **options).verdict


def reasons(verdict: GateVerdict) -> dict[str, str]:
    return {one.benchmark: "; ".join(one.reasons) for one in verdict.benchmarks}


def test_the_baseline_is_the_checkpoint_before_or_the_best_one_before(config: Config) -> None:
    put(config, "tiny@step-200", FAIR, minute=0)  # asked first, trained second
    put(config, "tiny@step-100", GOOD, minute=1)
    put(config, "tiny@step-300", BAD, minute=2)
    put(config, "tiny@final", GOOD, minute=3)
    put(config, "huge@step-50", BAD, minute=4)
    publish(config.data_root)

    def baseline(gate: str, model: str, **options: Any) -> str | None:
        return judged(config, gate, model, **options).benchmarks[0].baseline

    assert baseline("release", "tiny@step-200") == "tiny@step-100"
    assert baseline("release", "tiny@final") == "tiny@step-300"
    assert baseline("best", "tiny@step-300") == "tiny@step-100"
    assert baseline("best", "tiny@final") == "tiny@step-100"
    assert baseline("others", "huge@step-50") == "tiny@step-100"
    assert baseline("release", "tiny@step-300", baseline="huge@step-50") == "huge@step-50"
    first = judged(config, "release", "tiny@step-100")
    assert first.decision == "INCONCLUSIVE"
    assert reasons(first)["gsm8k"] == "gsm8k: there is no checkpoint of tiny before tiny@step-100"
    with pytest.raises(ConfigError, match="gate 'others' judges huge, not tiny"):
        judged(config, "others", "tiny@final")


def test_a_trial_on_a_few_questions_is_not_the_best_so_far(config: Config) -> None:
    put(config, "tiny@step-100", FAIR)
    put(config, "tiny@step-150", [1.0] * 10)
    put(config, "tiny@step-200", GOOD)
    publish(config.data_root)
    assert judged(config, "best", "tiny@step-200").benchmarks[0].baseline == "tiny@step-100"


def test_verdicts_rest_on_the_same_questions(config: Config) -> None:
    put(config, "tiny@step-100", GOOD)
    put(config, "tiny@step-200", BAD)
    put(config, "tiny@step-300", BAD)
    publish(config.data_root)
    down, level = judged(config, "release", "tiny@step-200"), judged(config, "release", "tiny@step-300")
    assert (down.decision, level.decision) == ("NO-GO", "GO")
    assert down.benchmarks[0].difference == pytest.approx(-0.5)
    assert "without a comparable evaluation, and not required: mmlu (supporting)" in level.reasons


def test_why_there_is_no_number_is_told_with_what_to_do(config: Config) -> None:
    put(config, "tiny@step-100", GOOD)
    put(config, "tiny@step-200", GOOD, is_within_budget=False)
    publish(config.data_root)
    assert (
        "too many of its requests failed. Materialize responses/gsm8k for it again"
        in reasons(judged(config, "release", "tiny@step-200"))["gsm8k"]
    )
    assert (
        "tiny@step-200 has no number on mmlu: it was never asked. Materialize responses/mmlu and scores/mmlu"
        in reasons(judged(config, "release", "tiny@step-200"))["mmlu"]
    )
    put(config, "tiny@step-300", GOOD, minute=5, ask_version="2.0-bbbb")
    publish(config.data_root)
    assert (
        "tiny@step-100 has no number on gsm8k: it was graded on an older version only"
        in reasons(judged(config, "best", "tiny@step-300", baseline="tiny@step-100"))["gsm8k"]
    )


def test_numbers_of_weights_that_were_replaced_are_not_used(config: Config) -> None:
    put(config, "tiny@step-100", GOOD)
    put(config, "tiny@step-200", GOOD)
    put(config, "tiny@step-200", GOOD, "mmlu", minute=9, fingerprint="overwritten")
    publish(config.data_root)
    told = judged(config, "release", "tiny@step-200")
    assert told.decision == "INCONCLUSIVE"
    assert "was asked gsm8k before its weights were replaced" in reasons(told)["gsm8k"]


def due(config: Config, *, minutes: float = 2) -> list[tuple[str, str]]:
    publish(config.data_root)
    with closing(open_published(config.data_root)) as connection:
        return [(one.gate, one.model_key) for one in gates_due(connection, config.gates, MODELS, now=at(minutes))]


def test_a_checkpoint_is_due_once_what_is_required_is_there_and_again_when_it_changed(config: Config) -> None:
    put(config, "tiny@step-100", GOOD)
    put(config, "tiny@step-200", GOOD, "mmlu", minute=1)
    assert due(config) == [("release", "tiny@step-100"), ("best", "tiny@step-100")]
    # nothing more came for ten minutes: it is judged by what there is
    assert ("release", "tiny@step-200") in due(config, minutes=15)
    asked = evaluation("tiny@step-200", "gsm8k", recorded_at=at(2), n_samples=N)
    land(config.data_root, asked, FAIR, pairs=())
    assert len(due(config)) == 4
    land_verdicts(config, MODELS, "first", at(60))
    assert due(config) == []
    grade(config.data_root, asked, BAD, score_run="again", minute=30)
    assert due(config) == [("release", "tiny@step-200"), ("best", "tiny@step-200")]
    land_verdicts(config, MODELS, "second", at(61))
    assert due(config) == []
    rows = query(
        config.data_root,
        "SELECT model_key, verdict, tier, reason FROM gates WHERE gate = 'release' AND benchmark IN ('', 'gsm8k') ORDER BY ALL",
    )
    assert [(row["model_key"], row["verdict"]) for row in rows if row["tier"] is None] == [
        ("tiny@step-100", "INCONCLUSIVE"), ("tiny@step-200", "NO-GO"),
    ]  # fmt: skip
    assert query(config.data_root, "SELECT count(DISTINCT run_id) AS n FROM stg_gate_verdicts") == [{"n": 2}]


def test_what_older_rules_said_is_judged_again_once_and_stays(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(config.data_root / "dagster"))
    enter_home(config)
    for model in MODELS:
        put(config, model, GOOD)
    publish(config.data_root)
    land_verdicts(config, MODELS, "older", at(60))
    publish(config.data_root)
    resources: Any = {"warehouse": resources_of(config.path)["warehouse"]}
    cursor: str | None = None

    def requested() -> list[str]:
        nonlocal cursor
        with dg.build_sensor_context(instance=instance, resources=resources, cursor=cursor) as context:
            told: Any = gates_sensor(context)
            cursor = context.cursor
        return [one.partition_key for one in getattr(told, "run_requests", None) or []]

    with dg.DagsterInstance.get() as instance:
        add_models(instance, MODELS)
        assert requested() == []
        # nothing is published meanwhile: only the code is another
        monkeypatch.setattr("sensors.gates.JUDGING_VERSION", 99)
        monkeypatch.setattr("eval_pipelines.analysis.gating.JUDGING_VERSION", 99)
        assert sorted(requested()) == sorted([*MODELS, *MODELS])
        land_verdicts(config, MODELS, "newer", at(61))
        publish(config.data_root)
        assert requested() == []
    assert due(config) == []
    # a machine that was not upgraded yet does not take it back
    monkeypatch.setattr("eval_pipelines.analysis.gating.JUDGING_VERSION", JUDGING_VERSION)
    assert due(config) == []
    rows = query(
        config.data_root, "SELECT run_id, judging_version, count(*) AS n FROM stg_gate_verdicts GROUP BY ALL ORDER BY 2"
    )
    assert [tuple(row.values()) for row in rows] == [("older", JUDGING_VERSION, 10), ("newer", 99, 10)]
    assert query(config.data_root, "SELECT DISTINCT run_id FROM gates") == [{"run_id": "newer"}]


def test_a_verdict_from_before_rules_had_a_version_is_judged_again(config: Config) -> None:
    put(config, MODELS[0], GOOD)
    publish(config.data_root)
    land_verdicts(config, MODELS, "older", at(60))
    for path in (config.data_root / "landing/gate_verdicts").rglob("*.parquet"):
        table = pq.ParquetFile(path).read()
        pq.write_table(table.drop_columns(["judging_version"]), path)
    assert due(config) == [("release", MODELS[0]), ("best", MODELS[0])]
    land_verdicts(config, MODELS, "newer", at(61))
    assert due(config) == []


def test_a_gate_is_an_asset_check_with_reasons_that_the_sensor_asks_for(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(config.data_root / "dagster"))
    enter_home(config)
    put(config, "tiny@step-100", GOOD)
    put(config, "tiny@step-200", BAD)
    publish(config.data_root)
    with dg.DagsterInstance.get() as instance:
        add_models(instance, ["tiny@step-100", "tiny@step-200"])
        resources: Any = {"warehouse": resources_of(config.path)["warehouse"]}
        with dg.build_sensor_context(instance=instance, resources=resources) as context:
            told: Any = gates_sensor(context)
        [request] = [
            one for one in told.run_requests
            if one.partition_key == "tiny@step-200" and one.asset_selection == [dg.AssetKey(["gates", "release"])]
        ]  # fmt: skip
        result = dg.materialize(
            assets_of(config), selection=request.asset_selection, partition_key=request.partition_key, instance=instance,
            resources=resources_of(config.path),
        )  # fmt: skip
        [check] = result.get_asset_check_evaluations()
        assert (check.passed, check.severity, check.check_name) == (False, dg.AssetCheckSeverity.ERROR, "verdict")
        assert check.description == (
            "NO-GO for tiny@step-200: a limit is broken: gsm8k (critical); "
            "without a comparable evaluation, and not required: mmlu (supporting)"
        )
        assert str(check.metadata["reasons"].value).startswith(
            "release: **NO-GO** for tiny@step-200 against tiny@step-100. a "
        )
        assert "\n\n| benchmark | why |\n| --- | --- |\n| gsm8k | broken: -0.5000" in str(
            check.metadata["reasons"].value
        )
        assert [check.metadata[f"n_{one}"].value for one in ("breach", "within", "lacking")] == [1, 0, 1]
        publish(config.data_root)
        with dg.build_sensor_context(instance=instance, resources=resources) as context:
            again = gates_sensor(context)
        assert isinstance(again, dg.SensorResult)
        assert [one.asset_selection for one in again.run_requests or [] if one.partition_key == "tiny@step-200"] == [
            [dg.AssetKey(["gates", "best"])]
        ]


def test_the_command_line_has_an_exit_code_for_each_verdict(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    from click.testing import CliRunner

    from eval_pipelines.cli import main

    def run(*args: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["--config", str(config.path), "gate", *args])
        return done.exit_code, done.output

    code, text = run("--model", "tiny@step-100")
    assert (code, f"error: nothing is published at {config.data_root}/scores.duckdb yet. " in text) == (4, True)
    put(config, "tiny@step-100", GOOD)
    put(config, "tiny@step-200", GOOD)
    put(config, "tiny@step-300", BAD)
    publish(config.data_root)
    code, text = run("--model", "tiny@step-200", "--gate", "release")
    assert code == 0
    assert text.startswith("release: GO for tiny@step-200 against tiny@step-100. every limit is kept: gsm8k (critical)")
    assert run("--model", "tiny@step-300")[0] == 1
    assert run("--model", "tiny@step-100", "--gate", "release")[0] == 3
    assert run("--model", "tiny@step-300", "--gate", "relase") == (
        2, f"error: no gate is called 'relase'. Did you mean 'release'? Known: best, others, release. "
           f"To add it, declare it under gates in {config.path}.\n")  # fmt: skip
    code, text = run("--model", "tiny@step-9")
    assert code == 2
    assert text.endswith(
        "To add it, evaluate it: `eval-pipelines evaluate --model tiny@step-9 --benchmark gsm8k --benchmark mmlu`.\n"
    )
    code, text = run("--model", "tiny@step-300", "--baseline", "tiny@step-300", "--json")
    verdicts = json.loads(text)
    assert code == 0
    assert [(one["gate"], one["decision"], one["exit_code"]) for one in verdicts] == [
        ("release", "GO", 0),
        ("best", "GO", 0),
    ]
    assert verdicts[0]["benchmarks"][0]["policy"]["max_drop"] == 0.1
    assert "| gsm8k | critical | BROKEN |" in run("--model", "tiny@step-300", "--markdown")[1]


def test_a_failure_nobody_foresaw_is_no_no_go(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from eval_pipelines.analysis import gating
    from eval_pipelines.cli import main

    put(config, "tiny@step-100", GOOD)
    publish(config.data_root)

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr(gating, "judge_model", fail)
    done = CliRunner().invoke(main, ["--config", str(config.path), "gate", "--model", "tiny@step-100"])
    assert (done.exit_code, done.stdout) == (4, "")
    assert "ZeroDivisionError: nobody thought of this" in done.stderr
    assert done.stderr.endswith(
        "error: nothing could be judged, for no reason that was foreseen. Please report the above\n"
    )


@pytest.mark.parametrize("form", ["--json", "--markdown"])
def test_a_reader_that_stops_reading_changes_no_verdict(config: Config, form: str) -> None:
    put(config, "tiny@step-100", GOOD)
    put(config, "tiny@step-200", GOOD)
    publish(config.data_root)
    reading, writing = os.pipe()
    os.close(reading)
    command = [
        sys.executable,
        "-m",
        "eval_pipelines.cli",
        "--config",
        str(config.path),
        "gate",
        "--model",
        "tiny@step-200",
    ]
    done = subprocess.run([*command, form], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_questions_on_one_passage_count_as_one_wherever_two_models_are_compared(config: Config) -> None:
    from eval_pipelines.analysis import leaderboard
    from eval_pipelines.analysis.comparison import pairs
    from eval_pipelines.analysis.history import course
    from eval_pipelines.records import Sample
    from eval_pipelines.warehouse.landing import Landing

    passages = [
        Sample(
            sample_id=f"main/{i}", subtask="main", question="?", target="!", n_requests=1, cluster=f"passage {i // 100}"
        )
        for i in range(N)
    ]
    Landing(config.data_root).land_samples("gsm8k", "1.0-aaaa", passages)
    put(config, "tiny@step-100", GOOD)
    put(config, "tiny@step-200", BAD)
    publish(config.data_root)
    with closing(open_published(config.data_root)) as connection:
        [pair] = pairs(connection, "tiny@step-100", "tiny@step-200")
        history = course(connection, "tiny", "gsm8k")
    [contrast] = leaderboard.contrasts(config.data_root, leaderboard.rows(config.data_root))
    assert (pair.found.test, pair.found.n_clusters) == ("clustered_permutation", 2)
    assert (contrast.comparison.n_clusters, contrast.comparison.is_significant) == (2, False)
    assert history[1]["p_value"] == pair.found.p_value
    assert "gsm8k (critical)" in str(judged(config, "release", "tiny@step-200").reasons)
