"""Rows for people and for programs: a table that fits the terminal, Markdown, CSV, JSON, Parquet.

What models wrote is shown as it is and does nothing: control characters and reversed text are spelled out.
"""

import csv
import io
import json
import math
import os
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

from eval_pipelines.errors import ConfigError

Row = dict[str, Any]
Format = Literal["table", "csv", "json", "markdown", "parquet"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)
_ENDINGS: Final = {
    ".csv": "csv", ".json": "json", ".md": "markdown", ".markdown": "markdown", ".parquet": "parquet", ".txt": "table"
}  # fmt: skip
# a string, or a number that is none
_NO_JSON: Final = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")|-?(?:NaN|Infinity)')
_GAP: Final = 2
_MIN_WIDTH: Final = 12


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table for people.

    Attributes:
        told: A row → the cell's text.
        rank: How dispensable: where the terminal is narrow, the highest rank goes first; 0 never goes.
        is_number: Set flush right, never broken.
        max_width: Longer texts are broken (or cut, where one line is wanted) at this many characters.
    """

    head: str
    told: Callable[[Row], str]
    rank: int = 0
    is_number: bool = False
    max_width: int | None = None


def of_path(path: Path) -> Format:
    """The format that a file's ending names. Raises ConfigError, saying which there are."""
    found = _ENDINGS.get(path.suffix.lower())
    if found is None:
        raise ConfigError(
            f"{path}: its ending names no format. Use one of {', '.join(_ENDINGS)}, or say --format {'|'.join(FORMATS)}."
        )
    return found  # type: ignore[return-value]


def printable(text: str) -> str:
    """The text with everything spelled out that would move a cursor, change a colour or turn the reading direction."""
    return "".join(
        one if one == "\n" or unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Co") else _spelled(one)
        for one in text.replace("\r\n", "\n").replace("\t", "    ")
    )


def one_line(text: str, width: int | None = None) -> str:
    """The text on one line, cut at a width with an ellipsis."""
    line = " ".join(printable(text).split())
    return line if width is None or len(line) <= width else f"{line[: width - 1]}…"


def to_csv(rows: Sequence[Row]) -> str:
    """RFC 4180 with a header; nulls are empty, moments ISO 8601, lists JSON."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
        writer.writerows([_plain(value) for value in row.values()] for row in rows)
    return out.getvalue()


def to_json(rows: Sequence[Row]) -> str:
    """An array of objects; moments ISO 8601, numbers that JSON has no word for null."""
    return json.dumps(_finite(list(rows)), default=_json, indent=2, ensure_ascii=False) + "\n"


def null_what_json_lacks(path: Path) -> None:
    """Write null for the NaN and Infinity of a file whose strings each stand on one line, as DuckDB writes JSON."""
    with written_aside(path) as aside, path.open("rb") as lines, aside.open("wb") as mended:
        for line in lines:
            is_valid = b"NaN" not in line and b"Infinity" not in line
            mended.write(line if is_valid else _NO_JSON.sub(lambda found: found[1] or b"null", line))


def to_markdown(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """A table in GitHub's Markdown in which nothing that a model wrote is markup."""
    head = [column.head for column in columns]
    rule = ["---:" if column.is_number else "---" for column in columns]
    body = [[_markdown_cell(column.told(row)) for column in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *body))


def to_table(columns: Sequence[Column], rows: Sequence[Row], width: int | None) -> str:
    """Columns set side by side. `width`: of the terminal; None: as wide as it takes, one line a row.

    Where it is too narrow, dispensable columns go, then the widest text is broken over lines.
    """
    cells = {column.head: [printable(column.told(row)) for row in rows] for column in columns}
    shown, widths = _fitted(list(columns), cells, width)
    lines = [_line(shown, widths, [column.head for column in shown])]
    lines.append(_line(shown, widths, ["─" * widths[column.head] for column in shown]))
    for i in range(len(rows)):
        broken = [_broken(cells[column.head][i], None if width is None else widths[column.head]) for column in shown]
        for k in range(max(len(parts) for parts in broken)):
            lines.append(_line(shown, widths, [parts[k] if k < len(parts) else "" for parts in broken]))
    return "\n".join(lines) + "\n"


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """Write aside, then rename."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with written_aside(path) as aside:
        pq.write_table(pa.Table.from_pylist(list(rows)), aside)


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside the target, renamed onto it at the end: nobody reads half a file. Raises ConfigError."""
    aside = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.replace(aside, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        aside.unlink(missing_ok=True)


def _fitted(
    columns: list[Column], cells: dict[str, list[str]], width: int | None
) -> tuple[list[Column], dict[str, int]]:
    widths = {
        column.head: max(
            [_wide(column.head), *(_wide(part) for cell in cells[column.head] for part in cell.split("\n"))]
        )
        for column in columns
    }
    if width is None:
        return columns, widths
    for column in columns:
        widths[column.head] = min(widths[column.head], max(column.max_width or width, _wide(column.head)))

    def total() -> int:
        return sum(widths[column.head] for column in columns) + _GAP * (len(columns) - 1)

    while total() > width and (least := max(columns, key=lambda column: column.rank)).rank:
        # a text that can be broken needs no other column to go
        spare = sum(max(0, widths[one.head] - 2 * _MIN_WIDTH) for one in columns if not one.is_number)
        if total() - spare <= width:
            break
        columns = [column for column in columns if column is not least]
    while total() > width:
        widest = max((one for one in columns if not one.is_number), key=lambda one: widths[one.head], default=None)
        if widest is None or widths[widest.head] <= _MIN_WIDTH:
            break
        widths[widest.head] -= 1
    return columns, widths


def _line(columns: Sequence[Column], widths: dict[str, int], texts: Sequence[str]) -> str:
    parts = [
        " " * (widths[one.head] - _wide(text)) + text
        if one.is_number
        else text + " " * (widths[one.head] - _wide(text))
        for one, text in zip(columns, texts, strict=True)
    ]
    return (" " * _GAP).join(parts).rstrip()


def _broken(text: str, width: int | None) -> list[str]:
    """A text in lines of at most `width`: at spaces where there are any, else after `@`, `-` or anywhere."""
    if width is None:
        return [one_line(text)]
    lines: list[str] = []
    for rest in text.split("\n"):
        while _wide(rest) > width:
            end = width
            while _wide(rest[:end]) > width:
                end -= 1
            at = max(rest.rfind(" ", 0, end + 1), *(rest.rfind(mark, 0, end) + 1 for mark in "@-_/,"))
            at = at if at > width // 3 else end
            lines.append(rest[:at].rstrip())
            rest = rest[at:].lstrip()
        lines.append(rest)
    return lines


def _wide(text: str) -> int:
    """Terminal cells: East Asian wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def _spelled(one: str) -> str:
    return f"\\x{ord(one):02x}" if ord(one) < 256 else f"\\u{ord(one):04x}"


def _markdown_cell(text: str) -> str:
    line = printable(text).replace("\n", " ")
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{one}" if one in "\\`*_{}[]|#~" else one for one in line)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | dict):
        return json.dumps(_finite(value), default=_json, ensure_ascii=False)
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def _json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
