"""Embeddings in the layout of ``clip-retrieval inference``: what its ``index`` and autofaiss read.

    OUT/img_emb/img_emb_0.npy        float16 [n, D], unit length, the whole view
    OUT/text_emb/text_emb_0.npy      float16 [n, D], unit length
    OUT/metadata/metadata_0.parquet  row for row the same pairs
    OUT/export.json                  which space, encoder and pairs

``image_path`` is the uid and not, as clip-retrieval has it, the key: keys repeat, and a key is an attacker's text that
a server might take for a path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from roclip_audit.audit.embeddings import Vectors, open_vectors
from roclip_audit.audit.export.base import ExportReport, ExportRequest
from roclip_audit.audit.export.selected import checked, condition
from roclip_audit.audit.manifest import read_manifest
from roclip_audit.audit.query import BATCH_ROWS, clear_errors
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.arrays import NpyWriter, npy_writer
from roclip_audit.core.errors import StoreError
from roclip_audit.core.progress import Reporter
from roclip_audit.core.run import RunFolder

COLUMNS: Final = (
    "uid", "caption", "url", "shard", "key", "ordinal", "suspicion", "fdr", "risk", "risk_reason", "decision", "fold",
)  # fmt: skip
"""Columns of the metadata, after ``image_path``; docs/schema.md explains them."""

_MEANING: Final = {
    "encoder": "features of the encoder: images compare with images, captions with captions",
    "aligned": "where the scan compared images with captions: only pairs of one fold compare (column fold)",
    "joint": "one space of images and captions",
}


class ClipRetrievalLayout:
    """A folder of arrays and metadata."""

    name: ClassVar[str] = "clip-retrieval"
    makes: ClassVar[Literal["file", "folder"]] = "folder"
    options: ClassVar[frozenset[str]] = frozenset({"space"})

    def check(self, request: ExportRequest) -> None:
        """Ask for nothing."""

    def write(self, run: RunFolder, request: ExportRequest, target: Path, reporter: Reporter) -> ExportReport:
        """Write the folder; memory is that of a batch of rows, whatever their number."""
        n_pairs = checked(run, request.where)
        with open_vectors(run, request.space or "encoder") as vectors, _Files.opened(target, vectors) as files:
            with reporter.stage("embeddings", total=n_pairs) as progress:
                for batch in _selected(run, request.where, len(vectors)):
                    files.add(batch)
                    progress.advance(len(batch))
            meaning = _MEANING["joint" if vectors.joint else vectors.space]
            dims = f"{vectors.dim('image')} image, {vectors.dim('text')} text"
        encoder = read_manifest(run).encoder
        facts = (("space", f"{vectors.space} of {encoder}: {meaning}"), ("dimensions", dims))
        return ExportReport(format=self.name, out=request.out, n_pairs=n_pairs, facts=facts)


@dataclass(frozen=True, slots=True)
class _Files:
    """The three files of one partition, open."""

    vectors: Vectors
    images: NpyWriter
    texts: NpyWriter
    metadata: pq.ParquetWriter
    schema: pa.Schema

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, vectors: Vectors) -> Iterator[_Files]:
        (folder / "metadata").mkdir()
        schema = pa.schema([("image_path", pa.string())] + [(name, _type(name)) for name in COLUMNS])
        with (
            npy_writer(folder / "img_emb" / "img_emb_0.npy", (vectors.dim("image"),)) as images,
            npy_writer(folder / "text_emb" / "text_emb_0.npy", (vectors.dim("text"),)) as texts,
            pq.ParquetWriter(folder / "metadata" / "metadata_0.parquet", schema, compression="zstd") as metadata,
        ):
            yield cls(vectors, images, texts, metadata, schema)

    def add(self, batch: pa.RecordBatch) -> None:
        """Write the vectors and the metadata of some pairs."""
        rows = batch["row"].to_numpy().astype(np.int64)
        self.images.append(self.vectors.rows("image", rows))
        self.texts.append(self.vectors.rows("text", rows))
        named = [batch["uid"], *(batch[name] for name in COLUMNS)]
        columns = [column.cast(one.type) for column, one in zip(named, self.schema, strict=True)]
        self.metadata.write_batch(pa.RecordBatch.from_arrays(columns, schema=self.schema))


def _type(name: str) -> pa.DataType:
    if name in {"suspicion", "fdr", "risk"}:
        return pa.float64()
    return pa.int64() if name in {"ordinal", "fold"} else pa.string()


def _selected(run: RunFolder, where: str | None, n_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the selected pairs in shard order, each with its position among the scored ones, ``row``."""
    names = ", ".join(f's."{name}"' for name in COLUMNS)
    sql = f"""
        select n.row, {names} from store.scored s
        join (select pair, row_number() over (order by pair) - 1 as row from store.scored) n using (pair)
        where s.uid in (select uid from suspicion where {condition(where)}) order by n.row
    """  # noqa: S608  # checked, and our own names
    with open_readonly(run) as connection, clear_errors(run.database):
        found = connection.execute("select count(*) from store.scored").fetchall()[0][0]
        if found != n_rows:
            raise StoreError(
                f"{run.root}: vectors of {n_rows:,} pairs, a database of {found:,}; run the same scan again"
            )
        yield from connection.sql(sql).to_arrow_reader(BATCH_ROWS)
