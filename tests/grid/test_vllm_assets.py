"""A real vLLM through the assets. Opt-in: EVAL_PIPELINES_VLLM and EVAL_PIPELINES_VLLM_CHECKPOINT say where it is.

Both servers compute in float32 with the same numbers, so that what differs is the order of additions.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest

from eval_pipelines.embedded.rewrite import rewrite
from tests.grid.conftest import GSM8K, HELLASWAG, Project
from tests.installed import installed
from tests.serving.vllm_cpu.checkpoints import from_gguf

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
# questions of each benchmark: all of them of the first checkpoint, fewer of the second
N = {"a": {"gsm8k": 8, "hellaswag": 25}, "b": {"gsm8k": 5, "hellaswag": 5}}
LOGPROB_TOLERANCE = 0.02  # of a whole continuation; single tokens differ by some 1e-4
KEEP_WARM_S = 45  # publishing is in it, on whatever machine
GONE_WITHIN_S = KEEP_WARM_S + 30
CPU = {
    "backend": "vllm", "gpus": 0, "dtype": "float32", "max_model_len": 1024, "enforce_eager": True,
    "kv_cache_memory_bytes": 1 << 28, "max_num_seqs": 8, "max_in_flight": 8, "keep_warm_s": KEEP_WARM_S,
    "ready_timeout_s": 400,
    "env": {
        "TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "HF_HUB_OFFLINE": "1",
    },
}  # fmt: skip


@dataclass
class Evaluated:
    """What came of evaluating each checkpoint on each server."""

    project: Project
    told: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    # server processes that ran on a checkpoint: right after its evaluation, and long after
    alive: dict[str, set[int]] = field(default_factory=dict)
    left: dict[str, set[int]] = field(default_factory=dict)

    def rows(self, model: str, benchmark: str, table: str, columns: str) -> list[tuple]:
        with duckdb.connect(str(self.project.data / "scores.duckdb"), read_only=True) as database:
            return database.execute(
                f"SELECT {columns} FROM {table} WHERE model_key = ? AND benchmark = ? ORDER BY ALL", [model, benchmark]
            ).fetchall()


def servers_on(weights: Path) -> set[int]:
    found = set()
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if "serve" in line and any(part.startswith(str(weights)) for part in line):
            found.add(process.pid)
    return found


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, task_index: Path, small_model: Path) -> Evaluated:
    """Two checkpoints on vLLM, the first also on the embedded server, by the command that runs the assets."""
    executable, like = (str(installed(name)) for name in ("EVAL_PIPELINES_VLLM", "EVAL_PIPELINES_VLLM_CHECKPOINT"))
    folder = tmp_path_factory.mktemp("vllm")
    models = {}
    for step, noise in (("a", 0.0), ("b", 0.06)):
        gguf = folder / f"{step}.gguf"
        rewrite(small_model, gguf, noise=noise, seed=1)
        weights = from_gguf(gguf, Path(like), folder / f"hf-{step}")
        models[f"hf@{step}"] = {"deployment": "vllm", "weights": str(weights)}
    models["gguf@a"] = {"deployment": "embedded", "weights": str(folder / "a.gguf")}
    content = {
        "data_root": "data",
        "deployments": {
            "vllm": {**CPU, "executable": executable},
            "embedded": {"backend": "embedded", "keep_warm_s": 0, "max_context": 1024, "max_in_flight": 8},
        },
        "models": models,
        "benchmarks": {
            "gsm8k": GSM8K | {"limit": N["a"]["gsm8k"], "generation": {"max_tokens": 96}},
            "hellaswag": HELLASWAG | {"limit": N["a"]["hellaswag"]},
        },
        "suites": {"both": ["gsm8k", "hellaswag"]},
    }
    project = Project(folder, task_index, json.loads(json.dumps(content))).write()
    record = Evaluated(project)
    try:
        for model in ("hf@a", "hf@b", "gguf@a"):
            begun = time.monotonic()
            record.told[model] = project.evaluate("both", model=model, limit=5 if model.endswith("b") else None)
            print(f"\n{model}: {time.monotonic() - begun:.1f} s")
            record.alive[model] = servers_on(Path(models[model]["weights"]))
        until = time.monotonic() + GONE_WITHIN_S
        while servers_on(folder) and time.monotonic() < until:
            time.sleep(0.2)
        record.left = {model: servers_on(Path(models[model]["weights"])) for model in models}
    finally:
        project.run("serving", "stop")
    return record


def test_every_question_is_answered_and_scored_on_vllm(evaluated) -> None:
    for model, told in evaluated.told.items():
        assert told["returncode"] == 0, (model, told["stderr"])
        n_asked = N[model[-1]]
        for metric in (("gsm8k", "exact_match", "flexible-extract"), ("hellaswag", "acc_norm", "none")):
            found = told["metrics"][metric]
            assert (found["n"], found["coverage"]) == (n_asked[metric[0]], 1.0), model


def test_vllm_and_the_embedded_server_say_the_same_of_the_same_weights(evaluated) -> None:
    texts = [evaluated.rows(f"{family}@a", "gsm8k", "responses", "sample_id, text") for family in ("hf", "gguf")]
    assert texts[0] == texts[1]
    assert len({text for _, text in texts[0]}) == N["a"]["gsm8k"]
    logprobs = [
        {(sample, part): value for sample, part, value in rows}
        for rows in (
            evaluated.rows(f"{family}@a", "hellaswag", "responses", "sample_id, part, logprob")
            for family in ("hf", "gguf")
        )
    ]
    print("largest difference", max(abs(logprobs[0][one] - logprobs[1][one]) for one in logprobs[0]))
    assert logprobs[0] == pytest.approx(logprobs[1], abs=LOGPROB_TOLERANCE)
    assert len(logprobs[0]) == 4 * N["a"]["hellaswag"]


def test_each_question_gets_the_same_score_on_both_servers(evaluated) -> None:
    for benchmark in ("gsm8k", "hellaswag"):
        on_vllm, embedded = (
            evaluated.rows(f"{family}@a", benchmark, "scores", "sample_id, metric, filter, value")
            for family in ("hf", "gguf")
        )
        assert on_vllm == embedded
        assert len(on_vllm) == 2 * N["a"][benchmark]
    assert {value for *_, value in on_vllm} == {0.0, 1.0}, "all right or all wrong would prove nothing"


def test_two_checkpoints_get_numbers_of_their_own(evaluated) -> None:
    one, other = (
        {(sample, part): value for sample, part, value in rows}
        for rows in (
            evaluated.rows(f"hf@{step}", "hellaswag", "responses", "sample_id, part, logprob") for step in "ab"
        )
    )
    apart = [abs(one[question] - other[question]) for question in other]
    assert min(apart) > 0
    assert max(apart) > 50 * LOGPROB_TOLERANCE


def test_a_server_outlives_its_evaluation_by_keep_warm_s_and_no_longer(evaluated) -> None:
    for model in ("hf@a", "hf@b"):
        assert len(evaluated.alive[model]) == 1, model
        assert evaluated.left[model] == set()
