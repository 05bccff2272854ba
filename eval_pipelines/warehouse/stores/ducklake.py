"""DuckLake: every landed kind is a table of a lake whose catalogue is a Postgres; others may query it there as SQL.

A kind that a migration changed has another table from then on, with that migration's number: `metrics`, `metrics_002`.
What the former holds stays as it was landed, and is changed as it is read.

Needs   the extra `ducklake`: DuckDB 1.5.5 with its extensions as packages (there are none for other versions yet)
Source  DuckLake documentation; extensions are loaded from the packages that carry them, signed, without a download
"""

import importlib.util
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from eval_pipelines.errors import ConfigError, WarehouseError
from eval_pipelines.records import Record
from eval_pipelines.warehouse import migrations
from eval_pipelines.warehouse.footers import check_shape
from eval_pipelines.warehouse.shapes import SHAPES, VERSION_KEY, arrow_schema

_EXTENSIONS: Final = ("ducklake", "postgres_scanner")
_TYPES: Final = {
    "text": "VARCHAR",
    "texts": "VARCHAR[]",
    "int": "BIGINT",
    "real": "DOUBLE",
    "bool": "BOOLEAN",
    "time": "TIMESTAMPTZ",
}
# of a commit that another machine was quicker with; DuckLake asks anew by itself
_MAX_RETRIES = 100


class Spec(Record):
    """A lake."""

    host: str = Field(default="127.0.0.1", description="Of the Postgres that holds the catalogue.")
    port: int = Field(default=5432, ge=1, le=65535)
    database: str = Field(description="Database of the catalogue; it must exist.")
    user: str
    password_env: str | None = Field(default=None, description="Variable that holds the password, if one is needed.")
    data_path: str = Field(description="Folder of the lake's files, the same for all machines.")


def open_store(spec: Spec, secrets: Mapping[str, str]) -> "Lake":
    """Raises ConfigError where the extra or the password is missing, WarehouseError where the catalogue does not answer."""
    password = None
    if spec.password_env is not None:
        password = secrets.get(spec.password_env)
        if not password:
            raise ConfigError(f"store: the environment variable {spec.password_env} is not set")
    return Lake(spec, password)


class Lake:
    """Landed files as rows: those of one file bear its name in the column `landed_as`, and appear in one transaction."""

    def __init__(self, spec: Spec, password: str | None) -> None:
        self._spec, self._password = spec, password
        self._connection: Any = None
        self._opened_by = 0  # a forked process attaches for itself
        with self._open():
            pass

    def names(self, folder: str) -> list[str]:
        """Names of the landed files at or below a folder."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT DISTINCT landed_as FROM landed_files WHERE starts_with(landed_as, ?)", [f"{folder}/"]
            ).fetchall()
        return [str(name) for (name,) in rows]

    def put(self, name: str, path: Path) -> bool:
        """The rows and the name in one transaction."""
        kind, shape = name.split("/", 1)[0], migrations.newest()
        landed = "SELECT * FROM read_parquet(?, hive_partitioning = false)"
        rows = migrations.newest_rows(kind, check_shape(kind, path).version, landed)
        # a lake knows no unique column: two that insert one name do not conflict
        with self._open() as connection, _turn(connection, name):
            connection.execute("BEGIN").fetchall()
            [(n,)] = connection.execute("SELECT count(*) FROM landed_files WHERE landed_as = ?", [name]).fetchall()
            if n:
                return False
            connection.execute(
                "INSERT INTO landed_files BY NAME SELECT ? AS landed_as, now() AS kept_at, ? AS shape", [name, shape]
            ).fetchall()
            connection.execute(
                f"INSERT INTO {_table(kind, shape)} BY NAME SELECT ? AS landed_as, * FROM ({rows})", [name, str(path)]
            ).fetchall()
            connection.execute("COMMIT").fetchall()
        return True

    def get(self, name: str, path: Path) -> None:
        """The rows of one file, in the shape that they were kept in; columns that are newer than it are null."""
        import pyarrow.parquet as pq

        kind = name.split("/", 1)[0]
        aside = path.with_name(f"{path.name}.lake-{uuid.uuid4().hex[:8]}")
        try:
            with self._open() as connection:
                shape = _shape_of(connection, name)
                is_older = migrations.applies(kind, shape)
                columns = "* EXCLUDE (landed_as)" if is_older else ", ".join(f'"{column}"' for column in SHAPES[kind])
                connection.execute(
                    f"COPY (SELECT {columns} FROM {_table(kind, shape)} WHERE landed_as = {_quoted(name)}) "
                    f"TO {_quoted(str(aside))} (FORMAT parquet)"
                ).fetchall()
            with pq.ParquetFile(aside) as file:
                found = file.schema_arrow.with_metadata({VERSION_KEY: str(shape)})
                schema = found if is_older else arrow_schema(kind)
                with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                    for batch in file.iter_batches():
                        writer.write_batch(batch.cast(schema))
        finally:
            aside.unlink(missing_ok=True)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """A cursor in the lake, with a transaction of its own. Raises WarehouseError."""
        import duckdb

        try:
            if self._connection is None or self._opened_by != os.getpid():
                self._connection, self._opened_by = self._attach(), os.getpid()
            cursor = self._connection.cursor()
            try:
                cursor.execute("USE lake").fetchall()
                yield cursor
            finally:
                cursor.close()
        except duckdb.Error as error:
            self._connection = None  # the next call attaches anew: the catalogue may have been restarted
            words = str(error) if self._password is None else str(error).replace(self._password, "***")
            raise WarehouseError(
                f"the lake in {self._spec.database!r} at {self._spec.host}:{self._spec.port} did not do what was "
                f"asked: {' '.join(words.split())[:300]}. What landed on this machine is kept, and is copied there by "
                f"the next run or by `eval-pipelines sync`."
            ) from None

    def _attach(self) -> Any:
        import duckdb

        connection = duckdb.connect()
        for extension in _EXTENSIONS:
            connection.execute(f"LOAD {_quoted(str(_extension(extension, duckdb.__version__)))}").fetchall()
        connection.execute("SET TimeZone = 'UTC'").fetchall()
        connection.execute(f"SET ducklake_max_retry_count = {_MAX_RETRIES}").fetchall()
        connection.execute(f"CREATE SECRET catalogue ({self._catalogue()})").fetchall()
        connection.execute(
            "CREATE SECRET lake (TYPE ducklake, METADATA_PATH '', "
            f"DATA_PATH {_quoted(self._spec.data_path.rstrip('/') + '/')}, "
            "METADATA_PARAMETERS MAP {'TYPE': 'postgres', 'SECRET': 'catalogue'})"
        ).fetchall()
        connection.execute("ATTACH '' AS locks (TYPE postgres, SECRET catalogue, READ_ONLY)").fetchall()
        with _turn(connection, ""):
            connection.execute("ATTACH 'ducklake:lake' AS lake").fetchall()
            connection.execute("USE lake").fetchall()
            _bring_up_to_date(connection)
        return connection

    def _catalogue(self) -> str:
        spec = self._spec
        given = {"HOST": spec.host, "PORT": str(spec.port), "DATABASE": spec.database, "USER": spec.user}
        if self._password is not None:
            given["PASSWORD"] = self._password
        return ", ".join(["TYPE postgres", *(f"{name} {_quoted(value)}" for name, value in given.items())])


@contextmanager
def _turn(connection: Any, name: str) -> Iterator[None]:
    """One at a time for each name, over all machines: a lock in the catalogue's Postgres, which ends with its holder."""
    cursor = connection.cursor()
    try:
        cursor.execute("BEGIN").fetchall()
        lock = f"SELECT 1 AS n FROM (SELECT pg_advisory_xact_lock(hashtextextended({_quoted(name)}, 0))) AS locked"
        cursor.execute(f"SELECT * FROM postgres_query('locks', {_quoted(lock)})").fetchall()
        yield
    finally:
        cursor.close()


def _bring_up_to_date(connection: Any) -> None:
    """A table for each kind, with all columns that this version of the project knows."""
    tables = {"landed_files": {"landed_as": "VARCHAR", "kept_at": "TIMESTAMPTZ", "shape": "BIGINT"}}
    for kind, shape in SHAPES.items():
        columns = {name: _TYPES[typ.rstrip("?")] for name, typ in shape.items()}
        tables[_table(kind, migrations.newest())] = {"landed_as": "VARCHAR"} | columns
    for table, columns in tables.items():
        listed = ", ".join(f'"{name}" {typ}' for name, typ in columns.items())
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({listed})").fetchall()
        there = {str(row[0]) for row in connection.execute(f"DESCRIBE {table}").fetchall()}
        for name in columns.keys() - there:
            connection.execute(f'ALTER TABLE {table} ADD COLUMN IF NOT EXISTS "{name}" {columns[name]}').fetchall()


def _table(kind: str, shape: int) -> str:
    """Where rows of a kind lie that were kept when `shape` was the newest."""
    numbers = [one.number for one in migrations.found() if one.kind == kind and one.number <= shape]
    return f"{kind}_{numbers[-1]:03}" if numbers else kind


def _shape_of(connection: Any, name: str) -> int:
    """The newest shape when a file was kept; 1 where none was noted. Raises WarehouseError for one of tomorrow."""
    [(shape,)] = connection.execute("SELECT max(shape) FROM landed_files WHERE landed_as = ?", [name]).fetchall()
    if (shape or 1) > migrations.newest():
        raise WarehouseError(
            f"{name} is of shape {shape}, and this version of the project knows shapes up to {migrations.newest()}: update."
        )
    return int(shape or 1)


def _extension(name: str, duckdb_version: str) -> Path:
    found = importlib.util.find_spec(f"duckdb_extension_{name}")
    folders = [Path(folder) for folder in found.submodule_search_locations or []] if found else []
    for folder in folders:
        path = folder / "extensions" / f"v{duckdb_version}" / f"{name}.duckdb_extension"
        if path.exists():
            return path
    raise ConfigError(
        f"the store `ducklake` needs DuckDB's extension {name} for the installed DuckDB {duckdb_version}: "
        f"pip install 'eval-pipelines[ducklake]' brings a DuckDB that has one"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
