"""What img2dataset leaves beside a shard: ``NNNNN.parquet`` (one row per URL tried) and ``NNNNN_stats.json``.

Both are hostile input like the shard itself, so they are read within bounds: at most MAX_PARQUET_BYTES of file and of
decoded columns, text kept dictionary-encoded (one long string repeated a million times stays one string).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from roclip_audit.core.errors import ShardError
from roclip_audit.core.shards import Shard, read_beside

MAX_PARQUET_BYTES: Final = 1 << 30
MAX_PARQUET_VALUES: Final = 20_000_000
MAX_STATS_BYTES: Final = 1 << 20


class SidecarError(Exception):
    """A sidecar that is there but cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The rows of a shard's parquet that stand for pairs in the tar (``status`` success, where there is a status)."""

    table: pa.Table
    positions: dict[str, list[int]]
    """Key -> rows with that key, in order."""

    @property
    def n_rows(self) -> int:
        """Number of pairs that the parquet promises."""
        return int(self.table.num_rows)

    def row_of(self, key: str, occurrence: int = 0) -> int | None:
        """Return the row of the ``occurrence``-th sample (from 0) with this key, or None."""
        rows = self.positions.get(key, ())
        return rows[occurrence] if occurrence < len(rows) else None

    def text(self, row: int, names: Sequence[str]) -> str | None:
        """Return the first of these columns that exists and holds text in this row."""
        for name in names:
            if name in self.table.column_names:
                value = self.table[name][row].as_py()
                if isinstance(value, str):
                    return value
        return None


def read_sidecar(shard: Shard, *, columns: Sequence[str] | None = None, with_failures: bool = False) -> Sidecar | None:
    """Read the parquet beside a shard; None if there is none.

    Args:
        shard: the shard; the parquet has its stem.
        columns: columns wanted, if present (``key`` and ``status`` always are); None for all.
        with_failures: also the rows that stand for no pair, because the URL gave none.

    Raises:
        SidecarError: it cannot be read, has no ``key`` column of text, or is beyond the bounds.
    """
    try:
        content = read_beside(shard, ".parquet", max_bytes=MAX_PARQUET_BYTES)
        return None if content is None else _parse(content, columns, with_failures=with_failures)
    except (ShardError, SidecarError, pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SidecarError(_message(shard, ".parquet", error)) from error


def _message(shard: Shard, ending: str, error: Exception) -> str:
    """Say what is wrong without the folder, so that the message is the same on every machine."""
    path = shard.beside(ending)
    name = path.rsplit("/", 1)[-1]
    return f"{name}: {str(error).removeprefix(f'{path}: ')}"


def _parse(content: bytes, columns: Sequence[str] | None, *, with_failures: bool) -> Sidecar:
    source = pa.BufferReader(content)
    schema = pq.read_schema(source)
    wanted = [name for name in schema.names if columns is None or name in {*columns, "key", "status"}]
    texts = [name for name in wanted if _is_text(schema.field(name).type)]
    if "key" not in texts:
        raise pa.ArrowInvalid("no column 'key' of text")
    file = pq.ParquetFile(source, read_dictionary=texts)
    _refuse_bombs(file.metadata, wanted)
    table = file.read(columns=wanted, use_threads=False)
    table.validate(full=True)  # text that is not UTF-8 would raise much later
    if "status" in texts and not with_failures:
        table = table.filter(pc.equal(_plain(table["status"], "status"), "success"))
    positions: dict[str, list[int]] = {}
    for row, key in enumerate(_plain(table["key"], "key").to_pylist()):
        positions.setdefault(key, []).append(row)
    return Sidecar(table, positions)


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _refuse_bombs(metadata: pq.FileMetaData, wanted: Sequence[str]) -> None:
    n_bytes = n_values = 0
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            if column.path_in_schema.partition(".")[0] in wanted:
                n_bytes += column.total_uncompressed_size
                n_values += column.num_values
    if n_bytes > MAX_PARQUET_BYTES or n_values > MAX_PARQUET_VALUES:
        raise pa.ArrowInvalid(f"too large: {n_values:,} values, {n_bytes:,} bytes decoded")


def plain_table(table: pa.Table) -> pa.Table:
    """Return the table with its text columns no longer dictionary-encoded.

    Raises:
        SidecarError: that would take more than MAX_PARQUET_BYTES.
    """
    for index, name in enumerate(table.column_names):
        if pa.types.is_dictionary(table[name].type):
            table = table.set_column(index, name, _plain(table[name], name))
    return table


def _plain(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if _decoded_bytes(column) > MAX_PARQUET_BYTES:
        raise SidecarError(f"column {name!r} takes more than {MAX_PARQUET_BYTES:,} bytes when decoded")
    return column.cast(column.type.value_type)


def _decoded_bytes(column: pa.ChunkedArray) -> int:
    total = 0
    for chunk in column.chunks:
        lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
        total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    return int(total)


def read_successes(shard: Shard) -> int | None:
    """Read ``successes`` from the ``_stats.json`` beside a shard; None if there is none.

    Raises:
        SidecarError: it cannot be read or does not hold such a number.
    """
    try:
        content = read_beside(shard, "_stats.json", max_bytes=MAX_STATS_BYTES)
        stats = None if content is None else json.loads(content)
    except (ShardError, ValueError, RecursionError) as error:
        raise SidecarError(_message(shard, "_stats.json", error)) from error
    if content is None:
        return None
    successes = stats.get("successes") if isinstance(stats, dict) else None
    if not isinstance(successes, int) or isinstance(successes, bool):
        raise SidecarError(_message(shard, "_stats.json", ValueError("holds no whole number 'successes'")))
    return successes
