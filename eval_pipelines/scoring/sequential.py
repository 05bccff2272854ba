"""Intervals that stay valid however often one looks, and whenever one stops.

A fixed interval that is looked at after each batch, until it is narrow enough, is wrong far more often than it says. A
confidence sequence holds at all moments at once: with probability 1 - alpha no interval of it ever misses.

Questions are asked in a random order, without replacement. The target is the mean over all questions of the benchmark:
what asking every one would have given. Nothing else is assumed, neither independence nor a distribution.

Source  Waudby-Smith & Ramdas (2023), "Estimating means of bounded random variables by betting", sections 4 and 5 (hedged
        capital, sampling without replacement), with bets for a difference that is named beforehand
"""

import math
from dataclasses import dataclass, field

import numpy as np

from eval_pipelines.scoring.estimates import Floats

_N_GRID = 1_000
_AT_ONCE = 256
# no bet risks more than this share of the capital
_MOST = 0.5


@dataclass(slots=True)
class ConfidenceSequence:
    """The interval for the mean of `n_population` values in [0, 1], of which more and more are seen in random order.

    Attributes:
        aim: The half width at which it is wanted; there it is narrowest for its number of values. Any is valid.
        low: Lower end now; it never falls. high: upper end; it never rises.
        n: Values seen.
    """

    n_population: int
    alpha: float = 0.05
    aim: float = 0.03
    low: float = 0.0
    high: float = 1.0
    n: int = 0
    _total: float = 0.0
    # variance as it was known before each value: bets must not look ahead
    _square: float = 0.25
    _means: Floats = field(default_factory=lambda: np.linspace(0, 1, _N_GRID + 1))
    _log_up: Floats = field(default_factory=lambda: np.zeros(_N_GRID + 1))
    _log_down: Floats = field(default_factory=lambda: np.zeros(_N_GRID + 1))
    _is_possible: Floats = field(default_factory=lambda: np.ones(_N_GRID + 1))

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    def see(self, values: Floats) -> None:
        """Take in further values, in the order in which they were drawn. Raises ValueError for one outside [0, 1]."""
        values = np.asarray(values, dtype=np.float64)
        if len(values) and not (values.min() >= 0 and values.max() <= 1):
            raise ValueError("a confidence sequence needs verdicts between 0 and 1")
        for start in range(0, len(values), _AT_ONCE):
            self._see(values[start : start + _AT_ONCE])

    def _see(self, values: Floats) -> None:
        number = self.n + np.arange(1, len(values) + 1)
        before = self._total + np.concatenate([[0.0], np.cumsum(values)[:-1]])
        guess = (0.5 + before + values) / (number + 1)
        squares = self._square + np.concatenate([[0.0], np.cumsum((values - guess) ** 2)])
        # the bet that makes most of a difference of `aim`, by the variance known so far
        bets = self.aim / (squares[:-1] / number + self.aim * self.aim)
        # what the next value is on average, if the mean over all is `_means`
        left = (self.n_population - number + 1)[:, None]
        expected = (self.n_population * self._means[None, :] - before[:, None]) / left
        is_possible = ((expected >= -1e-12) & (expected <= 1 + 1e-12)).all(axis=0)
        expected = np.clip(expected, 1e-9, 1 - 1e-9)
        won = values[:, None] - expected
        up = self._log_up + np.cumsum(np.log1p(np.minimum(bets[:, None], _MOST / expected) * won), axis=0)
        down = self._log_down + np.cumsum(np.log1p(-np.minimum(bets[:, None], _MOST / (1 - expected)) * won), axis=0)
        is_refuted = (np.maximum(up, down) >= math.log(2 / self.alpha)).any(axis=0)
        self._log_up, self._log_down = up[-1], down[-1]
        self._is_possible *= is_possible & ~is_refuted
        self.n, self._total, self._square = int(number[-1]), self._total + float(values.sum()), float(squares[-1])
        self._narrow()

    def _narrow(self) -> None:
        """The ends one step of the grid outwards, and never beyond what the unseen values could still make of it."""
        left = np.flatnonzero(self._is_possible)
        step = 1 / _N_GRID
        seen, unseen = self._total / self.n_population, (self.n_population - self.n) / self.n_population
        if len(left):
            self.low = max(self.low, float(self._means[left[0]]) - step)
            self.high = min(self.high, float(self._means[left[-1]]) + step)
        self.low, self.high = max(self.low, seen), min(self.high, seen + unseen)
