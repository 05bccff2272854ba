"""What grading costs: 100,000 answers to GSM8K by both of its filters, beside lm-eval's own loop over the same answers.

    python -m tests.bench.grading [n]

Ratios of CPU seconds count: machines differ, and so does this one from minute to minute.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval_pipelines.benchmarks import grading_place
from eval_pipelines.benchmarks.grading_pool import POOL
from eval_pipelines.benchmarks.harness import Benchmark, load
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.records import Response, utc_now

N, N_LOADED = 100_000, 1_000
STEP = "She first has {i} apples and buys {i} more, which makes {i} + {i} = {sum} apples in the basket. "


def loaded(n: int) -> Benchmark:
    """GSM8K with n questions, of which 1,000 differ."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [f'{{"question": "How much is {i} and {i}?", "answer": "#### {2 * i:,}"}}\n' for i in range(N_LOADED)]
        Path(folder, "test.jsonl").write_text("".join(rows))
        source = {"folder": folder, "splits": {"test": "test.jsonl"}}
        spec = BenchmarkSpec.model_validate({"task": "gsm8k", "num_fewshot": 0, "data": source})
        benchmark = load("gsm8k", spec, limit=None, cache=Path(tempfile.gettempdir()) / "eval-pipelines-bench")
    [subtask] = benchmark._subtasks
    subtask.questions = [
        replace(
            question,
            sample=question.sample.model_copy(update={"sample_id": f"gsm8k/{i}"}),
            requests=[[one.model_copy(update={"repeat": i // N_LOADED}) for one in same] for same in question.requests],
        )
        for i in range(n)
        for question in [subtask.questions[i % N_LOADED]]
    ]
    return benchmark


def answers(benchmark: Benchmark) -> dict[str, Response]:
    """Some 400 characters each; every third lacks the mark that the strict filter wants."""
    said = {}
    for i, request in enumerate(benchmark.requests()):
        text = STEP.format(i=i, sum=2 * i) * 4 + ("So it is" if i % 3 == 0 else "####") + f" {2 * (i % N_LOADED)}"
        said[request.digest] = Response(
            request_digest=request.digest, text=text, n_attempts=1, latency_s=0, asked_at=utc_now()
        )
    return said


def as_lm_eval(benchmark: Benchmark, said: dict[str, Response]) -> None:
    """One process, all filters first, then one sample after the other."""
    [subtask] = benchmark._subtasks
    instances = [replace(question.instances[0], resps=[], filtered_resps={}) for question in subtask.questions]
    for question, instance in zip(subtask.questions, instances, strict=True):
        instance.resps = [said[question.requests[0][0].digest].text]
    for ensemble in subtask.task._filters:
        ensemble.apply(instances)
        for instance in instances:
            subtask.task.process_results(instance.doc, [instance.filtered_resps[ensemble.name]])


def cpu_s() -> tuple[float, float]:
    """Of this process, and of those that it started and that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own, others = (one.ru_utime + one.ru_stime for one in used)
    return own, others


def measured(name: str, n: int, work: Callable[[], Any], base_s: float | None = None) -> float:
    started, cpu = time.perf_counter(), cpu_s()
    work()
    POOL.close()  # so that what its processes used is counted
    wall, (own, others) = time.perf_counter() - started, cpu_s()
    own, others = own - cpu[0], others - cpu[1]
    ratio = "" if base_s is None else f"   CPU {(own + others) / base_s:.2f} of lm-eval's loop"
    print(f"{name:34} {wall:6.1f} s   {own:6.1f} + {others:.1f} s CPU here and in processes{ratio}", flush=True)
    return own + others


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else N
    benchmark = loaded(n)
    said = answers(benchmark)
    base = measured("lm-eval's loop, verdicts only", n, lambda: as_lm_eval(benchmark, said))
    worth, grading_place._WORTH_STARTING_S = grading_place._WORTH_STARTING_S, float("inf")
    measured("here, scores and metrics", n, lambda: benchmark.grade(said), base)
    grading_place._WORTH_STARTING_S = 0.0
    measured(f"{POOL.n_workers} processes, scores and metrics", n, lambda: benchmark.grade(said), base)
    grading_place._WORTH_STARTING_S = worth
    few = loaded(20)
    measured("20 samples", 20, lambda: few.grade(answers(few)))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB, of a worker "
          f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main()
