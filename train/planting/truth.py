"""The truth table: one row per pair of a poisoned data set, planted or clean. No scan may read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from roclip_audit.core.run import write_atomic

TRUTH_NAME = "truth.parquet"

_TYPES = {
    "uid": pl.String,
    "shard": pl.String,
    "key": pl.String,
    "ordinal": pl.UInt32,
    "attack": pl.String,
    "target": pl.String,
    "trigger": pl.String,
    "caption": pl.String,
    "original_caption": pl.String,
    "x": pl.UInt32,
    "y": pl.UInt32,
    "width": pl.UInt32,
    "height": pl.UInt32,
    "source_shard": pl.String,
    "source_key": pl.String,
    "image_shard": pl.String,
    "image_key": pl.String,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthRow:
    """What is true of one pair.

    Args:
        uid: as in the pair's json.
        shard: name of the shard it was written to.
        key: its key there.
        ordinal: its position there, from 0.
        attack: name of the attack; None for a clean pair.
        target: word the attack is after; None for a clean pair and for an attack that has none.
        trigger: name of the trigger on the picture; None if none was stamped.
        caption: as written.
        original_caption: of the clean pair whose place it takes.
        x, y, width, height: the part of the image that the trigger changed, in pixels; None if none was stamped.
        source_shard, source_key: the clean pair whose place it takes.
        image_shard, image_key: the clean pair whose picture it shows; a drawn picture has no shard, and a name for a
            key.
    """

    uid: str
    shard: str
    key: str
    ordinal: int
    attack: str | None
    target: str | None
    trigger: str | None
    caption: str
    original_caption: str
    x: int | None
    y: int | None
    width: int | None
    height: int | None
    source_shard: str
    source_key: str
    image_shard: str | None
    image_key: str


def write_truth(folder: Path, rows: Sequence[TruthRow]) -> None:
    """Write ``truth.parquet`` into ``folder``, one row per pair."""
    table = pl.DataFrame([asdict(row) for row in rows], schema=_TYPES)
    write_atomic(folder / TRUTH_NAME, table.write_parquet)
