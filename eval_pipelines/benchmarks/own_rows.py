"""The rows of a benchmark of one's own, as lm-eval takes a data set: each as it is written.

A table of one type per column would make 2.0 of a 2 beside a 0.5, and give every object the keys of all others.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import meta

from eval_pipelines.benchmarks.data import Row
from eval_pipelines.errors import DataError


class OwnRows(list[Row]):
    """Rows that all have the same columns."""

    @property
    def features(self) -> dict[str, None]:
        """The columns; lm-eval looks a prompt up there before it takes it for a template."""
        return dict.fromkeys(self[0] if self else ())


_TOLD_WHEN_IT_IS_ASKED = (
    jinja2.TemplateError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError
)  # fmt: skip


class _Nothing(Exception):
    """A template writes None."""


def check_shown(
    templates: Mapping[str, Any], splits: Mapping[str, Sequence[Row]], places: Mapping[str, str], *, benchmark: str
) -> None:
    """See that no prompt and no target says "None" where a row has nothing.

    Args:
        templates: `prompt` and `target` by that name; what is no text (a function) is not looked at.
        splits: the rows that are rendered.
        places: where the rows of each split come from.

    Raises:
        DataError: a row has no value for what its prompt or target shows.
    """
    for name, text in templates.items():
        if not isinstance(text, str):
            continue
        for split, rows in splits.items():
            for number, columns in _with_nothing(text, rows):
                raise DataError(
                    f"benchmarks.{benchmark}.data: {places[split]}: row {number} has no {columns}, which `{name}` shows. "
                    f"Give the row a value, take it out, or say what to show: {{{{ column or '' }}}}."
                )


def _with_nothing(text: str, rows: Sequence[Row]) -> Iterator[tuple[int, str]]:
    """Rows by their number from 1, with the columns that are empty there."""
    from lm_eval.utils import env

    if not rows or text in rows[0]:  # the name of a column is that column
        yield from ((number, f"`{text}`") for number, row in enumerate(rows, 1) if row[text] is None)
        return
    # not its own `from_string`: that is kept, with templates that write None
    template = jinja2.Environment.from_string(env.overlay(finalize=_written), text)
    used = meta.find_undeclared_variables(env.parse(text))
    for number, row in enumerate(rows, 1):
        try:
            template.render(**row)
        except _Nothing:
            empty = (f"`{column}`" for column in sorted(used) if row.get(column) is None)
            yield number, " or ".join(empty) or f"value in {text!r}"
        except _TOLD_WHEN_IT_IS_ASKED:
            continue


@jinja2.pass_context  # so that nothing is taken for a constant, which would be written before a row is there
def _written(_context: Any, value: Any) -> Any:
    if value is None:
        raise _Nothing
    return value
