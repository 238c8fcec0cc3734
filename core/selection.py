"""The selection: a parquet with one row per indexed pair that says whether `curate` keeps it.

Columns shard, ordinal, uid, keep, reason, in (shard, ordinal) order. It is read shard by shard, so that its size does
not matter.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from roclip_audit.core.errors import StoreError
from roclip_audit.core.subset import subset_array

COLUMNS: Final = ("shard", "ordinal", "uid", "keep", "reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSelection:
    """The rows of one shard; index = ordinal."""

    uids: list[str]
    keep: list[bool]
    reasons: list[str | None]


@dataclass(slots=True)
class Selection:
    """A selection file; made by open_selection."""

    path: Path
    spans: dict[str, tuple[int, int]]
    """Shard name -> (first row, number of rows)."""
    _file: pq.ParquetFile
    _group_starts: list[int] = field(default_factory=list)
    _cached: tuple[int, pa.Table] | None = None

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def of_shard(self, name: str) -> ShardSelection:
        """Read the rows of one shard; none for a shard that the selection does not know.

        Raises:
            StoreError: rows are missing, repeated or hold nulls, or a uid is not 32 hex characters.
        """
        if name not in self.spans:
            return ShardSelection(uids=[], keep=[], reasons=[])
        start, n_rows = self.spans[name]
        table = self._slice(start, n_rows)
        if table["ordinal"].to_pylist() != list(range(n_rows)):
            raise StoreError(f"{self.path}: the ordinals of {name} are not 0 to {n_rows - 1}; select again")
        if table["keep"].null_count or table["uid"].null_count:
            raise StoreError(f"{self.path}: uid or keep is null in {name}; select again")
        uids, keep, reasons = (table[column].to_pylist() for column in ("uid", "keep", "reason"))
        subset_array(uids)  # raises on a uid of another form
        return ShardSelection(uids=uids, keep=keep, reasons=reasons)

    def _slice(self, start: int, n_rows: int) -> pa.Table:
        pieces = []
        group = bisect.bisect_right(self._group_starts, start) - 1
        while n_rows > 0:
            table = self._group(group)
            piece = table.slice(start - self._group_starts[group], n_rows)
            pieces.append(piece)
            start, n_rows, group = start + piece.num_rows, n_rows - piece.num_rows, group + 1
        return pa.concat_tables(pieces)

    def _group(self, group: int) -> pa.Table:
        if self._cached is None or self._cached[0] != group:
            self._cached = (group, self._file.read_row_group(group, columns=list(COLUMNS), use_threads=False))
        return self._cached[1]


def open_selection(path: Path) -> Selection:
    """Open a selection and find the rows of every shard.

    Raises:
        StoreError: it is no parquet file, lacks a column, or the rows of a shard are not together.
    """
    try:
        file = pq.ParquetFile(path)
        if missing := set(COLUMNS) - set(file.schema_arrow.names):
            raise StoreError(f"{path}: not a selection, no column {', '.join(sorted(missing))}")
        spans = _spans(file, path)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{path}: cannot be read as a selection ({error})") from error
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    return Selection(path, spans, file, list(itertools.accumulate(sizes, initial=0))[:-1])


def _spans(file: pq.ParquetFile, path: Path) -> dict[str, tuple[int, int]]:
    spans: dict[str, tuple[int, int]] = {}
    row = 0
    last = None
    for batch in file.iter_batches(columns=["shard"], use_threads=False):
        runs = pc.run_end_encode(batch.column(0).cast(pa.string()))
        begin = 0
        for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            if name is None or (name in spans and name != last):
                raise StoreError(f"{path}: the rows of shard {name!r} are not together; select again")
            first, n_rows = spans.get(name, (row, 0))
            spans[name] = (first, n_rows + end - begin)
            row, begin, last = row + end - begin, end, name
    return spans
