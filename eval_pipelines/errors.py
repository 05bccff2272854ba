"""Every error this project raises on purpose.

EvalPipelinesError
├── ConfigError               the operator can fix it: a name, a path, a missing field
│   ├── UnknownNameError      …and these are the names that exist
│   ├── ModelKeyError         a partition key Dagster would drop, or that is no safe path
│   ├── DataError             a benchmark's data is not there, or lacks a column
│   └── NoSandboxError        model-written code would have to run, and there is nowhere safe to run it
├── ServingError              no endpoint could be leased
│   ├── StartError            the server process ended before it was ready (carries its last lines)
│   ├── NotReadyError         it runs, but did not answer within ready_timeout_s
│   └── WrongModelError       the address answers for another model than the one leased
├── UnsupportedError          the endpoint cannot do what the benchmark needs; nothing was asked
├── FailureBudgetError        too many requests of one evaluation failed; what was answered is landed
├── AskingStoppedError        going on was forbidden or pointless; what was answered is landed
│   └── SpendingLimitError    a daily budget is used up; the rest can be asked later
├── ScoringError              a scorer raised (carries where): never a wrong answer
├── UngradableError           one answer could not be judged, for no fault of its own: its sample stays ungraded
│   └── SandboxError          the sandbox that was to run it broke
└── WarehouseError            stored shape ≠ the shape this code reads, or it could not be written
    ├── SqlModelError         a file of dbt_like_sql/ is wrong (carries file and line)
    └── NothingAskedError     scores were wanted before there were responses

One failed request is not here. It is data: see records.Failure.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# a list that is longer than this is no help: the nearest of it are
_MAX_SHOWN: Final = 40
_N_NEAREST: Final = 10


class EvalPipelinesError(Exception):
    """The root: everything below says what was wrong, where, and what would be right."""


class ConfigError(EvalPipelinesError):
    """The operator can fix it."""


class UnknownNameError(ConfigError, LookupError):
    """Something was asked for by a name that nothing bears."""

    def __init__(self, kind: str, name: str, *, known: Sequence[str], add: str = "") -> None:
        near = difflib.get_close_matches(name, known, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        hint = f" To add it, {add}." if add else ""
        shown = sorted(known)
        if len(shown) > _MAX_SHOWN:
            nearest = difflib.get_close_matches(name, known, n=_N_NEAREST, cutoff=0)
            shown = [*nearest, f"and {len(shown) - len(nearest):,} more"]
        super().__init__(f"no {kind} is called {name!r}.{guess} Known: {', '.join(shown) or 'none yet'}.{hint}")
        self.kind, self.name, self.known = kind, name, tuple(known)


class ModelKeyError(ConfigError, ValueError):
    """A model key is not of the form `family@revision`."""


class DataError(ConfigError):
    """A benchmark's data is missing, unreadable, or lacks a column."""


class NoSandboxError(ConfigError):
    """Code that a model wrote would have to run, and there is no tight sandbox on this machine."""

    def __init__(self, message: str) -> None:
        super().__init__(f"model-written code runs only in a sandbox, and here is none: {message}")


class ServingError(EvalPipelinesError):
    """No endpoint could be leased."""


class StartError(ServingError):
    """The server process ended before it was ready."""

    def __init__(self, message: str, *, log_path: Path | None = None, tail: Sequence[str] = ()) -> None:
        lines = "".join(f"\n  | {line}" for line in tail)
        where = f"\n  whole log: {log_path}" if log_path else ""
        super().__init__(f"{message}{lines}{where}")
        self.log_path, self.tail = log_path, tuple(tail)


class NotReadyError(ServingError):
    """The server runs, but did not answer in time."""


class WrongModelError(ServingError):
    """The address answers, but for another model."""


class UnsupportedError(EvalPipelinesError):
    """The endpoint cannot do what the benchmark needs; nothing was asked."""


class FailureBudgetError(EvalPipelinesError):
    """More requests of one evaluation failed than its budget allows."""


class AskingStoppedError(EvalPipelinesError):
    """Asking ended early: a daily budget is used up, or an answer told that going on is pointless."""


class SpendingLimitError(AskingStoppedError):
    """A daily budget of tokens or money leaves no room for the next request."""


class ScoringError(EvalPipelinesError):
    """A scorer raised or returned what is no score."""


class UngradableError(EvalPipelinesError):
    """A scorer could not judge one answer, and the answer is not to blame: it is ungraded, with this as the reason."""


class SandboxError(UngradableError):
    """The sandbox broke. Nothing is known of the program in it."""


class WarehouseError(EvalPipelinesError):
    """Stored shape and expected shape differ, or a write did not go through."""


class SqlModelError(WarehouseError):
    """A file of dbt_like_sql/ is wrong."""

    def __init__(self, path: Path | str, line: int, message: str) -> None:
        super().__init__(f"{path}:{line}: {message}")
        self.path, self.line = Path(path), line


class NothingAskedError(WarehouseError):
    """Scores were wanted for a cell that holds no responses yet."""
