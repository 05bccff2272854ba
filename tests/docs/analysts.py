"""What docs/analysts.md says, made anew from the SQL headers and from a published record. `make docs` writes it."""

import re
import tempfile
from pathlib import Path
from typing import Any

import duckdb

from dbt_like_sql import load
from dbt_like_sql.model import SqlMacro, SqlModel, column_notes
from tests.published_record import publish_record

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "analysts.md"
_QUESTION = re.compile(r"```sql\n(.*?)```\n<!-- result -->\n.*?<!-- end -->\n", re.DOTALL)
_DICTIONARY = re.compile(r"<!-- dictionary -->\n.*?<!-- end -->\n", re.DOTALL)


def rewritten(text: str, record: Path) -> str:
    """The document with the results and the dictionary that this record and these headers give."""
    with duckdb.connect(str(record / "scores.duckdb"), read_only=True) as database:
        text = _QUESTION.sub(
            lambda found: f"```sql\n{found[1]}```\n<!-- result -->\n{_result(database, found[1])}<!-- end -->\n", text
        )
        told = dictionary(database)
    return _DICTIONARY.sub(lambda _: f"<!-- dictionary -->\n{told}<!-- end -->\n", text)


def questions(text: str) -> list[str]:
    """The queries."""
    return [found[1] for found in _QUESTION.finditer(text)]


def dictionary(database: duckdb.DuckDBPyConnection) -> str:
    """Every table and macro for people, column by column."""
    project = load()
    parts = [
        _section(database, model, model.name)
        for model in sorted(project.models, key=lambda one: one.name)
        if model.layer == "marts"
    ]
    parts.append("### Macros\n\nQueries with parameters, called like a table: `FROM leaderboard(as_of := now())`.\n")
    macros = [macro for macro in project.macros if not macro.name.startswith("stg_")]
    parts += [_section(database, macro, macro.signature) for macro in sorted(macros, key=lambda one: one.name)]
    return "\n".join(parts)


def _section(database: duckdb.DuckDBPyConnection, of: SqlModel | SqlMacro, name: str) -> str:
    fields = [("Takes", of.takes)] if isinstance(of, SqlMacro) else []
    fields += [("Grain", of.grain), ("Rule", of.rule), ("Reader", of.reader)]
    told = "".join(f"- {word}: {_plain(text)}\n" for word, text in fields if text)
    level = "####" if isinstance(of, SqlMacro) else "###"
    lines = [f"{level} `{name}`\n\n{of.summary[0].upper()}{_plain(of.summary[1:])}\n\n{told}"]
    if isinstance(of, SqlModel):
        notes = column_notes(of.columns)
        rows = database.execute(f"DESCRIBE {of.name}").fetchall()
        lines.append(
            _table(
                ["column", "type", "meaning"], [[f"`{row[0]}`", row[1].lower(), _note(notes, row[0])] for row in rows]
            )
        )
    return "\n".join(lines)


def _note(notes: dict[str, str], column: str) -> str:
    """A header may name columns one by one, or those with a common part: `n_*`, `*_per_s`."""
    for name, meaning in notes.items():
        if re.fullmatch(re.escape(name).replace(r"\*", ".*"), column):
            return _plain(meaning)
    return ""


def _result(database: duckdb.DuckDBPyConnection, sql: str) -> str:
    rows = database.execute(sql).fetchall()
    heads = [str(column[0]) for column in database.description or []]
    return _table(heads, [[_cell(value) for value in row] for row in rows])


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return "" if value is None else _plain(str(value))


def _plain(text: str) -> str:
    """Text in which nothing is Markdown. Names with underscores stay readable: within a word they mean nothing."""
    return re.sub(r"([*|<>#`])", r"\\\1", text).replace("\n", " ")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        publish_record(Path(folder))
        DOCUMENT.write_text(rewritten(DOCUMENT.read_text(encoding="utf-8"), Path(folder)), encoding="utf-8")
