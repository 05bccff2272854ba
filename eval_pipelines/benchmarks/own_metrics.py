"""The metrics of one's own benchmarks: what a text is worth beside one right answer.

`SCORING_VERSION` of own_scoring.py changes with any of them.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any


def plain_minus(text: str) -> str:
    """With the hyphen that numbers are written with in programs, for each minus sign of Unicode."""
    return text.translate(_MINUS)


def number_in(text: str) -> float:
    """The number that a text is, with its thousands, currency or percent sign. Raises ValueError."""
    found = float(re.sub(r"[\s$€£%]|(?<=\d),(?=\d{3}(?!\d))", "", plain_minus(text)))
    if not math.isfinite(found):
        raise ValueError(f"{text!r} is no finite number")
    return found


def _exact_match(text: str, gold: str, *, ignore_case: bool, ignore_punctuation: bool) -> bool:
    one, other = text.strip(), gold.strip()
    if ignore_case:
        one, other = one.casefold(), other.casefold()
    if ignore_punctuation:
        one, other = (side.translate(_NO_PUNCTUATION).strip() for side in (one, other))
    return one == other


def is_nothing(gold: str, metric: str, options: Mapping[str, Any]) -> bool:
    """Whether a metric would compare an answer with nothing."""
    return not (
        gold.translate(_NO_PUNCTUATION) if metric == "f1" or options.get("ignore_punctuation") else gold
    ).strip()


def _includes(text: str, gold: str, *, ignore_case: bool) -> bool:
    return gold.strip().casefold() in text.casefold() if ignore_case else gold.strip() in text


def _numeric(text: str, gold: str, *, tolerance: float, relative: float) -> bool:
    wanted = number_in(gold)
    try:
        return abs(number_in(text) - wanted) <= max(tolerance, relative * abs(wanted))
    except ValueError:  # what was answered is no number
        return False


def _f1(text: str, gold: str) -> float:
    said, wanted = _words(text), _words(gold)
    if not said or not wanted:
        return float(said == wanted)
    n_shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * n_shared / (len(said) + len(wanted))


def _words(text: str) -> list[str]:
    words = text.casefold().translate(_NO_PUNCTUATION).split()
    return [word for word in words if word not in ("a", "an", "the")]


_MINUS = str.maketrans("\u2212\ufe63\uff0d", "---")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
METRICS: dict[str, Callable[..., bool | float]] = {
    "exact_match": _exact_match,
    "includes": _includes,
    "numeric": _numeric,
    "f1": _f1,
}
