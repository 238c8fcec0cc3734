"""What the audit reads of a run's ``manifest.json``, checked once at the edge."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from roclip_audit.core.errors import StoreError
from roclip_audit.core.run import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One scanned shard: its name in the data set, the id of its files in the run folder, and where it lay."""

    name: str
    id: str
    path: str
    size: int
    fingerprint: str
    n_pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One finished scan. ``contamination`` is (estimate, low, high)."""

    version: str
    encoder: str
    encoder_fingerprint: str
    views: tuple[str, ...]
    pool_size: int
    rounds: int
    seed: int
    parameters: str
    contamination: tuple[float | None, float | None, float | None]
    shards: tuple[ShardEntry, ...]


def _shard(value: dict[str, Any]) -> ShardEntry:
    return ShardEntry(
        name=str(value["name"]),
        id=str(value["id"]),
        path=str(value["path"]),
        size=int(value["size"]),
        fingerprint=str(value["fingerprint"]),
        n_pairs=int(value["n_pairs"]),
    )


def _manifest(value: dict[str, Any]) -> Manifest:
    share = value.get("contamination") or {}
    return Manifest(
        version=str(value["version"]),
        encoder=str(value["encoder"]),
        encoder_fingerprint=str(value["encoder_fingerprint"]),
        views=tuple(map(str, value["views"])),
        pool_size=int(value["pool_size"]),
        rounds=int(value["rounds"]),
        seed=int(value["seed"]),
        parameters=json.dumps(value.get("parameters", {}), sort_keys=True),
        contamination=(share.get("estimate"), share.get("low"), share.get("high")),
        shards=tuple(map(_shard, value["shards"])),
    )


def read_manifest(run: RunFolder) -> Manifest:
    """Read the manifest of a finished scan.

    Raises:
        StoreError: there is no finished scan in the folder, or its manifest is damaged.
    """
    try:
        text = run.manifest.read_text(encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"{run.root}: no finished scan here ({error.strerror}); run `roclip-audit scan SHARDS --out {run.root}`"
        ) from error
    try:
        return _manifest(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{run.manifest}: damaged ({type(error).__name__}: {error}); run the same scan again to write it anew"
        ) from error
