"""`eval-pipelines benchmarks`: found, shown, written and checked on the terminal."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eval_pipelines.benchmarks.task_index import lm_eval_index
from eval_pipelines.cli import main

EVALS = """# a comment that stays
deployments:
  local: {backend: hosted, base_url: "http://127.0.0.1:1/v1"}
benchmarks:
  # and this one
  sums: {task: gsm8k, num_fewshot: 0, data: {folder: ., splits: {test: sums.jsonl}}}
suites:
  all: [sums]
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task-index")
    lm_eval_index(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path, index: Path) -> Callable[..., Result]:
    """Run a command in a project of its own."""
    (tmp_path / "evals.yaml").write_text(EVALS)
    (tmp_path / "sums.jsonl").write_text('{"question": "1 + 1?", "answer": "2\\n#### 2"}\n')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cache").symlink_to(index)

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(main, ["--config", str(tmp_path / "evals.yaml"), "benchmarks", *words])

    return invoke


def test_what_is_declared_and_what_is_ones_own_is_listed(run) -> None:
    run("new", "mine")
    own = next(one for one in json.loads(run("ls", "--format", "json").output) if one.get("name") == "mine")
    assert (own["asked"], own["metrics"], own["data"]) == ("text", ["includes", "exact_match"], "mine.jsonl")
    done = run("ls")
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.output.splitlines() if line.startswith(("sums", "mine"))] == [
        "mine",
        "sums",
        "mine",
    ]


def test_the_nearest_names_are_found_first(run) -> None:
    done = run("search", "gsm8k", "cot")
    assert done.output.splitlines()[2].split()[0] == "gsm8k_cot"
    found = json.loads(run("search", "humaneval", "--format", "json").output)
    assert {one["name"] for one in found} >= {"humaneval", "humaneval_plus"}
    assert next(one for one in found if one["name"] == "humaneval_plus")["refused"]


def test_a_tag_lists_its_tasks(run) -> None:
    found = json.loads(run("ls", "--tag", "ai2_arc", "--format", "json").output)
    assert [one["name"] for one in found] == ["arc_challenge", "arc_easy"]


def test_a_group_is_shown_without_its_data(run) -> None:
    told = json.loads(run("show", "mmlu", "--json").output)
    assert (len(told["subtasks"]), told["aggregated"]) == (57, ["acc (weighted by size)"])
    assert "ask_version" not in told


def test_a_benchmark_with_its_data_at_hand_shows_its_first_prompt(run) -> None:
    told = json.loads(run("show", "sums", "--json").output)
    assert (told["first prompt"], told["samples"]) == ("Question: 1 + 1?\nAnswer:", 1)
    assert told["filters"] == ["strict-match", "flexible-extract"]
    assert told["needs"] == ["completions"]


def test_a_new_benchmark_is_written_declared_and_sound(run, tmp_path) -> None:
    done = run("new", "capitals", "--kind", "choice")
    assert done.exit_code == 0, done.output
    changed = (tmp_path / "evals.yaml").read_text()
    assert changed.replace("  capitals: {task: capitals}\n", "") == EVALS
    assert run("validate", "capitals").output == "capitals: 4 samples, its gold answers score 1.0\n"


def test_a_new_benchmark_overwrites_nothing(run) -> None:
    run("new", "capitals", "--no-add")
    done = run("new", "capitals")
    assert (done.exit_code, "is there already" in done.output) == (2, True)


def test_a_benchmark_that_is_not_sound_ends_with_1_and_says_what_to_do(run, tmp_path) -> None:
    run("new", "capitals")
    path = tmp_path / "benchmarks" / "capitals.yaml"
    path.write_text(path.read_text().replace("first_line", "number"))
    done = run("validate", "capitals")
    assert done.exit_code == 1
    assert "error  gold: 4 of 4 gold answers do not score 1.0" in done.output
    assert "mend `extract`, `metric` or `target`" in done.output


def test_a_benchmark_whose_data_cannot_be_read_is_shown_with_the_reason(run, tmp_path) -> None:
    (tmp_path / "sums.jsonl").unlink()
    told = json.loads(run("show", "sums", "--json").output)
    assert (told["filters"], "there is no file" in told["samples"]) == (["strict-match", "flexible-extract"], True)
    assert run("show", "sums", "--load").exit_code == 2


def test_a_name_that_nothing_bears_is_told_its_neighbour(run) -> None:
    done = run("show", "gms8k")
    assert (done.exit_code, "Did you mean 'gsm8k'?" in done.output) == (2, True)
