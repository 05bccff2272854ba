"""Many tests at once: p-values adjusted so that each can be compared with the level as if it were alone.

Source  Holm (1979): the chance of any false finding stays below the level, however the tests depend on each other;
        Benjamini & Hochberg (1995): the expected share of false findings does, for independent or positively
        dependent tests
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal

Correction = Literal["holm", "benjamini_hochberg", "none"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given."""
    n, adjusted, running = len(p_values), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(_ascending(p_values)):
        running = max(running, min(1.0, (n - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given."""
    n, adjusted, running = len(p_values), [0.0] * len(p_values), 1.0
    for rank, index in reversed(list(enumerate(_ascending(p_values), start=1))):
        running = min(running, p_values[index] * n / rank)
        adjusted[index] = running
    return adjusted


def none(p_values: Sequence[float]) -> list[float]:
    """As they are: each test keeps its own level, and among many some find what is not there."""
    return list(p_values)


CORRECTIONS: Final[dict[Correction, Callable[[Sequence[float]], list[float]]]] = {
    "holm": holm,
    "benjamini_hochberg": benjamini_hochberg,
    "none": none,
}


def _ascending(p_values: Sequence[float]) -> list[int]:
    return sorted(range(len(p_values)), key=lambda index: p_values[index])
