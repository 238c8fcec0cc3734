"""The pairs an attacker starts from: captions in memory, pictures read from their place in the shard when needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from roclip_audit.core.captions import image_member
from roclip_audit.core.images import ImageProblem, decode_image
from roclip_audit.core.tar import storable
from roclip_audit.core.whole import ShardSample, walk_whole
from roclip_audit.train.attacks import Pixels

MAX_PIXELS: Final = 25_000_000  # open_clip's limit; larger pictures are left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One pair of the clean data: its caption, and where its picture lies."""

    shard: str
    key: str
    caption: str
    url: str | None
    path: str
    image_offset: int
    image_bytes: int

    def decode(self) -> Pixels | None:
        """Decode the picture to upright RGB on white, uint8 [H, W, 3]; None if it cannot be read or is too large."""
        with Path(self.path).open("rb") as shard:
            shard.seek(self.image_offset)
            encoded = shard.read(self.image_bytes)
        try:
            return np.asarray(decode_image(encoded, MAX_PIXELS))
        except ImageProblem:
            return None


def read_sources(specs: Sequence[str]) -> Iterator[Source]:
    """Walk the shards and yield every pair that has a caption and a picture.

    Args:
        specs: folders, tars or patterns, as `expand_shards` takes them; local ones, for pictures are read in random
            order.

    Raises:
        ConfigError: nothing found, or a shard is remote.
        ShardError: a shard is damaged; half a data set is no use here.
    """
    for found in walk_whole(specs, reader="poison"):
        source = _source(found)
        if source is not None:
            yield source


def _source(found: ShardSample) -> Source | None:
    """Return the sample as a Source, or None if it lacks a caption or a picture."""
    image = image_member(found.sample)
    sidecar = found.json()
    caption = found.text("txt") if "txt" in found.sample.members else sidecar.get("caption")
    if image is None or not isinstance(caption, str) or not caption.strip():
        return None
    url = sidecar.get("url")
    return Source(
        shard=found.shard.name,
        key=found.sample.key,
        caption=storable(caption.strip()),
        url=storable(url) if isinstance(url, str) else None,
        path=found.shard.path,
        image_offset=image.offset,
        image_bytes=image.size,
    )
