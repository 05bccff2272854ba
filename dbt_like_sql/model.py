"""What a loaded .sql file is: a model or a test. Plain values."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from eval_pipelines.keys import digest

FOLDER: Final = Path(__file__).parent
SOURCES: Final = frozenset({"evaluations", "metrics", "scores", "samples", "responses", "server_metrics"})

Layer = Literal["staging", "marts"]
Materialized = Literal["table", "view"]
Severity = Literal["warn", "error", "block"]


@dataclass(frozen=True)
class SqlModel:
    """One table or view.

    sql         the file's whole text: line numbers in errors are the file's own
    references  table → line of its first mention; models and sources alike
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

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Models and sources this one reads, sorted."""
        return tuple(sorted(self.references))

    @property
    def description(self) -> str:
        """The header as Markdown, for whoever shows the table."""
        parts = [("Grain", self.grain), ("Rule", self.rule), ("Columns", self.columns), ("Reader", self.reader)]
        return "\n\n".join([self.summary, *(f"**{word}**: {text}" for word, text in parts if text)])


@dataclass(frozen=True)
class SqlTest:
    """A query that returns what violates it.

    meaning   what one returned row says
    severity  warn, error: published, and shown as such; block: nothing is published
    """

    name: str
    model: str
    path: Path
    sql: str
    meaning: str
    severity: Severity


@dataclass(frozen=True)
class SqlProject:
    """Models in an order in which they can be built, and the tests over them."""

    folder: Path
    models: tuple[SqlModel, ...]
    tests: tuple[SqlTest, ...]

    @cached_property
    def digest(self) -> str:
        """Changes with any model or test."""
        texts = [[model.name, model.sql] for model in self.models] + [[test.name, test.sql] for test in self.tests]
        return digest(texts, n_bytes=8)

    def model(self, name: str) -> SqlModel:
        """The model of that name. Raises KeyError."""
        return {model.name: model for model in self.models}[name]

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
