"""What `config check` finds in a benchmark's entry without lm-eval and without reading data."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.benchmarks.checking import mistakes
from eval_pipelines.benchmarks.harness import load
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.errors import ConfigError

DATA = {"package": "json", "splits": {"test": "gone.jsonl"}}


@pytest.fixture
def found(index: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def check(**fields: Any) -> list[str]:
        return mistakes("mine", BenchmarkSpec.model_validate(fields), cache=index)

    return check


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"task": "gms8k"}, r"benchmarks.mine.task: no lm-eval task is called 'gms8k'. Did you mean 'gsm8k'"),
        ({"task": "humaneval_plus"}, r"humaneval_plus is not asked: its scorer runs what the model wrote outside"),
        ({"task": "mmmu_val"}, r"is not asked: it shows pictures or plays sounds"),
        ({"task": "gsm8k", "data": DATA}, r"benchmarks.mine.data: there is no file .*gone.jsonl"),
        ({"task": "gsm8k", "data": {**DATA, "package": "nosuch"}}, r"no package 'nosuch' is installed"),
        ({"task": "gsm8k", "headline": "acc"}, r"'acc' is not among exact_match,strict-match, exact_match,flexible-ex"),
        ({"task": "gsm8k", "headline": "exact_match,strict"}, r"'exact_match,strict' is not among"),
        ({"task": "mmlu", "protocol": "chat"}, r"compares log-likelihoods, which chat endpoints do not give"),
        ({"task": "gsm8k", "include": Path("/nosuch")}, r"`include` names /nosuch, which is no folder"),
    ],
)
def test_a_mistake_is_found_before_a_run(found, fields, told) -> None:
    import re

    (message,) = found(**fields)
    assert re.search(told, message), message


@pytest.mark.parametrize(
    "fields",
    [{"task": "gsm8k", "protocol": "chat", "headline": "exact_match"}, {"task": "mmlu", "headline": "acc,none"}],
)
def test_what_is_right_is_no_mistake(found, fields) -> None:
    assert found(**fields) == []


def test_an_own_benchmark_without_its_data_is_a_mistake(found, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("data: gone.jsonl\nprompt: x\ntarget: y\n")
    assert found(task="mine", include=tmp_path) == [f"benchmarks.mine.data: there is no file {tmp_path}/gone.jsonl"]


def test_a_judge_is_not_shown_a_reference_that_there_is_not(found, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("data: rows.jsonl\nprompt: x\nmetric: judged\n")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    judged = {"task": "mine", "include": tmp_path, "protocol": "chat"}
    assert found(**judged, judge={"models": "j@a", "template": "rubric_1_10"}) == []
    (told,) = found(**judged, judge={"models": "j@a", "template": "correctness"})
    assert told.startswith(
        f"benchmarks.mine.judge: its prompt shows the `reference`, and {tmp_path}/mine.yaml has no `target`: give it one"
    )


def test_an_own_benchmark_with_more_stops_than_a_chat_takes_is_a_mistake(found, tmp_path, index) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "mine.yaml").write_text("data: rows.jsonl\nprompt: x\ntarget: y\nstop: [a, b, c, d, e]\n")
    told = "benchmarks.mine.protocol: `stop` of mine has 5 texts, and chat endpoints take 4"
    assert found(task="mine", include=tmp_path, protocol="chat") == [told]
    with pytest.raises(ConfigError, match="has 5 texts"):
        load("mine", BenchmarkSpec(task="mine", include=tmp_path, protocol="chat"), limit=None, cache=index)
    assert found(task="mine", include=tmp_path) == []
    assert found(task="mine", include=tmp_path, protocol="chat", generation={"stop": "a"}) == []


def test_it_imports_no_lm_eval(index) -> None:
    script = (
        "import sys; from pathlib import Path; from eval_pipelines.benchmarks.checking import mistakes;"
        "from eval_pipelines.config import BenchmarkSpec;"
        f"assert mistakes('m', BenchmarkSpec(task='mmlu'), cache=Path({str(index)!r})) == [];"
        "assert not {'lm_eval', 'datasets', 'pyarrow', 'pandas'} & {*sys.modules}, 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
