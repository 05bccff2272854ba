"""A sample that hangs, dies or takes all memory is ungraded, its neighbours are graded, and nothing stays behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.benchmarks import grading_pool
from eval_pipelines.benchmarks.grading_pool import POOL
from eval_pipelines.benchmarks.harness import Benchmark, load
from eval_pipelines.benchmarks.scorer import TimeUp, cpu_limit
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.errors import ScoringError
from eval_pipelines.records import Response, utc_now

pytestmark = pytest.mark.slow

SCORER = """
import os, re, subprocess, time

def process(doc, results):
    text = results[0]
    if text == "regex":
        re.match(r"(a+)+$", "a" * 60 + "b")
    if text == "stubborn":
        while True:
            try:
                re.match(r"(a+)+$", "a" * 60 + "b")
            except BaseException:
                pass
    if text == "sleep":
        time.sleep(1000)
    if text == "die":
        os.abort()
    if text == "start":
        pid = subprocess.Popen(["sleep", "1000"], stderr=subprocess.DEVNULL).pid
        open(os.path.join(os.path.dirname(__file__), f"{pid}.pid"), "w").close()
        if doc["question"] == "q0":
            os.abort()
    if text == "memory":
        "x" * (20 << 30)
    if text == "raise":
        raise ValueError("no such thing")
    return {"exact_match": float(text == doc["answer"]), "pid": float(os.getpid())}
"""
TASK = """
task: hostile
dataset_path: none
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def opened(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Benchmark]]:
    monkeypatch.setattr(grading_pool, "_SLACK_S", 1.0)

    def build(n: int, more: str = "process_results: !function own.process", **fields: Any) -> Benchmark:
        (tmp_path / "own.py").write_text(SCORER)
        (tmp_path / "hostile.yaml").write_text(TASK + more)
        (tmp_path / "rows.jsonl").write_text(
            "".join(json.dumps({"question": f"q{i}", "answer": "yes"}) + "\n" for i in range(n))
        )
        source = {"folder": tmp_path, "splits": {"test": "rows.jsonl"}}
        spec = {
            "task": "hostile",
            "include": tmp_path,
            "data": source,
            "grading_timeout_s": 0.5,
            "max_failed_share": 0.2,
        }
        return load("hostile", BenchmarkSpec.model_validate({**spec, **fields}), limit=None, cache=index)

    yield build
    POOL.close()


def answered(benchmark: Benchmark, first: list[str]) -> dict[str, Response]:
    requests = list(benchmark.requests())
    texts = first + ["yes"] * (len(requests) - len(first))
    return {
        request.digest: Response(
            request_digest=request.digest, text=text, n_attempts=1, latency_s=0, asked_at=utc_now()
        )
        for request, text in zip(requests, texts, strict=True)
    }


def test_what_cannot_be_graded_is_ungraded_and_all_else_is_graded(opened) -> None:
    benchmark = opened(30)
    scores, metrics = benchmark.grade(answered(benchmark, ["regex", "die", "sleep", "memory", "no"]))
    verdicts = [(one.value, one.ungraded_reason) for one in scores if one.metric == "exact_match"]
    by_sample = {one.sample_id: one.ungraded_reason or one.value for one in scores if one.metric == "exact_match"}
    assert [by_sample[f"hostile/{i}"] for i in range(6)] == [
        "grading_timeout", "grading_process_died", "grading_timeout", "grading_process_died", 0.0, 1.0,
    ]  # fmt: skip
    assert len(verdicts) == 30
    [found] = [one for one in metrics if one.metric == "exact_match"]
    assert (found.value, found.n, found.n_asked) == (25 / 26, 26, 30)
    assert (found.bound_low, found.bound_high) == (25 / 30, 29 / 30)
    pids = {one.value for one in scores if one.metric == "pid" and one.value is not None}
    assert os.getpid() not in pids


def test_what_a_scorer_starts_ends_with_its_process(opened, tmp_path) -> None:
    benchmark = opened(20)
    scores, _ = benchmark.grade(answered(benchmark, ["start", "start"]))
    assert {one.sample_id for one in scores if one.ungraded_reason == "grading_process_died"} == {"hostile/0"}
    started = [int(path.stem) for path in tmp_path.glob("*.pid")]
    until = time.monotonic() + 10
    while any(is_alive(pid) for pid in started) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(started) >= 2
    assert not [pid for pid in started if is_alive(pid)]


def test_too_many_that_cannot_be_graded_fail_loudly(opened) -> None:
    benchmark = opened(20, max_failed_share=0.05)
    with pytest.raises(
        ScoringError,
        match=r"2 answered samples could not be graded, and max_failed_share allows 1; .*: grading_timeout",
    ):
        benchmark.grade(answered(benchmark, ["regex", "regex"]))


def test_a_scorer_that_raises_names_the_sample_from_its_own_process_too(opened) -> None:
    benchmark = opened(20)
    with pytest.raises(ScoringError, match=r"the scorer of hostile/1 raised ValueError: no such thing"):
        benchmark.grade(answered(benchmark, ["yes", "raise"]))


def test_lm_evals_own_filters_are_stopped_in_this_very_process(opened) -> None:
    regex = 'filter_list: [{name: f, filter: [{function: regex, regex_pattern: "(y+)+s"}, {function: take_first}]}]'
    benchmark = opened(20, more=regex)
    before = signal.getsignal(signal.SIGPROF)
    scores, _ = benchmark.grade(answered(benchmark, ["yes", "y" * 60]))
    assert not POOL.is_running
    assert [one.ungraded_reason for one in scores if one.value is None] == ["grading_timeout"]
    assert signal.getsignal(signal.SIGPROF) == before
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_outside_the_main_thread_processes_grade(opened) -> None:
    benchmark = opened(10, more="")
    assert benchmark.is_graded_here
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(benchmark.grade(answered(benchmark, ["no"]))))
    thread.start()
    thread.join(60)
    assert POOL.is_running
    assert [one.value for one in found[0][0]].count(1.0) == 9


def test_a_task_that_cannot_leave_its_process_is_graded_here(opened, monkeypatch) -> None:
    benchmark = opened(10)
    task = benchmark._subtasks[0].task
    assert not benchmark.is_graded_here
    lock = threading.Lock()
    monkeypatch.setattr(
        task, "process_results", lambda doc, results: {"exact_match": float(results[0] == "yes" and not lock.locked())}
    )
    assert benchmark.is_graded_here
    scores, _ = benchmark.grade(answered(benchmark, ["no"]))
    assert [one.value for one in scores] == [0.0] + [1.0] * 9


def swallow_once() -> None:
    try:
        while True:
            pass
    except BaseException:  # noqa: BLE001
        while True:
            pass


def test_a_limit_holds_where_the_scorer_catches_everything_once() -> None:
    with pytest.raises(TimeUp), cpu_limit(0.2):
        swallow_once()


def judge_all_the_same() -> float:
    try:
        while True:
            pass
    except BaseException:  # noqa: BLE001
        return 0.0


def test_a_verdict_given_after_the_time_was_up_does_not_count() -> None:
    with pytest.raises(TimeUp), cpu_limit(0.2):
        judge_all_the_same()


def test_what_a_scorer_imports_takes_none_of_its_answers_time(opened, monkeypatch) -> None:
    slowly = "import sys\nif sys.argv[0].endswith('grading_process.py'):\n    time.sleep(4)\n"
    monkeypatch.setitem(globals(), "SCORER", SCORER + slowly)
    benchmark = opened(4)
    scores, _ = benchmark.grade(answered(benchmark, ["no"]))
    assert [one.value for one in scores if one.metric == "exact_match"] == [0.0, 1.0, 1.0, 1.0]


def processes_of(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [int(one) for one in found]


def test_a_killed_run_leaves_no_grading_process_behind(tmp_path) -> None:
    code = (
        "from eval_pipelines.benchmarks.grading_pool import POOL\nimport os, time\n"
        "a, b = POOL.take(), POOL.take()\nprint(POOL._server.pid, a.pid, b.pid, flush=True)\ntime.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pids = [int(one) for one in run.stdout.readline().split()]
        status, workers = Path(f"/proc/{pids[0]}/status").read_text(), processes_of(pids[0])
        run.kill()
    assert status.split("Threads:")[1].split()[0] == "1", "what is forked has no threads"
    assert set(workers) == set(pids[1:])
    until = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
