"""What a loaded .sql file is: a model, a macro or a test. Plain values."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from eval_pipelines.keys import digest

FOLDER: Final = Path(__file__).parent
SOURCES: Final = frozenset(
    {
        "evaluations", "metrics", "scores", "judgements", "samples", "responses", "server_metrics", "gate_verdicts",
        "configured",
    }
)  # fmt: skip

Layer = Literal["staging", "marts"]
Materialized = Literal["table", "view"]
Severity = Literal["warn", "error", "block"]


def column_notes(columns: str) -> dict[str, str]:
    """Column → what a header says of it: `a, b: meaning · c: meaning`."""
    notes: dict[str, str] = {}
    for entry in columns.split(" · "):
        names, _, meaning = entry.partition(": ")
        notes |= {name.strip(): meaning.strip() for name in names.split(",")}
    return notes


@dataclass(frozen=True)
class SqlModel:
    """One table or view.

    sql         the file's whole text: line numbers in errors are the file's own
    references  table → line of its first mention; models and sources alike, also those that its macros read
    calls       macro → line of its first call
    grouped_by  columns: rows with the same values in them are made from source rows with the same values, and from
                no others; so a publication makes those of new rows anew. Empty: all is made anew
    sums_over   a table: every column outside the grain is a sum over its rows, so what left it is subtracted
    kept_by     a table: it lists each row by its grain, with every grading that the row is made from; while what it
                lists stays the same, so does the row
    """

    name: str
    layer: Layer
    path: Path
    sql: str
    summary: str
    grain: str
    rule: str
    columns: str
    reader: str
    materialized: Materialized
    references: dict[str, int]
    calls: dict[str, int]
    grouped_by: tuple[str, ...] = ()
    sums_over: str = ""
    kept_by: str = ""

    @property
    def grain_columns(self) -> tuple[str, ...]:
        """Columns that tell its rows apart; empty if the header says no more than prose."""
        found = re.match(r"one row per \(([a-z0-9_, ]+)\)", self.grain)
        return tuple(part.strip() for part in found.group(1).split(",")) if found else ()

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Models and sources this one reads, sorted."""
        return tuple(sorted(self.references))

    @property
    def description(self) -> str:
        """The header as Markdown, for whoever shows the table."""
        parts = [("Grain", self.grain), ("Rule", self.rule), ("Columns", self.columns), ("Reader", self.reader)]
        return _described(self.summary, parts)


@dataclass(frozen=True)
class SqlMacro:
    """One table macro: a SELECT with parameters, kept in the published file. It may bear the name of a table.

    parameters  as they are written in SQL: `model, as_of := NULL`
    takes       what each parameter means
    references, calls  as for a model
    """

    name: str
    parameters: str
    path: Path
    sql: str
    summary: str
    takes: str
    grain: str
    rule: str
    columns: str
    reader: str
    references: dict[str, int]
    calls: dict[str, int]

    @property
    def n_parameters(self) -> int:
        """How many there are, those with a default included."""
        outside_brackets = re.sub(r"[\[(].*?[\])]", "", self.parameters)
        return outside_brackets.count(",") + 1 if self.parameters.strip() else 0

    @property
    def signature(self) -> str:
        """How it is called."""
        return f"{self.name}({self.parameters})"

    @property
    def description(self) -> str:
        """The header as Markdown."""
        parts = [("Takes", self.takes), ("Grain", self.grain), ("Rule", self.rule), ("Columns", self.columns)]
        return _described(f"`FROM {self.signature}`: {self.summary}", [*parts, ("Reader", self.reader)])


def _described(summary: str, parts: list[tuple[str, str]]) -> str:
    return "\n\n".join([summary, *(f"**{word}**: {text}" for word, text in parts if text)])


@dataclass(frozen=True)
class SqlTest:
    """A query that returns what violates it.

    meaning   what one returned row says
    reads     tables and views it reads
    severity  warn, error: published, and shown as such; block: nothing is published
    """

    name: str
    model: str
    path: Path
    sql: str
    meaning: str
    severity: Severity
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class SqlProject:
    """Models and macros in an order in which they can be built, and the tests over them."""

    folder: Path
    items: tuple[SqlModel | SqlMacro, ...]
    tests: tuple[SqlTest, ...]

    @cached_property
    def models(self) -> tuple[SqlModel, ...]:
        """The tables and views."""
        return tuple(item for item in self.items if isinstance(item, SqlModel))

    @cached_property
    def macros(self) -> tuple[SqlMacro, ...]:
        """The questions with parameters."""
        return tuple(item for item in self.items if isinstance(item, SqlMacro))

    @cached_property
    def digest(self) -> str:
        """Changes with any model, macro or test."""
        texts = [[one.name, one.sql] for one in (*self.items, *self.tests)]
        return digest(texts, n_bytes=8)

    def model(self, name: str) -> SqlModel:
        """The model of that name. Raises KeyError."""
        return {model.name: model for model in self.models}[name]

    def macros_of(self, model: SqlModel) -> tuple[SqlMacro, ...]:
        """Where a reader of this table meets them: of its name, or reading it and bearing no table's name."""
        names = {one.name for one in self.models}
        return tuple(
            macro
            for macro in self.macros
            if macro.name == model.name or (macro.name not in names and model.name in macro.references)
        )

    def live_sources(self, name: str) -> frozenset[str]:
        """Landed kinds that are read whenever `name` is: through views, not through tables."""
        known = {model.name: model for model in self.models}
        model = known.get(name)
        if model is None:
            return frozenset({name})
        if model.materialized == "table":
            return frozenset()
        return frozenset().union(*(self.live_sources(table) for table in model.references))

    def upstream(self, name: str) -> frozenset[str]:
        """Every model and source that `name` rests on, however far away."""
        known = {model.name: model for model in self.models}
        found: set[str] = set()
        waiting = [name]
        while waiting:
            model = known.get(waiting.pop())
            new = set(model.references) - found if model else set()
            found |= new
            waiting.extend(new)
        return frozenset(found)
