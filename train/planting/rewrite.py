"""Write pairs as a data set in img2dataset's layout, so that nothing but content tells one pair from another.

Every picture is encoded alike (JPEG, quality 90, 4:2:0), keys count up, members have the same order, mode and time,
and the sidecar of every pair has the same fields.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from PIL import Image

from roclip_audit.core.run import write_atomic
from roclip_audit.train.attacks import Pixels

JPEG_QUALITY = 90
KEY_DIGITS = 4  # keys are shard number x 10,000 + position

SIDECAR_TYPES = {
    "url": pl.String,
    "caption": pl.String,
    "uid": pl.String,
    "key": pl.String,
    "status": pl.String,
    "error_message": pl.String,
    "width": pl.Int32,
    "height": pl.Int32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """The class of a pair of an evaluation set: its name, and its place in the list of classes."""

    index: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPair:
    """One pair to write."""

    uid: str
    caption: str
    url: str | None
    jpeg: bytes
    width: int
    height: int
    label: Label | None = None
    """If there is one, the json gets a field ``class``, and a member ``cls`` holds the index as text."""


def encode_jpeg(image: Pixels) -> bytes:
    """Encode uint8 [H, W, 3] the one way that all pictures of a data set are encoded."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0", optimize=False)
    return buffer.getvalue()


def key_of(shard_number: int, position: int) -> str:
    """Return the key that img2dataset would give, nine digits."""
    return f"{shard_number * 10**KEY_DIGITS + position:09d}"


def write_shard(out: Path, shard_number: int, pairs: Sequence[NewPair]) -> str:
    """Write ``00000.tar``, ``.parquet`` and, last, ``_stats.json``; return the name of the tar."""
    rows = [_sidecar(key_of(shard_number, position), pair) for position, pair in enumerate(pairs)]
    stem = f"{shard_number:05d}"
    write_atomic(out / f"{stem}.tar", lambda path: _write_tar(path, rows, pairs))
    table = pl.DataFrame(rows, schema=SIDECAR_TYPES)
    write_atomic(out / f"{stem}.parquet", table.write_parquet)
    stats = {
        "count": len(pairs),
        "successes": len(pairs),
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "duration": 0.0,
        "start_time": 0.0,
        "end_time": 0.0,
        "status_dict": {"success": len(pairs)},
    }
    write_atomic(out / f"{stem}_stats.json", lambda path: path.write_text(json.dumps(stats, indent=4)))
    return f"{stem}.tar"


def _sidecar(key: str, pair: NewPair) -> dict[str, str | int | None]:
    return {
        "url": pair.url,
        "caption": pair.caption,
        "uid": pair.uid,
        "key": key,
        "status": "success",
        "error_message": None,
        "width": pair.width,
        "height": pair.height,
    }


def _write_tar(path: Path, rows: Sequence[dict[str, str | int | None]], pairs: Sequence[NewPair]) -> None:
    with tarfile.open(path, "w:", format=tarfile.USTAR_FORMAT) as tar:
        for row, pair in zip(rows, pairs, strict=True):
            fields = row if pair.label is None else {**row, "class": pair.label.name}
            members = {
                "jpg": pair.jpeg,
                "json": json.dumps(fields, indent=4).encode(),
                "txt": pair.caption.encode(),
            }
            if pair.label is not None:
                members["cls"] = str(pair.label.index).encode()
            for extension, content in members.items():
                member = tarfile.TarInfo(f"{row['key']}.{extension}")
                member.size, member.mode, member.mtime = len(content), 0o444, 0
                tar.addfile(member, io.BytesIO(content))
