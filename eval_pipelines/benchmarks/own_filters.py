"""Extractors of one's own benchmarks as filters of lm-eval's; importing this adds them to its registry."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.filter import Filter
from lm_eval.api.registry import register_filter

from eval_pipelines.benchmarks.choice_letters import letter_in
from eval_pipelines.benchmarks.own_metrics import plain_minus
from eval_pipelines.benchmarks.own_scoring import UNPARSEABLE, choices_of, json_field_in

# `3-5` is a span; a comma parts only what comes in threes
_NUMBER = re.compile(r"(?:(?<![A-Za-z_\d)])[-+])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)")


def _each(answers: Sequence[Sequence[Any]], rows: Sequence[Any], take: Callable[[str, Any], str]) -> list[list[str]]:
    return [
        [take(answer if isinstance(answer, str) else "", row) for answer in repeats]
        for repeats, row in zip(answers, rows, strict=True)
    ]


def _first_or(found: Sequence[str], place: int) -> str:
    return found[place].strip() if found else UNPARSEABLE


class _Extractor(Filter):  # type: ignore[misc]
    """Gives its fallback where it finds nothing, as lm-eval's own extractors do."""

    fallback = UNPARSEABLE


@register_filter("first_line")
class FirstLine(_Extractor):
    """The first line that is not empty."""

    def apply(self, resps: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
        return _each(resps, docs, lambda text, _: _first_or(re.findall(r"\S.*", text), 0))


@register_filter("last_line")
class LastLine(_Extractor):
    """The last line that is not empty."""

    def apply(self, resps: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
        return _each(resps, docs, lambda text, _: _first_or(re.findall(r"\S.*", text), -1))


@register_filter("number")
class Number(_Extractor):
    """The last number."""

    def apply(self, resps: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
        return _each(resps, docs, lambda text, _: _first_or(_NUMBER.findall(plain_minus(text)), -1))


@register_filter("choice_letter")
class ChoiceLetter(_Extractor):
    """The letter of the choice that the answer settles on."""

    def __init__(self, choices: Any) -> None:
        self.choices = choices

    def apply(self, resps: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
        return _each(resps, docs, lambda text, row: letter_in(text, len(choices_of(self.choices, row))))


@register_filter("json_field")
class JsonField(_Extractor):
    """A field of the last JSON object."""

    def __init__(self, field: str) -> None:
        self.field = field

    def apply(self, resps: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
        return _each(resps, docs, lambda text, _: json_field_in(text, self.field))
