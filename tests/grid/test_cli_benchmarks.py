"""`eval-pipelines benchmarks`: found, shown, written and checked on the terminal."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eval_pipelines.benchmarks.task_index import lm_eval_index
from eval_pipelines.cli import main

pytestmark = pytest.mark.slow

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


def test_it_is_told_whose_file_a_task_comes_from(run, tmp_path) -> None:
    check = ["--config", str(tmp_path / "evals.yaml"), "config", "check"]
    assert "sums: task gsm8k (lm-eval), completions" in CliRunner().invoke(main, check).output
    (tmp_path / "benchmarks").mkdir()
    own = tmp_path / "benchmarks" / "gsm8k.yaml"
    own.write_text('data: ../sums.jsonl\nprompt: "{{question}}"\ntarget: "{{answer}}"\n')
    told = CliRunner().invoke(main, check).output
    assert "sums: task gsm8k (benchmarks/gsm8k.yaml, in place of the one in lm-eval), completions" in told
    assert "note" not in told
    declared, *others = json.loads(run("ls", "--format", "json").output)
    assert declared["from"] == "benchmarks/gsm8k.yaml, in place of the one in lm-eval"
    assert next(one for one in others if one["name"] == "gsm8k")["replaces"] == "lm-eval"
    shown = json.loads(run("show", "gsm8k", "--json", "--no-load").output)
    assert (shown["from"], shown["in place of"]) == (f"{tmp_path}/benchmarks: {own}", "the one in lm-eval")

    own.rename(tmp_path / "gsm8k.yaml")
    told = CliRunner().invoke(main, check).output
    assert f"note: {tmp_path}/gsm8k.yaml is a benchmark 'gsm8k', too, and is not used" in told
    assert f"sums: {tmp_path}/gsm8k.yaml is a benchmark 'gsm8k', too" in run("ls").output
    assert "gsm8k.yaml is a benchmark" in json.loads(run("show", "sums", "--json").output)["note"]


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
    done = run("new", "cities", "--kind", "choice")
    assert done.exit_code == 0, done.output
    changed = (tmp_path / "evals.yaml").read_text()
    assert changed.replace("  cities: {task: cities}\n", "") == EVALS
    assert run("validate", "cities").output == "cities: 4 samples, its gold answers score 1.0\n"


def test_a_new_benchmark_overwrites_nothing(run) -> None:
    run("new", "cities", "--no-add")
    done = run("new", "cities")
    assert (done.exit_code, "is there already" in done.output) == (2, True)


@pytest.mark.parametrize("name", ["hellaswag", "mmlu"])
def test_a_new_benchmark_does_not_take_the_name_that_others_name(run, tmp_path, name) -> None:
    done = run("new", name)
    assert (done.exit_code, f"a benchmark '{name}' is there already" in done.output) == (2, True)
    assert not (tmp_path / "benchmarks").exists()


def test_a_benchmark_in_a_folder_of_its_own_is_shown_and_checked_where_it_is_evaluated(run, tmp_path) -> None:
    run("new", "mine")
    (tmp_path / "benchmarks").rename(tmp_path / "elsewhere")
    run("new", "another")
    entry = "  sums:"
    evals = (tmp_path / "evals.yaml").read_text().replace("  mine: {task: mine, protocol: chat}\n", "")
    (tmp_path / "evals.yaml").write_text(evals.replace(entry, "  far: {task: mine, include: elsewhere}\n" + entry))
    assert run("validate", "far").output == "far: 4 samples, its gold answers score 1.0\n"
    assert json.loads(run("show", "far", "--json").output)["from"].startswith(str(tmp_path / "elsewhere"))


def test_gold_answers_that_were_not_graded_are_not_said_to_score(run, tmp_path) -> None:
    run("new", "cities")
    path = tmp_path / "benchmarks" / "cities.yaml"
    kept = path.read_text().partition("metric:")[0]
    path.write_text(kept.replace('target: "{{answer}}"', "metric: judged"))
    done = run("validate", "cities")
    assert (done.exit_code, done.output.splitlines()[-1]) == (
        0, "cities: 4 samples, no errors; see the note on its gold answers",
    )  # fmt: skip


def test_a_benchmark_that_is_not_sound_ends_with_1_and_says_what_to_do(run, tmp_path) -> None:
    run("new", "cities")
    path = tmp_path / "benchmarks" / "cities.yaml"
    path.write_text(path.read_text().replace("first_line", "number"))
    done = run("validate", "cities")
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
