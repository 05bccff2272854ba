"""Steps of a task that runs model-written programs: a filter that has them judged, and a scorer that counts.

A task of one's own names them in its YAML:

    filter_list:
      - name: sandbox
        filter:
          - {function: custom, filter_fn: !function mine.programs}      # answers → programs
          - function: !function eval_pipelines.benchmarks.code_filters.RunTests
            job: !function mine.job                                     # (row, program) → scoring.sandbox.Job
            k: [1, 10]
            limits: {cpu_s: 5}                                          # scoring.bubblewrap.Limits; may be left out
    process_results: !function eval_pipelines.benchmarks.code_filters.pass_rates
    metadata: {version: 1, runs_code: true}
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval_pipelines.errors import ConfigError, SandboxError, UngradableError
from eval_pipelines.scoring import sandbox
from eval_pipelines.scoring.bubblewrap import Limits
from eval_pipelines.scoring.pass_at_k import pass_at_k

Row = Mapping[str, Any]


class Verdict(str):
    """What became of the programs of one sample: text for people, and the counts that it stands for.

    Attributes:
        ks: The k of the pass@k that are wanted.
        broken: Why one of them could not be judged; None if all were.
    """

    n: int
    n_passed: int
    ks: tuple[int, ...]
    broken: str | None


class RunTests:
    """A filter of lm-eval: programs in, verdicts out. All samples' programs are judged together, on all cores."""

    def __init__(
        self, job: Callable[[Row, str], sandbox.Job], k: Sequence[int] = (1,), limits: Mapping[str, int] | None = None
    ) -> None:
        self._job, self._ks = job, tuple(k)
        try:
            self._limits = Limits(**(limits or {}))
        except TypeError as error:
            raise ConfigError(f"limits of RunTests: {error}; known: {', '.join(Limits.__dataclass_fields__)}") from None

    def apply(self, resps: Sequence[Sequence[str]], docs: Sequence[Row]) -> list[Verdict]:
        """One verdict per sample, of the programs in its answers. Raises NoSandboxError."""
        asked = [(doc, program) for programs, doc in zip(resps, docs, strict=True) for program in programs]
        told = iter(sandbox.judge_all((self._job(doc, program) for doc, program in asked), self._limits))
        return [self._verdict(programs, [next(told) for _ in programs]) for programs in resps]

    def _verdict(self, programs: Sequence[str], outcomes: list[sandbox.Outcome | SandboxError]) -> Verdict:
        passed = [isinstance(one, sandbox.Outcome) and one.passed for one in outcomes]
        reasons = [one.reason if isinstance(one, sandbox.Outcome) else str(one) for one in outcomes]
        # one that failed tells more than one that passed
        shown = passed.index(False) if False in passed else 0
        count = f"{sum(passed)} of {len(passed)} passed; " if len(passed) > 1 else ""
        verdict = Verdict(f"{count}{reasons[shown]}\n\n{programs[shown]}")
        verdict.n, verdict.n_passed, verdict.ks = len(passed), sum(passed), self._ks
        verdict.broken = next((str(one) for one in outcomes if isinstance(one, SandboxError)), None)
        return verdict


def pass_rates(doc: Row, results: Sequence[Verdict]) -> dict[str, float]:
    """pass@k for each k that there are programs enough for. Raises UngradableError."""
    del doc
    (verdict,) = results
    if verdict.broken is not None:
        raise UngradableError(f"sandbox: {verdict.broken}")
    return {f"pass@{k}": pass_at_k(verdict.n, verdict.n_passed, k) for k in verdict.ks if k <= verdict.n}


def runs_code(task: Any) -> bool:
    """Whether a loaded task has model-written programs judged in the sandbox."""
    return any(step.func is RunTests for ensemble in task._filters for step in ensemble.filters)


def check_steps(task: Any) -> None:
    """Raise ConfigError where a step of such a task was given what it does not take."""
    for ensemble in task._filters if runs_code(task) else ():
        for step in ensemble.filters:
            step()
