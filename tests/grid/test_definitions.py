"""The code location: cheap to load, the grid it offers, one server for one run, SQL tests as checks."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from assets.marts import marts_assets
from dbt_like_sql import load as load_sql
from eval_pipelines.definitions import build, resources_of
from resources.warehouse import WarehouseResource

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
SERVER = ROOT / "tests" / "faulty_server.py"
HEAVY = ("lm_eval", "datasets", "transformers", "torch", "openvino", "openvino_genai", "scipy", "pandas", "pyarrow")
HEAVY = (*HEAVY, "httpx", "pyreqwest")
N_TRIES = 3

LOAD = """
import json, sys, time
import dagster
from pathlib import Path
before, started = set(sys.modules), time.process_time()
from eval_pipelines.definitions import build
repository = build(Path(sys.argv[1])).get_repository_def()
print(json.dumps([time.process_time() - started, sorted({name.split('.')[0] for name in set(sys.modules) - before})]))
"""


@pytest.fixture(scope="module")
def loads() -> list[tuple[float, list[str]]]:
    """CPU seconds beyond `import dagster`, and the packages imported, of some fresh processes."""
    command = [sys.executable, "-c", LOAD, str(ROOT / "evals.yaml")]
    done = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True) for _ in range(N_TRIES)]
    return [tuple(json.loads(one.stdout)) for one in done]


def test_loading_the_definitions_takes_less_than_two_seconds_of_cpu_beyond_dagster(loads) -> None:
    assert min(seconds for seconds, _ in loads) < 2.0


def test_loading_the_definitions_imports_no_benchmark_server_or_table_library(loads) -> None:
    assert [name for name in loads[0][1] if name in HEAVY] == []


@pytest.fixture
def grid(project) -> dg.Definitions:
    return build(project.config)


@pytest.mark.parametrize("kind", ["responses", "scores"])
def test_the_grid_has_an_asset_for_each_benchmark_partitioned_by_model(grid, kind) -> None:
    graph = grid.resolve_asset_graph()
    found = {
        key.path[1]: graph.get(key).partitions_def for key in graph.materializable_asset_keys if key.path[0] == kind
    }
    assert {name: part.name for name, part in found.items()} == {"gsm8k": "models", "hellaswag": "models"}


def test_questions_are_the_same_for_every_model(grid) -> None:
    graph = grid.resolve_asset_graph()
    found = {
        key.path[1]: graph.get(key).partitions_def
        for key in graph.materializable_asset_keys
        if key.path[0] == "samples"
    }
    assert found == {"gsm8k": None, "hellaswag": None}


def test_each_table_and_each_sql_test_is_in_the_graph(grid) -> None:
    graph, sql = grid.resolve_asset_graph(), load_sql()
    keys = {key.path[-1] for key in graph.get_all_asset_keys() if key.path[0] in ("staging", "marts")}
    assert keys == {model.name for model in sql.models}
    assert {key.name for key in graph.asset_check_keys} == {test.name for test in sql.tests}


def code_versions(path: Path) -> dict[str, str | None]:
    graph = build(path).resolve_asset_graph()
    return {key.to_user_string(): graph.get(key).code_version for key in graph.get_all_asset_keys()}


def test_a_bumped_benchmark_marks_its_own_cells_only(project) -> None:
    before = code_versions(project.config)
    project.content["benchmarks"]["gsm8k"]["version"] = "2"
    after = code_versions(project.write().config)
    assert {key for key in after if after[key] != before[key]} == {"samples/gsm8k", "responses/gsm8k", "scores/gsm8k"}


def test_dagster_accepts_the_workspace_file(tmp_path) -> None:
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"]
    env = {"PATH": "/usr/bin:/bin", "DAGSTER_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_run_of_all_benchmarks_starts_the_server_once_and_asks_each_cell(project) -> None:
    starts = project.folder / "starts"
    script = project.folder / "server.sh"
    script.write_text(f'#!/bin/sh\necho started >> {starts}\nexec {sys.executable} {SERVER} "$@"\n')
    script.chmod(0o755)
    project.content["deployments"]["local"] = {
        "backend": "command",
        "argv": [str(script), "--port", "{port}", "--model", "{model_key}"],
        "keep_warm_s": 0,  # grading goes on between the benchmarks: the run itself holds the server
    }
    (project.folder / "weights").write_bytes(b"weights")
    project.content["models"]["local@a"] = {"deployment": "local", "weights": "weights"}
    told = project.write().evaluate("both", model="local@a", limit=5)
    n_asked = {name: metric["n_asked"] for (name, *_), metric in told["metrics"].items()}
    assert (starts.read_text().splitlines(), n_asked, told["errors"]) == (["started"], {"gsm8k": 5, "hellaswag": 5}, [])


# SQL tests as asset checks


@pytest.fixture
def publish_with(project) -> Iterator[Callable[[str], dg.ExecuteInProcessResult]]:
    """Publish with the project's SQL models and one more test."""

    def publish(sql: str) -> dg.ExecuteInProcessResult:
        folder = project.folder / "sql"
        for path in (ROOT / "dbt_like_sql").glob("*/*.sql"):
            (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
            (folder / path.parent.name / path.name).write_text(path.read_text())
        (folder / "tests" / "planted.sql").write_text(sql)
        models = load_sql(folder)

        class Planted(WarehouseResource):
            def publish(self):
                from eval_pipelines.warehouse.publish import publish as publish_now

                return publish_now(self.config.data_root, models=models)

        resources = {**resources_of(project.config), "warehouse": Planted(config_path=str(project.config))}
        return dg.materialize(
            [marts_assets(models, ["gsm8k", "hellaswag"])],
            resources=resources,
            instance=instance,
            raise_on_error=False,
        )

    with dg.DagsterInstance.ephemeral() as instance:
        yield publish


def planted(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (found,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "planted"]
    return found


def sql_test(select: str, *settings: str) -> str:
    head = ["-- planted: nothing may be planted here.", "--", *(f"-- {setting}" for setting in settings)]
    return "\n".join([*head, select, ""])


def test_a_violated_sql_test_is_a_failed_check_that_shows_the_rows(publish_with) -> None:
    found = planted(publish_with(sql_test("SELECT 'seven' AS culprit", "test: leaderboard")))
    assert (found.passed, "seven" in str(found.metadata["violations"].value)) == (False, True)


def test_a_sql_test_that_finds_nothing_is_a_passed_check(publish_with) -> None:
    assert planted(publish_with(sql_test("SELECT 1 AS culprit WHERE false", "test: leaderboard"))).passed


def test_a_violated_sql_test_of_severity_warn_only_warns(publish_with) -> None:
    found = planted(publish_with(sql_test("SELECT 1 AS culprit", "test: leaderboard", "severity: warn")))
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_a_sql_test_of_a_landed_table_is_a_check_too(publish_with) -> None:
    found = planted(publish_with(sql_test("SELECT 1 AS culprit", "test: metrics")))
    assert not found.passed


def test_a_violated_blocking_test_fails_the_step_with_our_message_first(publish_with) -> None:
    result = publish_with(sql_test("SELECT 1 AS culprit", "test: leaderboard", "severity: block"))
    (failure,) = [event.step_failure_data for event in result.filter_events(lambda event: event.is_step_failure)]
    assert failure.user_failure_data.description.startswith("nothing was published: ")


EVERYTHING, GROUP = dg.AssetSelection.all(), dg.AssetSelection.groups("g")


@pytest.mark.parametrize(
    ("text", "selection"),
    [
        ('group:g and tag:"t"=v', GROUP & dg.AssetSelection.tag("t", "v")),
        ("1+group:g+2", GROUP.upstream(1) | GROUP.downstream(2)),
        ("not sinks(*)", EVERYTHING - EVERYTHING.sinks()),
    ],
)
def test_dagster_reads_selections_with_the_release_of_antlr_that_formulas_need(text, selection) -> None:
    # its text parser is made for a later one: if that no longer goes, only keys and tags are understood
    assert dg.AssetSelection.from_string(text) == selection
