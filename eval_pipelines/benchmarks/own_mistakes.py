"""What is wrong in the file of a benchmark of one's own, in the words of who wrote it."""

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from eval_pipelines.benchmarks.own_scoring import (
    ExactMatch,
    ExtractBy,
    ExtractName,
    Includes,
    MetricBy,
    MetricName,
    Numeric,
)

# what may stand there, where several shapes may
_SHAPES = {
    "data": "a file's name, or a mapping such as {hub: …, revision: …, splits: …}",
    "choices": "a list of texts, or the text of an expression or of a column's name",
    "extract": f"one of {', '.join(get_args(ExtractName))}, {{regex: …}} and {{json_field: …}}",
    "metric": f"one of {', '.join(get_args(MetricName))}, one with options such as {{numeric: {{tolerance: 1}}}}, or a list of these",
    "tag": "a name, or a list of names",
    "version": "a number or a text",
}
_OPTIONS: dict[str, type[BaseModel]] = {
    "extract": ExtractBy, "metric": MetricBy, "exact_match": ExactMatch, "includes": Includes, "numeric": Numeric
}  # fmt: skip
# that a value has not this or that shape: told once, by all it may have
_OF_SHAPE = ("literal_error", "model_type", "model_attributes_type", "is_instance_of")


def mistakes_in(invalid: ValidationError, known: type[BaseModel], *, inside: str = "") -> list[str]:
    """Each mistake with its place: `metric.numeric.tolerance: …`.

    Args:
        known: what was read.
        inside: the key that it was read from; none: it is the whole file.
    """
    by_key: dict[str, list[Any]] = {}
    for error in invalid.errors():
        by_key.setdefault(str(error["loc"][0]) if error["loc"] else "", []).append(error)
    lines: list[str] = []
    for key, errors in by_key.items():
        of_values = [one for one in errors if not _is_of_shape(one)]
        if key in _SHAPES and not inside and not of_values:
            lines.append(
                f"{key}: {max(errors, key=lambda one: len(one['loc']))['input']!r} is none: give {_SHAPES[key]}"
            )
        else:
            lines += [_line(one, known, inside) for one in of_values or errors]
    return lines


def _is_of_shape(error: Any) -> bool:
    return error["type"] in _OF_SHAPE or error["type"].endswith("_type")


def _line(error: Any, known: type[BaseModel], inside: str) -> str:
    place = [*([inside] if inside else []), *_keys(error["loc"])]
    return f"{'.'.join(place) or 'as a whole'}: {_words(error, known, place)}"


def _keys(loc: tuple[int | str, ...]) -> Iterator[str]:
    """Without the names that pydantic gives to the shapes it tries: `list[str]`, `function-after[…]`, `str`."""
    for part in loc:
        if isinstance(part, int) or (re.fullmatch(r"\w+", part) and part not in ("str", "int", "float")):
            yield str(part)


def _words(error: Any, known: type[BaseModel], place: list[str]) -> str:
    if error["type"] == "missing":
        return "required, but missing"
    if error["type"] == "extra_forbidden":
        holder = _OPTIONS.get(next((key for key in reversed(place[:-1]) if not key.isdigit()), ""), known)
        return f"unknown key; known are {', '.join(holder.model_fields)}"
    return str(error["msg"]).removeprefix("Value error, ")
