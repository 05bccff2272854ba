"""What an author's `score` says of one answer, taken as verdicts or refused in words that name the author's file."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from eval_pipelines.errors import ScoringError, UngradableError

# raised whenever a verdict below may come out otherwise
VERDICTS_VERSION = 1
# what a scorer may say beside its metrics
OF_ANSWER = ("extracted", "is_unparseable")
_NO_NUMBER = "score_is_nan"


def verdicts_of(found: Any, names: tuple[str, ...], score: Callable[..., Any]) -> dict[str, Any]:
    """A number for each of `names`, with what is said of the answer itself.

    Raises:
        ScoringError: it is no number, or other metrics than `names` are given.
        UngradableError: a number is NaN.
    """
    named = dict(found) if isinstance(found, Mapping) else {names[0]: found}
    said = {name: named.pop(name) for name in OF_ANSWER if name in named and name not in names}
    if {*named} != {*names}:
        given = ", ".join(map(str, named)) or "no metric"
        raise ScoringError(f"gave {given}, and METRICS says {', '.join(names)}{_place(score)}")
    numbers = {name: _number(value, score) for name, value in named.items()}
    if any(map(math.isnan, numbers.values())):
        raise UngradableError(_NO_NUMBER)
    return numbers | said


def _number(value: Any, score: Callable[..., Any]) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ScoringError(
            f"gave {value!r:.80}, which is no number{_place(score)}: `score` returns one, or a mapping with one for each "
            f"of METRICS"
        ) from None


def _place(score: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(score), "__code__", None)
    return "" if code is None else f" ({code.co_filename}:{code.co_firstlineno})"
