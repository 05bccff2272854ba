"""What the templates of one's own benchmarks give: text, or the list that they show."""

import ast
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2

# where a template's values are noted while it is rendered; no column is called so
_SHOWN = "_shown_by_this_template"


def literal(text: str) -> Any:
    """A list where the text reads as one, else the text."""
    if text.startswith("[") and text.endswith("]"):
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError):
            return text
    return text


def rendered(template: str, row: Mapping[str, Any]) -> str:
    """As lm-eval renders it."""
    from lm_eval.utils import apply_template

    return str(apply_template(template, dict(row)))


def value_of(template: str, row: Mapping[str, Any]) -> Any:
    """The list that a template shows or is written as; else its text, also where a row's text reads as a list."""
    shown: list[Any] = []
    text = _noting(template).render({**row, _SHOWN: shown})
    if len(shown) == 1 and isinstance(shown[0], list | tuple) and text.strip() == str(shown[0]):
        return shown[0]
    return literal(text) if template.startswith("[") else text


@lru_cache(maxsize=64)
def _noting(template: str) -> jinja2.Template:
    from lm_eval.utils import env

    # not its own `from_string`: that is kept, with templates that note nothing
    return jinja2.Environment.from_string(env.overlay(finalize=_note), template)


@jinja2.pass_context  # so that nothing is taken for a constant, which would be noted before a row is there
def _note(context: jinja2.runtime.Context, value: Any) -> Any:
    context[_SHOWN].append(value)
    return value
