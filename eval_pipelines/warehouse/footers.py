"""What a landed file's footer says, and whether this version of the project can read it."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from eval_pipelines.errors import WarehouseError
from eval_pipelines.warehouse import migrations
from eval_pipelines.warehouse.shapes import VERSION_KEY, arrow_schema


@dataclass(frozen=True)
class Shape:
    """What a landed file's footer says."""

    version: int
    n_rows: int
    n_columns: int


def check_shape(kind: str, path: Path) -> Shape:
    """Compare a landed file's footer with what its version looks like. Raises WarehouseError naming file and column."""
    try:
        # Opened here, so that no option of a dataset layer reads columns out of the folder names.
        with pq.ParquetFile(path) as file:
            found, n_rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise WarehouseError(
            f"{path} is no readable Parquet file ({error}). Landed files are written whole, so something else damaged "
            f"it: move it out of the landing folder and publish again."
        ) from error
    version = int((found.metadata or {}).get(VERSION_KEY, b"0"))
    if version > migrations.newest():
        raise WarehouseError(
            f"{path} is of shape {version}, and this version of the project knows shapes up to {migrations.newest()}: "
            f"update, or move the file away."
        )
    if not migrations.applies(kind, version):
        _check_columns(kind, path, found)
    return Shape(version, n_rows, len(found))


def _check_columns(kind: str, path: Path, found: pa.Schema) -> None:
    expected = arrow_schema(kind)
    for field in found:
        index = expected.get_field_index(field.name)
        if index < 0:
            raise WarehouseError(
                f"{path}: unexpected column {field.name!r} in a file of {kind}. "
                f"It was written by a newer version of this project: update, or move the file away."
            )
        if field.type != expected.field(index).type:
            raise WarehouseError(
                f"{path}: column {field.name!r} of {kind} is {field.type}, expected {expected.field(index).type}."
            )
    names = set(found.names)
    for field in expected:
        if field.name not in names and not field.nullable:
            raise WarehouseError(
                f"{path}: column {field.name!r} is missing, and a file of {kind} cannot go without it."
            )
