"""Numbered changes of landed shapes: how a file that was landed earlier is read as if it were landed today.

    migrations/NNN_<what>.sql      says `-- kind: <kind>`; one SELECT from `landed`: rows of shape NNN - 1 in, of NNN out

Landed files are never rewritten. Each carries the number of the newest shape at its time (1 is the first that was
numbered; none: from before that, of the same shape) and is read through the migrations that came after it. A column
that is only added, and may be null, needs none: it reads as null. A renamed column, a column with a default, a changed
type or unit does. The first is 002; numbers are never reused or reordered.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from eval_pipelines.errors import WarehouseError

FOLDER: Final = Path(__file__).parent
_NAME: Final = re.compile(r"(\d{3})_[a-z0-9_]+\.sql")
_KIND: Final = re.compile(r"^-- kind: ([a-z_]+)$", flags=re.MULTILINE)


@dataclass(frozen=True, order=True)
class Migration:
    """One file: rows of `kind` as they were before `number`, as they are since."""

    number: int
    kind: str
    sql: str


@cache
def found(folder: Path | None = None) -> tuple[Migration, ...]:
    """All of them, in order. Raises WarehouseError for a name, kind or number that cannot be."""
    migrations = []
    for path in sorted((folder or FOLDER).glob("*.sql")):
        sql = path.read_text(encoding="utf-8").strip().rstrip(";")
        name, kind = _NAME.fullmatch(path.name), _KIND.search(sql)
        if not name or not kind:
            raise WarehouseError(f"{path}: a migration is called NNN_<what>.sql and says `-- kind: <landed kind>`")
        migrations.append(Migration(int(name.group(1)), kind.group(1), sql))
    numbers = [one.number for one in migrations]
    if numbers != list(range(2, len(numbers) + 2)):
        raise WarehouseError(f"{folder or FOLDER}: migrations are numbered 002, 003 … without a gap, not {numbers}")
    return tuple(migrations)


def newest() -> int:
    """The number of today's shapes."""
    return 1 + len(found())


def applies(kind: str, version: int) -> bool:
    """Whether files of this kind and version are to be changed as they are read."""
    return any(one.kind == kind and one.number > version for one in found())


def newest_rows(kind: str, version: int, landed: str) -> str:
    """SQL for the rows that the query `landed` finds, which are of an older version, as they are today."""
    for one in found():
        if one.kind == kind and one.number > max(version, 1):
            landed = f"(WITH landed AS ({landed}) {one.sql}\n)"
    return landed


def texts() -> list[tuple[int, str, str]]:
    """What a published database depends on."""
    return [(one.number, one.kind, one.sql) for one in found()]
