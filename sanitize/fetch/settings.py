"""What may be chosen about fetching, checked once before any work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from roclip_audit.core.errors import ConfigError
from roclip_audit.sanitize.fetch.guard import TYPES, Limits, parse_networks

HASH_KINDS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
"""Published hashes that can be compared, and the length of each in hex digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Where the list says what; None: found by the usual names (see ``urllist``)."""

    url: str | None = None
    caption: str | None = None
    published_hash: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchConfig:
    """One fetch. What is part of ``identity`` cannot change between an interrupted fetch and its resumption.

    Attributes:
        urls: specification of the list: a file, a folder of them, or a glob.
        out: folder for the shards.
        columns: names in the list.
        limits: what one download may cost, and where it may go.
        image_size: the longer side is brought down to this many pixels; smaller images stay as they are.
        keep_bytes: store what was downloaded, byte for byte, instead of encoding it anew as JPEG.
        max_pixels: larger images are not decoded.
        keep_mismatches: keep images whose published hash differs (the scan reports them); else they are left out.
        pairs_per_shard: URLs that go into one shard.
        processes, threads: of img2dataset; threads are per process and may wait for the network.
        retries: more attempts after silence or a broken connection.
        img2dataset: program or interpreter of img2dataset; None: found.
    """

    urls: str
    out: Path
    columns: Columns = field(default_factory=Columns)
    limits: Limits = field(default_factory=Limits)
    image_size: int = 512
    keep_bytes: bool = False
    max_pixels: int = 50_000_000
    keep_mismatches: bool = False
    pairs_per_shard: int = 10_000
    processes: int = 1
    threads: int = 32
    retries: int = 0
    img2dataset: Path | None = None

    def __post_init__(self) -> None:
        counts = {
            "image size": self.image_size,
            "pixels": self.max_pixels,
            "pairs per shard": self.pairs_per_shard,
            "processes": self.processes,
            "threads": self.threads,
        }
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"{name}: must be at least 1, found {value}")
        if self.pairs_per_shard < 2:
            raise ConfigError("pairs per shard: img2dataset needs at least 2")
        check_limits(self.limits)

    @property
    def identity(self) -> dict[str, object]:
        """Everything that the content of a shard depends on, besides the list."""
        return {
            "image_size": self.image_size,
            "keep_bytes": self.keep_bytes,
            "max_pixels": self.max_pixels,
            "keep_mismatches": self.keep_mismatches,
            "pairs_per_shard": self.pairs_per_shard,
            "max_bytes": self.limits.max_bytes,
            "types": list(self.limits.types),
        }


def check_limits(limits: Limits) -> None:
    """Refuse limits that cannot work.

    Raises:
        ConfigError: says which.
    """
    if limits.max_bytes < 1 or limits.timeout_s <= 0 or limits.deadline_s <= 0:
        raise ConfigError("limits of bytes and seconds: must be above 0")
    unknown = sorted(set(limits.types) - set(TYPES))
    if unknown or not limits.types:
        raise ConfigError(f"types: {', '.join(unknown) or 'none given'}; choose from {', '.join(TYPES)}")
    try:
        parse_networks(limits.allowed)
    except ValueError as error:
        raise ConfigError(f"allowed address: {error}; write 10.1.0.0/16 or one address") from error
