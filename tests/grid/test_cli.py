"""`eval-pipelines` on the command line: what it prints, for people and for pipes."""

import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import psutil
import pytest
import yaml
from click.testing import CliRunner

from eval_pipelines import plugins
from eval_pipelines.cli import main
from eval_pipelines.config import Config, load_config
from eval_pipelines.home import enter_home
from eval_pipelines.serving.reconcile import rooms
from eval_pipelines.serving.room import Hold
from eval_pipelines.warehouse.read import query

ROOT = Path(__file__).parent.parent.parent
SERVER = ROOT / "tests" / "faulty_server.py"


def run(project, *args: str) -> Any:
    """A command that starts nothing, in this process."""
    return CliRunner().invoke(main, ["--config", str(project.config), *args], catch_exceptions=False)


def commands(group: click.Group = main, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command and group, by the words that call it."""
    found = [above]
    for name, command in group.commands.items():
        deeper = commands(command, (*above, name)) if isinstance(command, click.Group) else [(*above, name)]
        found += deeper
    return found


def command_at(words: tuple[str, ...]) -> click.Command:
    found: click.Command = main
    for word in words:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_says_what_it_does(words) -> None:
    assert len((command_at(words).help or "").strip()) > 10


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_shows_its_help(words) -> None:
    told = CliRunner().invoke(main, [*words, "--help"])
    assert (told.exit_code, "Usage:" in told.stdout) == (0, True)


def test_a_relative_dagster_home_is_made_absolute(project, monkeypatch) -> None:
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("EVALS_CONFIG", "")
    monkeypatch.setenv("DAGSTER_HOME", "here")
    enter_home(load_config(project.config))
    assert os.environ["DAGSTER_HOME"] == str(project.folder / "here")


# config


def test_check_prints_every_name_it_understood(project) -> None:
    told = run(project, "config", "check").stdout
    for name in ("mock: hosted", "mock@a: hosted on mock", "gsm8k: task gsm8k", "both: gsm8k, hellaswag"):
        assert name in told


def test_check_prints_prices_and_budgets(project) -> None:
    project.content["prices"] = {"per_million_tokens": {"mo*": {"prompt": 0.4, "cached_prompt": 0.1, "completion": 2}}}
    project.content["deployments"]["mock"] |= {"daily_tokens": 5000, "daily_cost": 2.5}
    told = run(project.write(), "config", "check").stdout
    assert "mock: hosted, at most 16 in flight, 5,000 tokens a day, 2.5 USD a day\n" in told
    assert "price        mo*: prompt 0.4 (cached 0.1), completion 2 USD per million tokens\n" in told


def test_probe_tells_what_an_endpoint_can_do(project, faulty) -> None:
    faulty.set(start=None, lacks=["tools"])
    told = run(project, "probe", "mock@a").stdout
    assert "chat            yes\n" in told
    assert "tools           no   the reply calls no tool\n" in told
    assert json.loads(run(project, "probe", "mock@a", "--json").stdout)["start_logprobs"].startswith("the first token")


def test_check_accepts_the_committed_example() -> None:
    told = CliRunner().invoke(main, ["--config", str(ROOT / "evals.yaml"), "config", "check"])
    assert (told.exit_code, "watched      " in told.stdout) == (0, True)


def test_the_schema_is_json_that_names_every_section_of_the_file(project) -> None:
    schema = json.loads(run(project, "config", "schema").stdout)
    sections = set(Config.model_fields) - {"path", "folder"}
    assert (set(schema["properties"]), schema["additionalProperties"]) == (sections, False)


def test_the_schema_offers_the_options_of_every_backend(project) -> None:
    schema = json.loads(run(project, "config", "schema").stdout)
    kinds = schema["properties"]["deployments"]["additionalProperties"]["oneOf"]
    assert [kind["properties"]["backend"]["const"] for kind in kinds] == plugins.names("serving.backends")


def violations(schema: dict[str, Any], value: Any, top: dict[str, Any], at: str = "") -> list[str]:
    """Where a value does not fit a JSON schema; the keywords that ours uses."""
    if "$ref" in schema:
        return violations(top["$defs"][schema["$ref"].rsplit("/", 1)[1]], value, top, at)
    for word, n_wanted in (("oneOf", 1), ("anyOf", None)):
        if word in schema:
            n_fitting = sum(not violations(one, value, top, at) for one in schema[word])
            if n_fitting == 0 or (n_wanted and n_fitting != n_wanted):
                return [f"{at}: fits {n_fitting} of {word}"]
    types = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}
    wanted = schema.get("type", [])
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if wanted and not any(isinstance(value, types.get(one, object)) for one in wanted):
        return [f"{at}: {value!r} is no {wanted}"]
    found = [f"{at}: {value!r} is not {schema['const']!r}"] if "const" in schema and value != schema["const"] else []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: {value!r} is none of {schema['enum']}")
    if isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
        found += [f"{at}: lacks {name}" for name in schema.get("required", []) if name not in value]
        for name, inner in value.items():
            if name in known or isinstance(other, dict):
                found += violations(known.get(name, other), inner, top, f"{at}.{name}")
            elif other is False:
                found.append(f"{at}: unknown key {name}")
    if isinstance(value, list) and "items" in schema:
        found += [one for i, inner in enumerate(value) for one in violations(schema["items"], inner, top, f"{at}[{i}]")]
    return found


@pytest.fixture
def schema(project) -> dict[str, Any]:
    return json.loads(run(project, "config", "schema").stdout)


def test_the_committed_example_fits_the_schema(schema) -> None:
    assert violations(schema, yaml.safe_load((ROOT / "evals.yaml").read_text()), schema) == []


def test_a_misspelt_key_does_not_fit_the_schema(schema) -> None:
    content = yaml.safe_load((ROOT / "evals.yaml").read_text())
    content["benchmarks"]["gsm8k"]["protocoll"] = content["benchmarks"]["gsm8k"].pop("protocol")
    assert violations(schema, content, schema) == [".benchmarks.gsm8k: unknown key protocoll"]


# numbers

ESCAPE = re.compile(r"\x1b\[")


@pytest.fixture
def evaluate(project) -> Callable[..., Any]:
    """`eval-pipelines evaluate` on the project: four samples of GSM8K."""

    def evaluate(*options: str, model: str = "mock@a") -> Any:
        return project.run("evaluate", "--model", model, "--benchmark", "gsm8k", "--limit", "4", *options)

    return evaluate


@pytest.mark.slow
def test_evaluate_on_a_pipe_prints_a_table_with_coverage_and_no_colour_codes(project) -> None:
    done = project.run("evaluate", "--model", "mock@a", "--benchmark", "gsm8k", "--limit", "4")
    assert (done.returncode, ESCAPE.findall(done.stdout + done.stderr)) == (0, [])
    (row,) = [line for line in done.stdout.splitlines() if "exact_match,flexible-extract" in line]
    assert re.search(r"gsm8k .* exact_match,flexible-extract \* .* 0\.\d{3} \(.* to .*\) .* 4/4 .* 100\.0%", row)


@pytest.mark.slow
def test_evaluate_as_json_prints_json_only(project, evaluate) -> None:
    told = json.loads(evaluate("--json").stdout)
    assert {(m["metric"], m["filter"], m["n"], m["coverage"]) for m in told["metrics"]} == {
        ("exact_match", "strict-match", 4, 1.0),
        ("exact_match", "flexible-extract", 4, 1.0),
        ("unparseable_share", "strict-match", 4, 1.0),
        ("unparseable_share", "flexible-extract", 4, 1.0),
        ("truncated_share", "none", 4, 1.0),
        ("refused_share", "none", 4, 1.0),
    }


@pytest.mark.slow
def test_evaluate_says_who_asked(project, evaluate, monkeypatch) -> None:
    monkeypatch.setenv("USER", "ada")
    evaluate()
    asked_by = query(project.data, "SELECT asked_by FROM stg_evaluations")[0]["asked_by"]
    assert asked_by == "eval_pipelines/started_by: ada on the command line"


@pytest.mark.slow
def test_the_leaderboard_shows_coverage_and_which_differences_are_chance(project, evaluate) -> None:
    project.content["models"]["mock@b"] = {"deployment": "mock"}
    project.write()
    evaluate()
    evaluate(model="mock@b")
    told = run(project, "leaderboard")
    assert (told.exit_code, ESCAPE.findall(told.stdout)) == (0, [])
    assert len(re.findall(r"mock@[ab] .* 4/4 .* 100\.0%", told.stdout)) == 2
    assert "gsm8k: mock@a and mock@b agree on all 4 questions" in told.stdout


@pytest.mark.slow
def test_publish_says_what_it_added_and_that_nothing_is_left(project, evaluate) -> None:
    evaluate()
    (project.data / "scores.duckdb").unlink()
    first, second = run(project, "publish"), run(project, "publish")
    assert re.search(r"scores\.duckdb: generation 1, [1-9]\d* new files", first.stdout)
    assert "generation 2, 0 new files" in second.stdout


# servers


@pytest.fixture
def warm(project, evaluate) -> Iterator[None]:
    """A server that stays warm after an evaluation."""
    (project.folder / "weights").write_bytes(b"weights")
    argv = [sys.executable, str(SERVER), "--port", "{port}", "--model", "{model_key}"]
    metrics = {"metrics_path": "/metrics", "metric_names": {"n_running": "mock_running"}}
    project.content["machine"] = {"gpus": [3, 5], "folder": "machine"}
    project.content["deployments"]["local"] = {
        "backend": "command", "argv": argv, "keep_warm_s": 120, "gpus": 2, **metrics
    }  # fmt: skip
    project.content["models"]["local@a"] = {"deployment": "local", "weights": "weights"}
    project.write()
    evaluate(model="local@a")
    yield
    run(project, "serving", "stop")


def pid_of(told: str) -> int:
    return int(
        re.search(
            r"^local@a  local  up 0:00:\d\d\n  http://127\.0\.0\.1:\d+/v1  pid (\d+)  GPU 3, 5  0 requests running",
            told,
        )[1]
    )


@pytest.mark.slow
def test_ps_lists_a_warm_server_with_its_address_and_process(project, warm) -> None:
    server = psutil.Process(pid_of(run(project, "serving", "ps").stdout))
    assert str(SERVER) in server.cmdline()


@pytest.mark.slow
def test_ps_tells_who_uses_a_server(project, warm) -> None:
    assert "  used by nobody: stops after 120 s\n" in run(project, "serving", "ps").stdout
    [room] = rooms(project.data / "leases")
    holder = Hold(room, "run 1234, gsm8k")
    assert holder.try_acquire()
    assert f"  used by run 1234, gsm8k (pid {os.getpid()}, since " in run(project, "serving", "ps").stdout
    [told] = json.loads(run(project, "serving", "ps", "--json").stdout)
    assert [one["who"] for one in told["holders"]] == ["run 1234, gsm8k"]
    holder.release()


@pytest.mark.slow
def test_stop_of_another_model_names_those_that_run(project, warm) -> None:
    told = run(project, "serving", "stop", "mock@a")
    assert (told.exit_code, "no server runs for 'mock@a'. Servers run for: local@a." in told.stderr) == (2, True)


@pytest.mark.slow
def test_stop_ends_a_warm_server(project, warm) -> None:
    server = psutil.Process(pid_of(run(project, "serving", "ps").stdout))
    run(project, "serving", "stop")
    deadline = time.monotonic() + 30
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.1)
    assert run(project, "serving", "ps").stdout == "no server runs\n"


def test_ps_says_so_when_no_server_runs(project) -> None:
    assert run(project, "serving", "ps").stdout == "no server runs\n"


def test_stop_says_so_when_no_server_runs(project) -> None:
    assert run(project, "serving", "stop").stdout == "no server runs\n"


def test_spent_says_so_without_a_budget_and_before_anything_was_asked(project) -> None:
    assert "no deployment has a budget: set daily_tokens" in run(project, "spent").stdout
    project.content["deployments"]["mock"]["daily_tokens"] = 100
    project.write()
    assert run(project, "spent").stdout == "mock: nothing spent today\n"


def test_ui_on_a_taken_port_is_refused_before_anything_is_started(project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        told = CliRunner().invoke(main, ["--config", str(project.config), "ui", "--port", port])
    assert (told.exit_code, f"127.0.0.1:{port} cannot be used" in told.stderr) == (2, True)


@pytest.mark.slow
def test_evaluate_shows_the_cell_also_when_another_run_graded_it_again_at_the_same_time(project, evaluate) -> None:
    evaluate()
    with (
        project.start("evaluate", "--model", "mock@a", "--benchmark", "gsm8k", "--limit", "4", "--json") as one,
        project.start("evaluate", "--model", "mock@a", "--benchmark", "gsm8k", "--limit", "4", "--json") as other,
    ):
        told = [json.loads(process.communicate(timeout=120)[0]) for process in (one, other)]
    assert [len(each["metrics"]) for each in told] == [6, 6]
