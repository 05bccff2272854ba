"""How a benchmark of one's own grades an answer: what is taken from it, and metrics on that.

Each callable names all that decides its verdicts in its `repr`, which is part of the score version.
"""

import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from eval_pipelines.benchmarks.own_metrics import METRICS, is_nothing, number_in
from eval_pipelines.benchmarks.own_templates import literal, rendered, value_of
from eval_pipelines.benchmarks.own_verdicts import VERDICTS_VERSION, verdicts_of

# raised whenever a verdict below, or what a filter takes of an answer, may come out otherwise
SCORING_VERSION = 2
# raised whenever another choice may be the right one: it stands in what is asked
_GOLD_VERSION = 1
# as lm-eval's own filters say that they found nothing
UNPARSEABLE = "[invalid]"
LETTERS = string.ascii_uppercase

Row = Mapping[str, Any]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if type(self).__name__ in ("ExtractBy", "MetricBy") and len(self.model_fields_set) != 1:
            raise ValueError(f"name one of {', '.join(type(self).model_fields)}")
        return self


class ExtractBy(_Options):
    """An extractor with what it looks for."""

    regex: str | None = Field(default=None, description="Its last match; of that the first group that is not empty.")
    json_field: str | None = Field(
        default=None, description="Of the last JSON object in the answer; `a.b` goes deeper."
    )

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        try:
            re.compile(self.regex or "")
        except re.error as error:
            raise ValueError(f"`regex` is no regular expression: {error}") from None
        return self


class ExactMatch(_Options):
    """The text is the target; spaces around it do not count."""

    ignore_case: bool = False
    ignore_punctuation: bool = False


class Includes(_Options):
    """The target stands somewhere in the text."""

    ignore_case: bool = True


class Numeric(_Options):
    """The number is the target, or near it."""

    tolerance: float = Field(default=1e-9, ge=0, description="Largest difference.")
    relative: float = Field(default=0, ge=0, description="Largest difference as a share of the target.")


class MetricBy(_Options):
    """A metric with its options."""

    exact_match: ExactMatch | None = None
    includes: Includes | None = None
    numeric: Numeric | None = None


ExtractName = Literal["text", "first_line", "last_line", "number", "choice_letter"]
MetricName = Literal["exact_match", "includes", "numeric", "f1", "choice", "judged"]


def metric_in_words(metric: MetricName | MetricBy) -> tuple[str, dict[str, Any]]:
    """A metric's name and all its options, defaults included."""
    given = metric.model_dump(exclude_unset=True) if isinstance(metric, MetricBy) else {metric: {}}
    ((name, options),) = given.items()
    kinds: dict[str, type[_Options]] = {"exact_match": ExactMatch, "includes": Includes, "numeric": Numeric}
    return name, kinds[name](**options).model_dump() if name in kinds else {}


class Gold:
    """The right answers of a row, as text; of a row with choices, the place of the right one."""

    is_told_by_repr = True

    def __init__(self, target: str | Callable[[Any], Any], choices: str | Sequence[str] | None) -> None:
        self.target, self.choices = target, choices

    def texts(self, row: Row) -> list[str]:
        """One, or several that are all right."""
        found = self.target(row) if callable(self.target) else _shown(self.target, row)
        several = found if isinstance(found, list | tuple) else [found]
        return ["" if one is None else str(one) for one in several]

    def __call__(self, row: Row) -> int:
        """The place of the right choice. Raises ValueError where the target is none of them."""
        (text,), choices = self.texts(row)[:1], choices_of(self.choices, row)
        if text in choices:
            return choices.index(text)
        place = int(text) if text.isdecimal() else LETTERS.find(text) if len(text) == 1 else -1
        if not 0 <= place < len(choices):
            raise ValueError(f"the target {text!r} is none of the choices {choices}, nor the number or letter of one")
        return place

    def __repr__(self) -> str:
        return f"Gold({self.target!r}, {self.choices!r}, version={_GOLD_VERSION})"


class Scorer:
    """Metrics on the extracted text; of several right answers the nearest counts."""

    is_told_by_repr = True

    def __init__(self, metrics: Sequence[tuple[str, dict[str, Any]]], gold: Gold, extract: str) -> None:
        self.metrics, self.gold, self.extract = metrics, gold, extract

    @property
    def names(self) -> tuple[str, ...]:
        """Of the metrics, in their order."""
        return tuple(name for name, _ in self.metrics)

    def __call__(self, row: Row, results: Sequence[str]) -> dict[str, float]:
        """As lm-eval calls it, for one sample."""
        golds = self.golds(row)
        return {
            name: max(float(METRICS[name](results[0], gold, **options)) for gold in golds)
            for name, options in self.metrics
        }

    def golds(self, row: Row) -> list[str]:
        """What is right, in the words that are graded. Raises ValueError where it is nothing, or none of the choices."""
        golds = self._golds(row)
        for gold in golds or [""]:
            if any(is_nothing(gold, name, options) for name, options in self.metrics):
                every = f" of {golds}" if len(golds) > 1 else ""
                raise ValueError(f"the target {gold!r}{every} is empty as it is compared: every answer would be right")
        return golds

    def _golds(self, row: Row) -> list[str]:
        if self.gold.choices is None:
            return self.gold.texts(row)
        place = self.gold(row)
        if self.extract == "choice_letter" and place >= len(LETTERS):
            raise ValueError(f"the right choice is number {place + 1}, and there are only {len(LETTERS)} letters")
        return [LETTERS[place] if self.extract == "choice_letter" else choices_of(self.gold.choices, row)[place]]

    def check(self, row: Row) -> None:
        """Raises ValueError where the gold answer of a row cannot be graded."""
        golds = self.golds(row)
        if "numeric" in self.names:
            for gold in golds:
                number_in(gold)

    def __repr__(self) -> str:
        return f"Scorer({list(self.metrics)}, {self.gold!r}, {self.extract!r}, version={SCORING_VERSION})"


class RowFunction:
    """A function of the author's on a row: its `prompt` or `target`. `version` changes with what it reaches in its file."""

    is_told_by_repr = True

    def __init__(self, function: Callable[[dict[str, Any]], Any], name: str, version: str) -> None:
        self.function, self.reached_from, self.version = function, (name,), version

    def __call__(self, row: Row) -> Any:
        """As lm-eval calls it. Raises ValueError where it gives nothing."""
        found = self.function(deepcopy(dict(row)))  # what it changes of a row is its own
        if found is None:
            raise ValueError(f"`{self.function.__name__}` gave None")
        return found

    def __repr__(self) -> str:
        return f"RowFunction({self.reached_from[0]}, {self.version})"


class FunctionScorer:
    """A function of the author's: its number, or its numbers by name, and what it says of the answer beside them."""

    is_told_by_repr = True

    def __init__(self, function: Callable[[dict[str, Any], str], Any], names: tuple[str, ...], version: str) -> None:
        self.function, self.names, self.version = function, names, version

    def __call__(self, row: Row, results: Sequence[str]) -> dict[str, Any]:
        """As lm-eval calls it, for one sample. Raises ScoringError, UngradableError."""
        return verdicts_of(self.function(deepcopy(dict(row)), results[0]), self.names, self.function)

    def __repr__(self) -> str:
        versions = f"{VERDICTS_VERSION}.{SCORING_VERSION}"
        return f"FunctionScorer({self.function.__name__}, {self.names}, {self.version}, version={versions})"


def choices_of(choices: str | Sequence[str] | None, row: Row) -> list[str]:
    """The choices of a row: as they are written, from its column, or from an expression."""
    found: Any = choices
    if isinstance(choices, str):
        found = row[choices] if choices in row else literal(rendered(choices, row))
    if not isinstance(found, list | tuple) or not found:
        has = ", ".join(sorted(row))
        raise ValueError(f"`choices` is {choices!r}, which gives {found!r} and no list of choices; the row has {has}")
    return [str(one) for one in found]


def _shown(name: str, row: Row) -> Any:
    """A column's value, or what a template gives."""
    return row[name] if name in row else value_of(name, row)


def json_field_in(text: str, field: str) -> str:
    """A field of the last JSON object in an answer."""
    decoder, found = json.JSONDecoder(), None
    place = text.find("{")
    while place >= 0:
        try:
            found, place_after = decoder.raw_decode(text, place)
            place = text.find("{", place_after)
        except (ValueError, RecursionError):
            place = text.find("{", place + 1)
    for part in field.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return UNPARSEABLE if found is None else found if isinstance(found, str) else json.dumps(found)
