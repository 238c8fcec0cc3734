"""What the search for campaigns reads of a finished judge stage: one row a scored pair, over all shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from roclip_audit.core.arrays import map_npy
from roclip_audit.core.errors import StoreError
from roclip_audit.core.run import RunFolder
from roclip_audit.core.shards import Shard
from roclip_audit.sanitize.grouping import number_captions

_MEASURED = ("uid", "p_value", "trait_p", "stamp", "duplicate_group", "family")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The scored pairs of a run.

    Attributes:
        shards: all shards of the run.
        shard_N: int64 [N], number of the pair's shard.
        uids, captions, urls: of every pair.
        image_offset_N, image_bytes_N: int64 [N], where the image lies in its shard.
        p_value_N: float64 [N]; uniform if caption and image are unrelated, near 0 if they fit. It has no local prior.
        trait_p_N: float64 [N]; small if the image shares fine structure with those of similar captions.
        stamp_N: int64 [N], number of the stamp that the image carries, 0 for none.
        caption_N: int64 [N], equal for equal captions.
        duplicate_N: int64 [N], equal for near-duplicate images.
        family_N: int64 [N], equal for look-alike images.
        text_ND: float32 [N, D], unit vectors of the captions.
    """

    shards: tuple[Shard, ...]
    shard_N: np.ndarray
    uids: list[str]
    captions: list[str]
    urls: list[str | None]
    image_offset_N: np.ndarray
    image_bytes_N: np.ndarray
    p_value_N: np.ndarray
    trait_p_N: np.ndarray
    stamp_N: np.ndarray
    caption_N: np.ndarray
    duplicate_N: np.ndarray
    family_N: np.ndarray
    text_ND: Tensor

    def __len__(self) -> int:
        """Return the number of scored pairs, N."""
        return len(self.uids)


def load_scored(run: RunFolder, shards: Sequence[Shard]) -> Scored:
    """Read evidence, captions and places of all scored pairs.

    Raises:
        StoreError: files of different scans lie in the folder.
    """
    tables, texts, shard_of = [], [], []
    for number, shard in enumerate(shards):
        name = f"{shard.id}.parquet"
        about = pq.read_table(run.file("pairs", name), columns=["caption", "url", "image_offset", "image_bytes"])
        is_scored = pq.read_table(run.file("embeddings", name), columns=["scored"])["scored"]
        uids = pq.read_table(run.file("uids", name), columns=["uid"])["uid"].filter(is_scored)
        evidence = pq.read_table(run.file("evidence", name), columns=list(_MEASURED))
        if evidence["uid"].to_pylist() != uids.to_pylist():
            raise StoreError(f"{run.file('evidence', name)}: is not of this scan; scan into another folder")
        about = about.filter(is_scored)
        for column in _MEASURED:
            about = about.append_column(column, evidence[column])
        tables.append(about)
        texts.append(torch.from_numpy(np.asarray(map_npy(run.file("embeddings", f"{shard.id}.text.npy")), np.float32)))
        shard_of += [number] * len(evidence)
    table = pa.concat_tables(tables)
    captions = table["caption"].to_pylist()
    return Scored(
        shards=tuple(shards),
        shard_N=np.array(shard_of, dtype=np.int64),
        uids=table["uid"].to_pylist(),
        captions=captions,
        urls=table["url"].to_pylist(),
        image_offset_N=np.array(table["image_offset"].to_pylist(), dtype=np.int64),
        image_bytes_N=np.array(table["image_bytes"].to_pylist(), dtype=np.int64),
        p_value_N=np.array(table["p_value"].to_pylist(), dtype=np.float64),
        trait_p_N=np.array(table["trait_p"].to_pylist(), dtype=np.float64),
        stamp_N=np.array([number or 0 for number in table["stamp"].to_pylist()], dtype=np.int64),
        caption_N=number_captions(captions).numpy(),
        duplicate_N=np.array(table["duplicate_group"].to_pylist(), dtype=np.int64),
        family_N=np.array(table["family"].to_pylist(), dtype=np.int64),
        text_ND=torch.nn.functional.normalize(torch.cat(texts), dim=1),
    )
