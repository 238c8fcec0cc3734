"""The scored pairs of a run as rows of arrays, over all shards, without loading the embeddings into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from roclip_audit.core.arrays import map_npy
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import PAIRS
from roclip_audit.core.shards import Shard
from roclip_audit.core.tables import table_writer

_UIDS = tuple(column for column in PAIRS if column.name in ("ordinal", "uid"))


@dataclass(frozen=True, slots=True)
class RowArray:
    """Arrays of equal row shape laid end to end, read by row; the files stay on disk."""

    parts: tuple[np.ndarray, ...]
    starts: np.ndarray  # int64 [parts + 1], first row of every part and the number of rows

    @classmethod
    def of(cls, parts: Sequence[np.ndarray]) -> Self:
        """Lay arrays end to end."""
        return cls(tuple(parts), np.cumsum([0, *map(len, parts)]))

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.starts[-1])

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self.parts[0].shape[1:])

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return the given rows, in the given order, as float32."""
        index = np.arange(len(self))[rows] if isinstance(rows, slice) else rows.numpy()
        return self._read(index, np.dtype(np.float32))

    def as_stored(self, rows: Tensor) -> Tensor:
        """Return the given rows, in the given order, in the type of the files."""
        return self._read(rows.numpy(), self.parts[0].dtype)

    def _read(self, index: np.ndarray, dtype: np.dtype[Any]) -> Tensor:
        out = np.empty((len(index), *self.row_shape), dtype=dtype)
        part_of = np.searchsorted(self.starts, index, side="right") - 1
        for part in np.unique(part_of):
            here = part_of == part
            out[here] = self.parts[part][index[here] - self.starts[part]]
        return torch.from_numpy(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Every scored pair: where it lies, its identity, its caption and its embeddings.

    Attributes:
        shards: all shards of the run, those without scored pairs too.
        shard_N: int64 [N], number of the pair's shard.
        uids: identities, unique.
        captions: captions as scanned.
        image_NVF: features of every view.
        text_NG: features of the captions.
        grain_N: fine structure of the images, rows of [128, 128], see ``sanitize.grain``.
        detail_N: what their places look like, rows of [1024, 24], see ``sanitize.detail``.
        beside: image and caption features of the joint encoder that was asked as well, if one was.
    """

    shards: tuple[Shard, ...]
    shard_N: np.ndarray
    uids: list[str]
    captions: list[str]
    image_NVF: RowArray
    text_NG: RowArray
    grain_N: RowArray
    detail_N: RowArray
    beside: tuple[RowArray, RowArray] | None = None

    def __len__(self) -> int:
        """Return the number of scored pairs, N."""
        return len(self.uids)

    def rows_of(self, shard: int) -> slice:
        """Return the rows of a shard; they lie together."""
        first, last = np.searchsorted(self.shard_N, [shard, shard + 1])
        return slice(int(first), int(last))


def load_dataset(run: RunFolder, shards: Sequence[Shard], *, beside: bool = False) -> Dataset:
    """Read what index and encode left, and give every pair its final uid.

    A uid that a pair of an earlier shard (or earlier in the shard) has already is not believed: the later pair gets one
    derived from it and its occurrence. Writes uids/<id>.parquet (ordinal, uid), one row per pair of the shard.

    Args:
        run: the run folder.
        shards: all of the run.
        beside: two encoders were asked.
    """
    seen: dict[str, int] = {}
    shard_of: list[int] = []
    uids: list[str] = []
    captions: list[str] = []
    for number, shard in enumerate(shards):
        pairs = pq.read_table(run.file("pairs", f"{shard.id}.parquet"), columns=["ordinal", "uid", "caption"])
        scored = pq.read_table(run.file("embeddings", f"{shard.id}.parquet"), columns=["scored"])["scored"].to_pylist()
        final = [_unique(uid, seen) for uid in pairs["uid"].to_pylist()]
        with table_writer(run.file("uids", f"{shard.id}.parquet"), _UIDS) as table:
            for ordinal, uid in zip(pairs["ordinal"].to_pylist(), final, strict=True):
                table.add([uid, ordinal])
        kept = [row for row, is_scored in enumerate(scored) if is_scored]
        texts = pairs["caption"].take(pa.array(kept, pa.int64())).to_pylist()
        uids += [final[row] for row in kept]
        captions += texts
        shard_of += [number] * len(kept)
    return Dataset(
        shards=tuple(shards),
        shard_N=np.array(shard_of, dtype=np.int64),
        uids=uids,
        captions=captions,
        image_NVF=_memory_mapped(run, shards, "image"),
        text_NG=_memory_mapped(run, shards, "text"),
        grain_N=_memory_mapped(run, shards, "grain"),
        detail_N=_memory_mapped(run, shards, "detail"),
        beside=(_memory_mapped(run, shards, "beside-image"), _memory_mapped(run, shards, "beside-text"))
        if beside
        else None,
    )


def _memory_mapped(run: RunFolder, shards: Sequence[Shard], kind: str) -> RowArray:
    return RowArray.of([map_npy(run.file("embeddings", f"{shard.id}.{kind}.npy")) for shard in shards])


def _unique(uid: str, seen: dict[str, int]) -> str:
    while True:  # uids are the attacker's to choose: the derived one may be taken too, on purpose
        occurrence = seen[uid] = seen.get(uid, 0) + 1
        if occurrence == 1:
            return uid
        uid = hashlib.blake2b(f"{uid}#{occurrence}".encode(), digest_size=16).hexdigest()
