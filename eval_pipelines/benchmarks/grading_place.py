"""Where a task is graded: in this process, or in processes of their own.

Here, where that is quicker and a hanging sample can be stopped all the same: lm-eval's own filters and metrics hang in a
regular expression if anywhere, and that lets itself be interrupted. A scorer in Python may compute in a library that does
not: it has processes that can be killed.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from eval_pipelines.benchmarks.code_filters import runs_code
from eval_pipelines.benchmarks.grading_pool import POOL, CannotSendError, pickled
from eval_pipelines.benchmarks.own_scoring import Scorer as OwnScorer
from eval_pipelines.benchmarks.scorer import Case, Outcome, Scorer

_CHUNK = 128
# processes take some two seconds of CPU to start; once they run, a worker takes little
_WORTH_STARTING_S = 5.0
_WORTH_A_WORKER_S = 0.5
_FILTERS = ("lm_eval.filters.", "eval_pipelines.benchmarks.own_filters")


def judge(task: Any, cases: Sequence[Case], *, timeout_s: float) -> Iterator[tuple[int, Outcome]]:
    """The number of each case with what the task makes of it, in no order.

    Args:
        timeout_s: CPU seconds one answer may take. Without effect only for a scorer that cannot leave this process,
            and then outside the main thread.
    """
    in_main = _in_main()
    if runs_code(task):
        # its sandbox uses all cores and limits each program
        yield from enumerate(Scorer(task).judge(cases, timeout_s=timeout_s, is_guarded=False))
        return
    rest = 0
    if _is_plain(task) and in_main:
        for done, outcomes in _here_while_quick(task, cases, timeout_s):
            yield from outcomes
            rest = done
        if rest == len(cases):
            return
    todo = set(range(rest, len(cases)))
    try:
        payload = pickled(task)
        for number, outcome in POOL.judge(payload, [(number, cases[number]) for number in sorted(todo)], timeout_s):
            todo.remove(number)
            yield number, outcome
    except CannotSendError:
        numbers = sorted(todo)
        left = Scorer(task).judge([cases[number] for number in numbers], timeout_s=timeout_s, is_guarded=in_main)
        yield from zip(numbers, left, strict=True)


def _in_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def is_here(task: Any) -> bool:
    """Whether its answers are graded in this thread: a few in no time, or because only here their time is limited."""
    return _in_main() and not runs_code(task) and (_is_plain(task) or not _can_leave(task))


def _can_leave(task: Any) -> bool:
    try:
        pickled(task)
    except CannotSendError:
        return False
    return True


def _here_while_quick(
    task: Any, cases: Sequence[Case], timeout_s: float
) -> Iterator[tuple[int, list[tuple[int, Outcome]]]]:
    """Chunks of outcomes with how many are done, until the rest would take longer here than with a start elsewhere."""
    scorer, started = Scorer(task), time.process_time()
    most_s = _WORTH_A_WORKER_S if POOL.is_running else _WORTH_STARTING_S
    for first in range(0, len(cases), _CHUNK):
        chunk = cases[first : first + _CHUNK]
        done = first + len(chunk)
        yield done, list(enumerate(scorer.judge(chunk, timeout_s=timeout_s), first))
        spent_s = time.process_time() - started
        if spent_s / done * (len(cases) - done) > most_s:
            return


def _is_plain(task: Any) -> bool:
    """Whether it is graded by lm-eval's own code and this project's, and by nobody else's."""
    from lm_eval.api.task import ConfigurableTask

    if "process_results" in vars(task) or type(task).process_results is not ConfigurableTask.process_results:
        return False
    if task.config.process_results is not None and not isinstance(task.config.process_results, OwnScorer):
        return False
    filters = [step.func for ensemble in task._filters for step in ensemble.filters]
    if any(not one.__module__.startswith(_FILTERS) or one.__name__ == "CustomFilter" for one in filters):
        return False
    metrics = [one for one in task._metric_fn_list.values() if one is not None]
    return all(getattr(one, "__module__", "") == "lm_eval.api.metrics" for one in metrics)
