"""What the sandbox costs: a judged program beside bare interpreters, in turns, as ratios of the same run.

python -m tests.bench.sandbox
"""

import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from eval_pipelines.scoring.bubblewrap import Limits, interpreter
from eval_pipelines.scoring.sandbox import Job, judge, judge_all, require
from eval_pipelines.scoring.sandbox_slots import n_slots

N = 60
JOB = Job("def f(x):\n    return x * x", "assert f(3) == 9", setup="from typing import List", asked=("f",))
BARE = [str(interpreter()), "-I", "-c", "from typing import List\ndef f(x): return x * x\nassert f(3) == 9"]


def bare() -> None:
    subprocess.run(BARE, check=True, env={})


def timed(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    require()
    pairs = [(timed(bare), timed(lambda: judge(JOB, Limits()))) for _ in range(N)]
    alone, judged = (statistics.median(one) for one in zip(*pairs, strict=True))
    with ThreadPoolExecutor(n_slots()) as threads:
        many_bare = timed(lambda: list(threads.map(lambda _: bare(), range(N))))
    many = timed(lambda: judge_all([JOB] * N, Limits()))
    print(
        f"one after another   bare {alone * 1000:6.1f} ms   judged {judged * 1000:6.1f} ms   ratio {judged / alone:.1f}"
    )
    print(
        f"{n_slots()} at a time         bare {many_bare / N * 1000:6.1f} ms   judged {many / N * 1000:6.1f} ms   "
        f"ratio {many / many_bare:.1f}"
    )


if __name__ == "__main__":
    main()
