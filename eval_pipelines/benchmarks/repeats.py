"""Several samples of one question: how many, who makes verdicts of them, and what cannot be repeated."""

from collections.abc import Iterable, Iterator
from typing import Any

from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.errors import ConfigError
from eval_pipelines.records import Request


def n_repeats(spec: BenchmarkSpec, of_task: int | None) -> int:
    """How often each question is asked: as the benchmark says, else as the task does."""
    return spec.repeats or of_task or 1


def n_verdicts(spec: BenchmarkSpec, task: Any) -> int:
    """Verdicts on each sample, whose mean is its score: one per repeat, unless the task makes one of all repeats."""
    return 1 if spec.repeats is None or takes_several(task) else spec.repeats


def takes_several(task: Any) -> bool:
    """Whether the task's own filters or scorer make one verdict of all repeats, such as majority_vote or pass@k."""
    has_scorer = task.config.process_results is not None or (task.config.repeats or 1) > 1
    return any(_takes_several(list(_steps(ensemble)), has_scorer) for ensemble in task._filters)


def check_repeats(benchmark: str, spec: BenchmarkSpec, task: Any) -> None:
    """Raises ConfigError where the task's questions cannot be asked as often as the benchmark says."""
    n, name = n_repeats(spec, task.config.repeats), task.config.task
    where = f"benchmarks.{benchmark}.repeats"
    n_taken = max((k for ensemble in task._filters for _, k in _steps(ensemble)), default=1)
    if spec.repeats is not None and n_taken > spec.repeats:
        raise ConfigError(f"{where}: {name} makes its verdict of {n_taken} answers: set it to {n_taken} or more")
    if n == 1:
        return
    if task.OUTPUT_TYPE != "generate_until":
        raise ConfigError(f"{where}: {name} compares log-likelihoods, which are the same each time: leave it out")
    given = {**(task.config.generation_kwargs or {}), **spec.generation}
    if given.get("temperature", 0) == 0:
        raise ConfigError(
            f"{where}: at temperature 0 a question has the same answer all {n} times. Set its "
            f"`generation: {{temperature: 0.7}}`, or `repeats: 1`."
        )
    other = (
        [] if n_verdicts(spec, task) == 1 else [m for m, how in task.aggregation().items() if how.__name__ != "mean"]
    )
    if other:
        raise ConfigError(f"{where}: {name} does not take the mean over samples for {', '.join(other)}: leave it out")


def check_drawn(benchmark: str, requests: Iterable[Request]) -> None:
    """Raises ConfigError where interceptors leave repeats of a question nothing that tells their answers apart."""
    for request in requests:
        if request.repeat == 0:
            continue
        if not request.is_likelihood and request.params.get("temperature") == 0:
            raise ConfigError(
                f"benchmarks.{benchmark}.repeats: an interceptor sets the temperature to 0, at which a question has the "
                f"same answer each time. Take it out, or set `repeats: 1`."
            )
        return


def _takes_several(steps: list[tuple[str, int]], has_scorer: bool) -> bool:
    names = {name for name, _ in steps}
    if names & {"MajorityVoteFilter", "TakeKFilter"}:
        return True
    return "TakeFirstFilter" not in names and (has_scorer or "CustomFilter" in names)


def _steps(ensemble: Any) -> Iterator[tuple[str, int]]:
    """Name of each filter, and how many answers it takes at least."""
    for step in ensemble.filters:
        k = step.keywords.get("k", 1)
        name = getattr(step.func, "__name__", "")
        yield name, k if name == "TakeKFilter" and isinstance(k, int) else 1
