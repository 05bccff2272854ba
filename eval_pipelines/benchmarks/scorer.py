"""What a task makes of answers: lm-eval's filters, its scorer, and one number of each verdict.

Runs in the process that grades; see grading_pool.py for which that is.
"""

import inspect
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eval_pipelines.benchmarks.odd_rows import in_words
from eval_pipelines.benchmarks.own_verdicts import OF_ANSWER
from eval_pipelines.errors import ScoringError, UngradableError

TIMEOUT = "grading_timeout"
DIED = "grading_process_died"
_MOST_EXTRACTED = 2000
# they stop a comparison after seconds on the wall clock, and call the answer wrong
_WITH_LIMITS = ("lm_eval", "math_verify")


@dataclass(slots=True)
class Case:
    """One question to grade: its document, and of each instance the answers to all its repeats."""

    doc: Any
    resps: list[list[Any]]

    @property
    def n_answers(self) -> int:
        """Answers in it."""
        return sum(len(one) for one in self.resps)


@dataclass(slots=True)
class Judged:
    """What one filter and the task's scorer made of one question.

    Attributes:
        raw: Verdict by metric, as the task's aggregation takes it.
        values: The same as one number each; None where the metric says nothing of a single sample.
        is_unparseable: The extraction found nothing; None where nothing is extracted.
    """

    raw: dict[str, Any]
    values: dict[str, float | None]
    extracted: str | None = None
    is_unparseable: bool | None = None


@dataclass(slots=True)
class Raised:
    """What the scorer raised, and where, or gave that is no verdict: our bug, or the task's."""

    message: str


# by filter, or why there is nothing
Outcome = dict[str, Judged] | Raised | str


@dataclass(slots=True)
class _Instance:
    """What filters read and write of an lm-eval instance."""

    doc: Any
    resps: list[Any]
    filtered_resps: dict[str, Any] = field(default_factory=dict)


class TimeUp(BaseException):
    """The time of one sample is used up; no scorer's `except Exception` holds it."""


class Scorer:
    """One task, ready to grade."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self._is_text = task.OUTPUT_TYPE == "generate_until"
        self._ensembles = list(task._filters)
        self._nothing = {ensemble.name: _fallbacks(ensemble) for ensemble in self._ensembles}

    def judge(self, cases: Sequence[Case], *, timeout_s: float, is_guarded: bool = True) -> Iterator[Outcome]:
        """One outcome per case, in order, as soon as it is known.

        Args:
            timeout_s: CPU seconds one answer may take.
            is_guarded: stop what takes longer; needs the main thread.
        """
        filtered = None if len(cases) == 1 else self._filter_together(cases, timeout_s, is_guarded)
        for i, case in enumerate(cases):
            limit_s = timeout_s * max(1, case.n_answers)
            try:
                with cpu_limit(limit_s if is_guarded else None):
                    # one at a time where all together took too long, or one of them raised
                    outcome: Outcome = self._judge(case, filtered[i] if filtered else self._filter([case])[0])
            except TimeUp:
                outcome = TIMEOUT
            except MemoryError:
                outcome = DIED
            except UngradableError as error:
                outcome = str(error)
            except ScoringError as error:
                outcome = Raised(str(error))
            except (Exception, SystemExit) as error:  # noqa: BLE001
                outcome = Raised(f"raised {in_words(error, anywhere=True)}")
            yield outcome

    def _filter_together(
        self, cases: Sequence[Case], timeout_s: float, is_guarded: bool
    ) -> list[list[_Instance]] | None:
        try:
            with cpu_limit(timeout_s if is_guarded else None):
                return self._filter(cases)
        except (TimeUp, SystemExit, Exception):  # noqa: BLE001
            return None

    def _filter(self, cases: Sequence[Case]) -> list[list[_Instance]]:
        found = [[_Instance(case.doc, list(resps)) for resps in case.resps] for case in cases]
        flat = [instance for instances in found for instance in instances]
        for ensemble in self._ensembles:
            ensemble.apply(flat)
        return found

    def _judge(self, case: Case, instances: list[_Instance]) -> dict[str, Judged]:
        return {ensemble.name: self._judge_one(case.doc, instances, ensemble.name) for ensemble in self._ensembles}

    def _judge_one(self, doc: Any, instances: list[_Instance], name: str) -> Judged:
        filtered = [instance.filtered_resps[name] for instance in instances]
        found = {key: _plain(value) for key, value in self._task.process_results(doc, filtered).items()}
        said = {key: found.pop(key) for key in OF_ANSWER if key in found}
        combine = self._task.aggregation()
        judged = Judged(found, {metric: value_of(raw, combine.get(metric)) for metric, raw in found.items()})
        if self._is_text and len(filtered) == 1:
            judged.is_unparseable = _is_nothing(filtered[0], self._nothing[name])
            judged.extracted = _as_text(filtered[0])
        if "extracted" in said:
            judged.extracted = _as_text(said["extracted"])
        if "is_unparseable" in said:
            judged.is_unparseable = bool(said["is_unparseable"])
        return judged


@contextmanager
def cpu_limit(seconds: float | None) -> Iterator[None]:
    """Raise TimeUp in the main thread once this process has computed for so long; also within a regular expression.

    It counts CPU time: a busy machine takes nobody's time, and timers for wall clock stay free for scorers and tests;
    those of lm-eval's tasks and of math_verify, which count what they stop as wrong, do not go off meanwhile.
    """
    if seconds is None:
        yield
        return
    is_up = False

    def time_is_up(_signal: int, _frame: Any) -> None:
        nonlocal is_up
        is_up = True
        raise TimeUp

    before, install = signal.signal(signal.SIGPROF, time_is_up), signal.signal
    signal.signal = _without_limits_of_libraries(install)
    # again each second: a scorer may have caught the first
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)  # it may have come while the limit was taken off
        signal.signal = install
        signal.signal(signal.SIGPROF, before)
        if is_up:  # also where a scorer caught it and gave a verdict
            raise TimeUp


def _without_limits_of_libraries(install: Callable[..., Any]) -> Callable[..., Any]:
    def installed(number: int, handler: Any) -> Any:
        library = (getattr(handler, "__module__", None) or "").split(".")[0]
        return install(number, signal.SIG_IGN if number == signal.SIGALRM and library in _WITH_LIMITS else handler)

    return installed


def value_of(raw: Any, combine: Callable[[list[Any]], Any] | None) -> float | None:
    """A verdict as one number: the metric over this sample alone, or whether two labels agree. None: there is none.

    Infinite where the number is beyond what a float holds, such as the perplexity exp(800).
    """
    name = "mean" if combine is None else getattr(combine, "__name__", "")  # a partial function has none
    if isinstance(raw, int | float) and (combine is None or name in ("mean", "nanmean", "median")):
        return None if math.isnan(raw) else float(raw)
    if name in ("f1_score", "matthews_corrcoef") and isinstance(raw, tuple | list) and len(raw) == 2:
        return float(bool(raw[0] == raw[1]))
    if combine is None or name == "mean":
        raise TypeError(f"{type(raw).__name__} instead of a number, and no aggregation that takes it")
    try:
        value = float(combine([raw]))
    except OverflowError:
        return math.inf
    except Exception:  # noqa: BLE001
        return float(raw) if isinstance(raw, int | float) else None
    return None if math.isnan(value) else value


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _as_text(filtered: Any) -> str | None:
    if filtered is None:
        return None
    return (filtered if isinstance(filtered, str) else str(filtered))[:_MOST_EXTRACTED]


def _is_nothing(filtered: Any, fallbacks: frozenset[str]) -> bool:
    """Whether the extraction came back empty: nothing at all, or what the filters put where they find nothing."""
    if isinstance(filtered, list | tuple):
        return all(_is_nothing(one, fallbacks) for one in filtered)
    return filtered is None or (isinstance(filtered, str) and filtered.strip().casefold() in fallbacks)


def _fallbacks(ensemble: Any) -> frozenset[str]:
    """What the steps of a filter give where they find nothing, as text; always the empty text."""
    found = {""}
    for step in ensemble.filters:
        given = {**_defaults(step.func), **step.keywords}.get("fallback", getattr(step.func, "fallback", None))
        found |= {str(one).strip().casefold() for one in (given if isinstance(given, list) else [given]) if one}
    return frozenset(found)


def _defaults(filter_class: Any) -> dict[str, Any]:
    try:
        parameters = inspect.signature(filter_class).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}
