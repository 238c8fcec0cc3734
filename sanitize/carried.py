"""Carry img2dataset's parquet rows of the kept pairs over to the new shards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from roclip_audit.core.samples import Sample
from roclip_audit.core.shards import Shard
from roclip_audit.core.sidecar import Sidecar, SidecarError, plain_table, read_sidecar


@dataclass(slots=True)
class CarriedRows:
    """Collects the rows of the tar being written and writes ``NNNNN.parquet`` beside it, aligned with its samples.

    A sample without a row in its shard's parquet gets one with nothing but its key. A new shard none of whose samples
    had a row gets no parquet. Memory: the rows of one new shard.
    """

    folder: Path
    notes: list[str] = field(default_factory=list)
    """What could not be carried over."""
    _shard: str = ""
    _sidecar: Sidecar | None = None
    _seen: Counter[str] = field(default_factory=Counter)
    _tar: str | None = None
    _rows: list[int | None] = field(default_factory=list)
    _keys: list[str] = field(default_factory=list)
    _tables: list[pa.Table] = field(default_factory=list)

    def begin(self, shard: Shard) -> None:
        """Turn to the next input shard."""
        self._settle()
        self._shard, self._seen, self._sidecar = shard.name, Counter(), None
        try:
            self._sidecar = read_sidecar(shard)
        except SidecarError as error:
            self.notes.append(f"{shard.name}: no parquet rows carried over: {error}")

    def see(self, sample: Sample, tar: str | None) -> None:
        """Take note of the next sample of the shard; ``tar`` is where it was written, None if it is not kept."""
        occurrence = self._seen[sample.raw_key]
        self._seen[sample.raw_key] += 1
        if tar is None:
            return
        if tar != self._tar:
            self.finish()
            self._tar = tar
        self._rows.append(None if self._sidecar is None else self._sidecar.row_of(sample.raw_key, occurrence))
        self._keys.append(sample.key)

    def finish(self) -> None:
        """Write the parquet of the tar that is complete."""
        self._settle()
        tables, self._tables = self._tables, []
        if self._tar is None or all(table.column_names == ["key"] for table in tables):
            return
        path = self.folder / f"{self._tar.removesuffix('.tar')}.parquet"
        try:
            table = pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            self.notes.append(f"{path.name}: not written, the columns of its shards do not fit together: {error}")
            return
        pq.write_table(table.replace_schema_metadata(None), path, compression="zstd")

    def _settle(self) -> None:
        """Look up the rows collected from the current shard."""
        if not self._keys:
            return
        keys = pa.array(self._keys, pa.string())
        table = pa.table({"key": keys})
        if self._sidecar is not None and any(row is not None for row in self._rows):
            try:
                found = plain_table(self._sidecar.table.take(pa.array(self._rows, pa.int64())))
            except SidecarError as error:
                self.notes.append(f"{self._shard}: no parquet rows carried over: {error}")
            else:
                table = found.set_column(found.column_names.index("key"), "key", keys)
        self._tables.append(table)
        self._rows, self._keys = [], []
