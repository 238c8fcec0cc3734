"""Walk shards of which every sample is needed: local ones, and none of them damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from roclip_audit.core.errors import ConfigError, ShardError
from roclip_audit.core.samples import Sample, walk_samples
from roclip_audit.core.shards import Shard, expand_shards, open_shard
from roclip_audit.core.tar import Buffer, Damage

MAX_TEXT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSample:
    """One sample of an open shard; ``buffer`` may only be read until the next one is asked for."""

    shard: Shard
    buffer: Buffer
    sample: Sample

    @property
    def where(self) -> str:
        """Name shard and sample, for a message."""
        return f"{self.shard.name}:{self.sample.key}"

    def text(self, extension: str, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
        """Read a text member; empty if there is none, or it is larger than ``max_bytes``."""
        member = self.sample.members.get(extension)
        if member is None or member.size > max_bytes:
            return ""
        return self.buffer[member.offset : member.offset + member.size].decode("utf-8", errors="replace")

    def json(self) -> Mapping[str, object]:
        """Read the json member; empty if there is none, it is no object, or larger than MAX_TEXT_BYTES."""
        try:
            value = json.loads(self.text("json") or "{}")
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


def local_shards(specs: Sequence[str], *, reader: str) -> tuple[Shard, ...]:
    """Find shards that are on this machine, for pictures are read again later.

    Args:
        specs: folders, tars or patterns, as ``expand_shards`` takes them.
        reader: who reads them, for an error.

    Raises:
        ConfigError: nothing found, or a shard is remote.
    """
    shards = expand_shards(specs)
    for shard in shards:
        if shard.is_remote:
            raise ConfigError(f"{shard.path}: {reader} reads local shards only; copy them here first")
    return shards


def walk_whole(specs: Sequence[str], *, reader: str) -> Iterator[ShardSample]:
    """Yield every sample of the shards in order; specs and reader as for ``local_shards``.

    Raises:
        ConfigError: nothing found, or a shard is remote.
        ShardError: a shard is damaged; half a data set is another one.
    """
    for shard in local_shards(specs, reader=reader):
        with open_shard(shard) as buffer:
            for found in walk_samples(buffer):
                if isinstance(found, Damage) and found.fatal:
                    raise ShardError(f"{shard.path}: {found.detail}")
                if isinstance(found, Sample):
                    yield ShardSample(shard=shard, buffer=buffer, sample=found)
