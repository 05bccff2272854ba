"""Publish: from the landing to one DuckDB file that anyone may read at any time.

Built aside under a lock, then renamed into place. What is large (scores, responses) goes to segments beside it; what is
small is in the file itself. If every landed file that the published database was made from is still there unchanged, a
copy of it is extended by the new files only; otherwise it is built from all of them.
"""

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb

from eval_pipelines.errors import WarehouseError
from eval_pipelines.records import utc_now
from eval_pipelines.warehouse import noticed, planning, segments, tables
from eval_pipelines.warehouse.files import exclusive, sync_file, sync_folder, write_failed
from eval_pipelines.warehouse.planning import unpublished_files
from eval_pipelines.warehouse.read import published_path
from eval_pipelines.warehouse.tables import run

if TYPE_CHECKING:
    from dbt_like_sql import SqlProject, SqlTestResult

__all__ = ["PublishReport", "publish", "unpublished_files"]

# The newest version that duckdb 1.5 (its command line, too) and 2.0 both read and write.
STORAGE_VERSION: Final = "v1.2.0"
LOCK_TIMEOUT_S: Final = 600.0
MEMORY_LIMIT: Final = "1200MB"


@dataclass(frozen=True)
class PublishReport:
    """What one publication did.

    generation    counts publications; grows by one each time, starts anew if the file was deleted
    n_rows        rows by table, landed kinds and marts; other views are not counted
    tests         every SQL test, passed or not; failing ones do not stop a publication unless `severity: block`
    wall_s        until the new state could be read
    merge_s       after that: merging segments, for readers' sake
    """

    path: Path
    generation: int
    is_full_rebuild: bool
    n_new_files: int
    n_rows: dict[str, int]
    tests: "tuple[SqlTestResult, ...]"
    wall_s: float
    merge_s: float = 0.0

    @property
    def failing(self) -> "tuple[SqlTestResult, ...]":
        """The tests that found something."""
        return tuple(test for test in self.tests if not test.is_passed)


def publish(
    data_root: Path,
    *,
    models: "SqlProject | None" = None,
    now: datetime | None = None,
    is_full: bool = False,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
) -> PublishReport:
    """Bring `<data root>/scores.duckdb` up to the landing. Readers keep what they have open.

    Args:
        models: the SQL models and tests; by default those of the `dbt_like_sql` package.
        is_full: build from all landed files, even where extending would do.
        lock_timeout_s: how long to wait for another publication.

    Raises:
        SqlModelError: a model or test is wrong (file and line).
        WarehouseError: a landed file has another shape, a blocking test failed, or the disk is full. The former
            publication stays as it was.
    """
    if models is None:
        from dbt_like_sql import load

        models = load()
    started = time.monotonic()
    root = data_root.resolve()
    try:
        with exclusive(root / ".publish.lock", timeout_s=lock_timeout_s):
            _remove_litter(root)
            try:
                return _publish(root, models, now or utc_now(), is_full=is_full, started=started)
            finally:
                _remove_litter(root)
    except (OSError, duckdb.IOException, duckdb.OutOfMemoryException, duckdb.TransactionException) as error:
        raise write_failed(published_path(root), error) from error


def _publish(root: Path, models: "SqlProject", now: datetime, *, is_full: bool, started: float) -> PublishReport:
    from dbt_like_sql import build, run_tests

    target, aside = published_path(root), root / f".pub-{uuid.uuid4().hex}.duckdb"
    former = planning.former_state(target)
    plan = planning.plan(root, former, now, is_full=is_full)
    if plan.is_extended:
        shutil.copyfile(target, aside)
    is_refreshed = plan.is_extended and former.models_digest == models.digest
    changed = tables.TOUCHED if is_refreshed else None
    with segments.kept_if_done(root / segments.FOLDER), _database(aside) as connection:
        run(connection, "BEGIN")
        if not plan.is_extended:
            tables.create(connection)
        elif not is_refreshed:
            tables.drop_derived(connection)
        tables.insert(connection, root, plan.new)
        segments.create_views(connection, root / segments.FOLDER)
        build(models, connection, changed=changed)
        walked_at = now if plan.is_walked or former.walked_at is None else former.walked_at
        tables.write_meta(
            connection,
            {
                "generation": former.generation + 1,
                "published_at": now.astimezone(UTC).replace(tzinfo=None),
                "project_version": _project_version(),
                "duckdb_version": duckdb.__version__,
                "shape_version": tables.SHAPE_VERSION,
                "models_digest": models.digest,
                "walked_at": walked_at.astimezone(UTC).replace(tzinfo=None),
            },
        )
        run(connection, "COMMIT")
        tests = run_tests(models, connection, changed=changed, large=frozenset(segments.ORDER))
        _check_blocking(tests)
        n_rows = tables.count_rows(connection)
        counted = segments.listed(connection)
    segments.touch(root / segments.FOLDER, former.counted - set(counted))
    _put_in_place(aside, target)
    noticed.forget(plan.notices)
    readable = time.monotonic()
    _merge(root, counted)
    return PublishReport(
        target, former.generation + 1, not plan.is_extended, len(plan.new), n_rows, tests,
        readable - started, time.monotonic() - readable,
    )  # fmt: skip


def _merge(root: Path, counted: list[segments.Segment]) -> None:
    """Merge segments of one size, until none is due, and put the same state in place with fewer of them."""
    target, folder = published_path(root), root / segments.FOLDER
    if segments.due(counted):
        aside = root / f".pub-{uuid.uuid4().hex}.duckdb"
        shutil.copyfile(target, aside)
        with segments.kept_if_done(folder), _database(aside) as connection:
            while chosen := segments.due(segments.listed(connection)):
                segments.merge(connection, folder, chosen)
            segments.create_views(connection, folder)
            left = segments.listed(connection)
        segments.touch(folder, set(counted) - set(left))
        _put_in_place(aside, target)
        counted = left
    segments.sweep(folder, counted)


@contextmanager
def _database(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The file to publish, open for writing under the catalog `pub`; written out and closed at the end."""
    connection = duckdb.connect()
    try:
        run(connection, "SET enable_progress_bar = false")
        run(connection, "SET TimeZone = 'UTC'")
        run(connection, f"SET memory_limit = '{MEMORY_LIMIT}'")
        run(connection, f"SET temp_directory = '{_escaped(path.with_suffix('.tmp'))}'")
        run(connection, f"ATTACH '{_escaped(path)}' AS pub (STORAGE_VERSION '{STORAGE_VERSION}')")
        run(connection, "USE pub")
        yield connection
        run(connection, "CHECKPOINT pub")
        run(connection, "USE memory")
        run(connection, "DETACH pub")
    finally:
        connection.close()


def _put_in_place(aside: Path, target: Path) -> None:
    log = aside.with_name(f"{aside.name}.wal")
    if log.exists():
        raise WarehouseError(f"{log} remained after the checkpoint, so {aside.name} is not whole. Publish again.")
    sync_file(aside)
    os.replace(aside, target)
    sync_folder(target.parent)


def _check_blocking(tests: "tuple[SqlTestResult, ...]") -> None:
    for test in tests:
        if test.severity == "block" and not test.is_passed:
            raise WarehouseError(
                f"nothing was published: {test.path} found {test.n_failing} rows ({test.meaning}) First: {test.rows[0]}"
            )


def _remove_litter(root: Path) -> None:
    """Delete what killed publications left; only under the lock, where nobody else builds."""
    for path in root.glob(".pub-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _project_version() -> str:
    try:
        return metadata.version("eval-pipelines")
    except metadata.PackageNotFoundError:
        return "unknown"


def _escaped(path: Path) -> str:
    return str(path).replace("'", "''")
