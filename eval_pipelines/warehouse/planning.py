"""What a publication has to read: which landed files are new, and whether what is published can be extended by them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import duckdb

from eval_pipelines.errors import WarehouseError
from eval_pipelines.warehouse import noticed, segments, tables
from eval_pipelines.warehouse.read import open_published, published_path
from eval_pipelines.warehouse.tables import LandedFile, run

# So few landed files are all looked at each time; of more, those that writers left a note for, and all once a day.
FEW_FILES: Final = 5_000
WALK_EVERY: Final = timedelta(hours=24)


def unpublished_files(data_root: Path) -> int:
    """How many landed files the published database does not hold yet; for a sensor that asks whether to publish."""
    landing = data_root.resolve() / "landing"
    if not published_path(data_root).exists():
        return len(tables.landed_files(landing))
    connection = open_published(data_root)
    try:
        [(n_known,)] = run(connection, "SELECT count(*) FROM landed_files")
        if n_known <= FEW_FILES:
            return len(set(tables.landed_files(landing).values()) - tables.known_files(connection))
        folders = {notice.folder for notice in noticed.notices(landing)}
        return len(set(tables.files_in(landing, folders).values()) - tables.known_files(connection, folders))
    finally:
        connection.close()


@dataclass(frozen=True)
class Former:
    """What is published: `n_files` is 0 if it cannot be extended."""

    generation: int = 0
    n_files: int = 0
    models_digest: str = ""
    walked_at: datetime | None = None
    counted: frozenset[segments.Segment] = frozenset()


@dataclass(frozen=True)
class Plan:
    """What a publication is to read, and whether it extends the former one."""

    new: set[LandedFile]
    is_extended: bool
    is_walked: bool
    notices: list[noticed.Notice]


def plan(root: Path, former: Former, now: datetime, *, is_full: bool) -> Plan:
    """Notes are read before folders are looked into: what is named after that has a note that stays."""
    landing, target = root / "landing", published_path(root)
    notices = noticed.notices(landing)
    is_due = former.walked_at is None or now - former.walked_at > WALK_EVERY
    if former.n_files > FEW_FILES and not is_full and not is_due and (landing / "metrics").is_dir():
        folders = {notice.folder for notice in notices}
        seen, known = set(tables.files_in(landing, folders).values()), _known(target, folders)
        if known <= seen:
            return Plan(seen - known, True, False, notices)
    landed = set(tables.landed_files(landing).values())
    if former.n_files and not landed:
        # An unmounted disk looks like this. An empty leaderboard would hide it.
        raise WarehouseError(
            f"{landing} is empty, but {target} was made from {former.n_files} files of it. Is a disk not mounted? "
            f"To really start over, delete {target.name} and publish again."
        )
    known_all = _known(target, None) if former.n_files and not is_full else None
    if known_all is not None and known_all <= landed:
        return Plan(landed - known_all, True, True, notices)
    return Plan(landed, False, True, notices)


def _known(target: Path, folders: set[str] | None) -> set[LandedFile]:
    connection = open_published(target.parent)
    try:
        return tables.known_files(connection, folders)
    finally:
        connection.close()


def former_state(target: Path) -> Former:
    """What is published, as far as it can be extended."""
    if not target.exists():
        return Former()
    try:
        connection = open_published(target.parent)
    except WarehouseError:
        # Damaged, or written by a DuckDB we cannot read: it is derived, so build it anew.
        return Former()
    try:
        [(generation, shape)] = run(connection, "SELECT generation, shape_version FROM meta")
        if shape != tables.SHAPE_VERSION:
            return Former(generation)
        counted = frozenset(segments.listed(connection))
        if not segments.are_there(target.parent / segments.FOLDER, counted):
            return Former(generation, counted=counted)
        [(digest, walked_at)] = run(connection, "SELECT models_digest, walked_at FROM meta")
        [(n_files,)] = run(connection, "SELECT count(*) FROM landed_files")
        return Former(generation, n_files, digest, walked_at.replace(tzinfo=UTC), counted)
    except (duckdb.Error, ValueError):
        return Former()
    finally:
        connection.close()
