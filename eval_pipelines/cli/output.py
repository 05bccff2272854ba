"""How every command that reads the record prints: for people on a terminal, or in a format for programs."""

import functools
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from eval_pipelines import formats
from eval_pipelines.errors import ConfigError
from eval_pipelines.formats import Column, Row


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--format` and `--to`, which arrive as one argument: `output`."""

    @click.option(
        "--format",
        "form",
        type=click.Choice(formats.FORMATS),
        help="How to print; by default a table, or as --to ends.",
    )
    @click.option(
        "--to",
        "target",
        metavar="FILE",
        help="Write a file instead of printing.",
    )
    @functools.wraps(command)
    def with_output(*args: Any, form: str | None, target: str | None, **options: Any) -> Any:
        return command(*args, output=Output(form, target), **options)

    return with_output


class Output:
    """Where rows go, and in which form."""

    def __init__(self, form: str | None, target: str | None) -> None:
        self.target = None if target is None else Path(target)
        self.form = form or (formats.of_path(self.target) if self.target else "table")
        if self.form == "parquet" and self.target is None:
            raise ConfigError("Parquet is no text: name a file with --to FILE.parquet.")

    @property
    def is_for_people(self) -> bool:
        """Whether notes in sentences may stand beside the table."""
        return self.form == "table" and self.target is None

    def rows(self, rows: Sequence[Row], columns: Sequence[Column]) -> None:
        """Print or write rows: all their columns for programs, the given ones for people."""
        if self.form == "parquet":
            assert self.target is not None
            formats.write_parquet(rows, self.target)
        else:
            self._text(self._told(rows, columns))
        if self.target is not None:
            click.echo(f"{self.target}: {len(rows):,} rows", err=True)

    def _told(self, rows: Sequence[Row], columns: Sequence[Column]) -> str:
        match self.form:
            case "csv":
                return formats.to_csv(rows)
            case "json":
                return formats.to_json(rows)
            case "markdown":
                return formats.to_markdown(columns, rows)
            case _:
                return formats.to_table(columns, rows, None if self.target else terminal_width())

    def _text(self, text: str) -> None:
        if self.target is None:
            click.echo(text, nl=False)
            return
        with formats.written_aside(self.target) as aside:
            aside.write_text(text, encoding="utf-8")


def terminal_width() -> int | None:
    """Of the terminal; None where output is piped: a table cut to 80 columns is no use to grep."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def note(text: str) -> None:
    """A sentence beside a table: broken at the terminal's width, whole in a pipe."""
    width = terminal_width()
    if width is not None:
        start = len(text.lstrip("\n")) - len(text.strip())
        text = "\n" * text.startswith("\n") + textwrap.fill(
            text.strip("\n"), max(width, 40), subsequent_indent=" " * (2 * start), break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
    click.echo(text)


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Every column of rows of which nothing else is known."""
    if not rows:
        return []

    def column(name: str, value: Any) -> Column:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return Column(name, lambda row: plain(row[name]), is_number=is_number)

    return [column(name, next((row[name] for row in rows if row[name] is not None), None)) for name in rows[0]]


def plain(value: Any) -> str:
    """One value as a person reads it: four digits that matter, moments to the second, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:%Y-%m-%d %H:%M:%S}" if hasattr(value, "strftime") else str(value)
