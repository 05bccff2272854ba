"""The comment that each .sql file opens with: one sentence, then fields and settings.

-- name: what it is, in one sentence.
--
-- materialized: view            settings, one a line
-- Grain    one row per (a, b)   fields; what follows with an indent goes on with them
"""

import re
from pathlib import Path
from typing import Final

from eval_pipelines.errors import SqlModelError

FIELDS: Final = ("Takes", "Grain", "Rule", "Columns", "Reader")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


def text_of(path: Path) -> str:
    """The file's SQL. Raises SqlModelError if the file is not called as a table may be."""
    if not _NAME.fullmatch(path.stem):
        raise SqlModelError(path, 1, f"{path.stem!r} is no table name: lower-case letters, digits and '_' only")
    return path.read_text(encoding="utf-8").rstrip().rstrip(";")


def header(path: Path, sql: str) -> tuple[str, dict[str, str], dict[str, tuple[str, int]]]:
    """Summary, fields and settings (value, line) of the first comment block. Raises SqlModelError."""
    lines = []
    for line in sql.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line[2:].removeprefix(" ").rstrip())
    name, colon, summary = lines[0].partition(": ") if lines else ("", "", "")
    if not colon or name != path.stem:
        raise SqlModelError(path, 1, f"the first line must read `-- {path.stem}: <what it is, in one sentence>`")
    fields: dict[str, str] = {}
    settings: dict[str, tuple[str, int]] = {}
    word = ""
    for number, line in enumerate(lines[1:], start=2):
        setting = re.fullmatch(r"(materialized|test|severity|macro|grouped by|sums over|kept by):\s*(\S.*)", line)
        field = re.match(rf"({'|'.join(FIELDS)})\s+(\S.*)", line)
        if setting:
            settings[setting.group(1)] = (setting.group(2), number)
        elif field:
            word = field.group(1)
            fields[word] = field.group(2)
        elif word and line.startswith(" "):
            fields[word] += f" {line.strip()}"
        elif not fields and line:
            summary += f" {line.strip()}"
    return summary, fields, settings


def one_of(path: Path, what: str, setting: tuple[str, int], allowed: tuple[str, ...] | list[str]) -> str:
    """The value of a setting. Raises SqlModelError on its line if it is none of those allowed."""
    value, line = setting
    if value not in allowed:
        raise SqlModelError(path, line, f"`-- {what}: {value}` is not one of {', '.join(allowed)}")
    return value
