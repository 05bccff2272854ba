"""What an evals.yaml is on record to ask for.

Only changes are landed. What holds now is read from what is published and from what landed since: not from all files.
"""

from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import duckdb

from eval_pipelines.errors import WarehouseError
from eval_pipelines.warehouse import tables
from eval_pipelines.warehouse.files import write_copy
from eval_pipelines.warehouse.landed_rows import read
from eval_pipelines.warehouse.landing import folder_of
from eval_pipelines.warehouse.read import fetch, open_published
from eval_pipelines.warehouse.tables import LandedFile

# (model key, benchmark); either may be empty, see `shapes`
Pair = tuple[str, str]

THE_FILE: Final[Pair] = ("", "")
# A configuration that says nothing for long is taken for gone (stg_configured): so one that stays as it is says so.
SAID_AGAIN_AFTER: Final = timedelta(days=1)

_HOLDING: Final = """
SELECT model_key, benchmark, arg_max(is_configured, recorded_at) AS is_configured, max(recorded_at) AS recorded_at
FROM configured
WHERE configured_by = ?
GROUP BY model_key, benchmark
"""


def name_of(root: Path, host: str) -> str:
    """The name a data root has on a record: of the host it was first used on. A container has another with each start.

    Raises:
        WarehouseError: it cannot be kept.
    """
    kept = root / "host-name"
    if not kept.exists():
        write_copy(kept, partial(_write, text=host))
    return kept.read_text(encoding="utf-8").strip()


def _write(aside: Path, *, text: str) -> None:
    aside.write_text(text, encoding="utf-8")


def said(root: Path, by: str, now: datetime) -> set[Pair]:
    """What the configuration `by` is on record to hold; without `THE_FILE` if that is to be said again.

    Raises:
        WarehouseError: a file of another shape.
    """
    rows, known = _published(root, by)
    landing = root / "landing"
    new = set(tables.files_in(landing, [folder_of(by)]).values()) - known
    rows += read("configured", [landing / file.path for file in sorted(new)])
    rows.sort(key=lambda row: row["recorded_at"])
    newest = {(row["model_key"], row["benchmark"]): row["is_configured"] for row in rows}
    is_silent = not rows or now - rows[-1]["recorded_at"] >= SAID_AGAIN_AFTER
    return {pair for pair, holds in newest.items() if holds and not (is_silent and pair == THE_FILE)}


def _published(root: Path, by: str) -> tuple[list[dict[str, Any]], set[LandedFile]]:
    """What is published of it, and from which files; nothing, if what lies there is damaged or of a former shape."""
    try:
        connection = open_published(root)
    except WarehouseError:
        return [], set()
    try:
        return fetch(connection, _HOLDING, [by]), tables.known_files(connection, [folder_of(by)])
    except duckdb.Error:
        return [], set()
    finally:
        connection.close()
