"""The pairs an attacker starts from: captions in memory, pictures read from their place in the shard when needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from roclip_audit.core.captions import image_member
from roclip_audit.core.errors import ConfigError, ShardError
from roclip_audit.core.images import ImageProblem, decode_image
from roclip_audit.core.samples import Sample, walk_samples
from roclip_audit.core.shards import Shard, expand_shards, open_shard
from roclip_audit.core.tar import Buffer, Damage, storable
from roclip_audit.train.attacks import Pixels

MAX_PIXELS: Final = 25_000_000  # open_clip's limit; larger pictures are left out
MAX_TEXT_BYTES: Final = 1 << 20


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
    for shard in expand_shards(specs):
        if shard.is_remote:
            raise ConfigError(f"{shard.path}: poison reads local shards only; copy them here first")
        with open_shard(shard) as buffer:
            for found in walk_samples(buffer):
                if isinstance(found, Damage) and found.fatal:
                    raise ShardError(f"{shard.path}: {found.detail}")
                if isinstance(found, Sample):
                    yield from _source(shard, found, buffer)


def _source(shard: Shard, sample: Sample, buffer: Buffer) -> Iterator[Source]:
    """Yield the sample as a Source, or nothing if it lacks a caption or a picture."""
    image = image_member(sample)
    sidecar = _json(_text(buffer, sample, "json"))
    caption = _text(buffer, sample, "txt") if "txt" in sample.members else sidecar.get("caption")
    if image is None or not isinstance(caption, str) or not caption.strip():
        return
    url = sidecar.get("url")
    yield Source(
        shard=shard.name,
        key=sample.key,
        caption=storable(caption.strip()),
        url=storable(url) if isinstance(url, str) else None,
        path=shard.path,
        image_offset=image.offset,
        image_bytes=image.size,
    )


def _text(buffer: Buffer, sample: Sample, extension: str) -> str:
    member = sample.members.get(extension)
    if member is None or member.size > MAX_TEXT_BYTES:
        return ""
    return buffer[member.offset : member.offset + member.size].decode("utf-8", errors="replace")


def _json(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
