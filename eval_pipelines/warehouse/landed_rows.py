"""Rows of landed files, whatever the shape they were landed in."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from eval_pipelines.warehouse import migrations
from eval_pipelines.warehouse.footers import check_shape
from eval_pipelines.warehouse.shapes import arrow_schema

Row = dict[str, Any]
ROWS_PER_GROUP: Final = 5_000


def read(
    kind: str, files: list[Path], columns: list[str] | None = None, wanted: ds.Expression | None = None
) -> Iterator[Row]:
    """Rows of landed files as dicts, file by file, so that memory holds one row group at a time."""
    schema = arrow_schema(kind)
    for path in files:
        shape = check_shape(kind, path)
        source = _migrated(kind, shape.version, path) if migrations.applies(kind, shape.version) else path
        dataset = ds.dataset(source, schema=schema, format=None if isinstance(source, pa.Table) else "parquet")
        for batch in dataset.to_batches(columns=columns, filter=wanted, batch_size=ROWS_PER_GROUP):
            yield from batch.to_pylist()


def write(kind: str, sink: BinaryIO, rows: Iterable[Row]) -> None:
    """Rows as one landed file, group by group."""
    schema, rows = arrow_schema(kind), iter(rows)
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        while group := list(itertools.islice(rows, ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _migrated(kind: str, version: int, path: Path) -> pa.Table:
    """A file of an older shape, as one of today."""
    import duckdb

    connection = duckdb.connect(config={"threads": 1})
    try:
        connection.execute("SET TimeZone = 'UTC'").fetchall()
        rows = migrations.newest_rows(kind, version, "SELECT * FROM read_parquet(?, hive_partitioning = false)")
        read: Any = connection.sql(f"SELECT * FROM {rows}", params=[[str(path)]]).to_arrow_table()
    finally:
        connection.close()
    schema = arrow_schema(kind)
    there = [field for field in schema if field.name in read.column_names or not field.nullable]
    table = read.select([field.name for field in there]).cast(pa.schema(there))
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names)
