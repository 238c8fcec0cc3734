"""Write parquet files with the columns of core.schema, row by row, in bounded memory, in place only when complete."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from roclip_audit.core.schema import Column

ROWS_PER_GROUP: Final = 16_384
BYTES_PER_GROUP: Final = 64 << 20

_TYPES: Final[dict[str, pa.DataType]] = {
    "VARCHAR": pa.string(),
    "TIMESTAMP": pa.timestamp("us"),
    "BOOLEAN": pa.bool_(),
    "UTINYINT": pa.uint8(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "DOUBLE": pa.float64(),
    "DOUBLE[]": pa.list_(pa.float64()),
}


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """Return the Arrow schema of these columns."""
    return pa.schema([(column.name, _TYPES[column.type]) for column in columns])


@dataclass(slots=True)
class TableWriter:
    """Collects rows and writes them in groups; made by table_writer."""

    _schema: pa.Schema
    _writer: pq.ParquetWriter
    _rows: list[Sequence[object]] = field(default_factory=list)
    _n_bytes: int = 0

    def add(self, row: Sequence[object]) -> None:
        """Add one row: a value per column, in the order of the columns."""
        self._rows.append(row)
        self._n_bytes += sum(len(value) for value in row if isinstance(value, str))
        if len(self._rows) >= ROWS_PER_GROUP or self._n_bytes >= BYTES_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the collected rows as one row group."""
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(values, type_) for values, type_ in zip(columns, self._schema.types, strict=True)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
            self._rows.clear()
            self._n_bytes = 0


@contextmanager
def table_writer(path: Path, columns: Sequence[Column]) -> Iterator[TableWriter]:
    """Open a parquet file for rows; it appears under its name when the block ends, and not at all if it raises.

    Memory: at most ROWS_PER_GROUP rows or about BYTES_PER_GROUP of text. The same rows give the same bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    schema = arrow_schema(columns)
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            table = TableWriter(schema, writer)
            yield table
            table.flush()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
