"""The picture of a pair: read by byte range out of its shard, checked against the scan's hash, decoded, made small.

Whatever shows pictures (contact sheet, report, review) takes them from here. The bytes of a shard never go further than
the decoder: what is shown has been drawn anew by us. Pictures come one after the other, so that a data set of huge
images costs the memory of one.

    with open_readonly(run) as connection:
        places = locate_pictures(connection, uids)
    for uid, picture in read_pictures(places, edge_px=320):
        ...
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from stat import S_ISREG
from typing import Final

import duckdb
from PIL import Image

from roclip_audit.core.errors import ShardError
from roclip_audit.core.images import ImageProblem, decode_image
from roclip_audit.core.remote import open_remote

MAX_PIXELS: Final = 50_000_000
MAX_BYTES: Final = 256 << 20
"""No longer range is read; what the scan wrote down about a shard may be about another file by now."""
NO_IMAGE: Final = "no image"
NOT_FOUND: Final = "shard not found"
CHANGED: Final = "changed since the scan"
_QUALITIES: Final = (82, 65, 45, 25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image of a pair, or why there is none: NO_IMAGE, NOT_FOUND, CHANGED or one of core.problems.REASONS."""

    image: Image.Image | None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the image of a pair lies: shard (path or URL), range of bytes, and the hash that the scan found there."""

    uid: str
    path: str
    offset: int
    size: int
    sha256: str


_WHERE = """
    select p.uid, s.path, p.image_offset, p.image_bytes, p.image_sha256
    from pairs p join shards s using (shard) where p.uid in (select unnest($uids)) and p.image_ext is not null
"""


def locate_pictures(connection: duckdb.DuckDBPyConnection, uids: Sequence[str]) -> list[Place]:
    """Return where the images of some pairs lie; pairs without an image member are left out."""
    rows = connection.execute(_WHERE, {"uids": list(uids)}).fetchall()
    return [
        Place(uid=uid, path=path, offset=offset, size=size, sha256=sha256) for uid, path, offset, size, sha256 in rows
    ]


def read_pictures(places: Iterable[Place], *, edge_px: int | None = None) -> Iterator[tuple[str, Picture]]:
    """Yield uid and picture, shard by shard, each shard opened once.

    Args:
        places: from ``locate_pictures``.
        edge_px: shrink the longer edge to this, None for full size.
    """
    for path, members in groupby(sorted(places, key=lambda one: (one.path, one.offset)), key=lambda one: one.path):
        here = list(members)
        try:
            with _ranges(path) as read:
                for place in here:
                    yield place.uid, _picture(read(place.offset, place.size), place.sha256, edge_px)
                    here = here[1:]
        except (OSError, ShardError):
            yield from ((place.uid, Picture(image=None, note=NOT_FOUND)) for place in here)


@contextmanager
def _ranges(path: str) -> Iterator[Callable[[int, int], bytes]]:
    """Yield a function that reads a range of a shard; what lies outside of it is left out."""
    if "://" in path:
        with open_remote(path) as source:

            def read(offset: int, size: int) -> bytes:
                source.seek(offset)
                return source.read(min(size, MAX_BYTES))

            yield read
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not S_ISREG(os.fstat(descriptor).st_mode):
            raise ShardError(f"{path}: not a regular file")
        yield lambda offset, size: os.pread(descriptor, min(size, MAX_BYTES), offset)
    finally:
        os.close(descriptor)


def _picture(data: bytes, sha256: str, edge_px: int | None) -> Picture:
    if hashlib.sha256(data).hexdigest() != sha256:
        return Picture(image=None, note=CHANGED)
    try:
        image = decode_image(data, MAX_PIXELS)
    except ImageProblem as problem:
        return Picture(image=None, note=problem.reason)
    return Picture(image=image if edge_px is None else shrunk(image, edge_px))


def shrunk(image: Image.Image, edge_px: int) -> Image.Image:
    """Return the image with its longer edge at most ``edge_px``, its shape kept."""
    scale = edge_px / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(edge * scale)) for edge in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def jpeg(image: Image.Image, *, max_bytes: int) -> bytes:
    """Encode an RGB image as JPEG without metadata, in the best quality that fits.

    Args:
        image: any size; one that does not fit in the lowest quality is halved until it does.
        max_bytes: most bytes of the result, at least some thousand.
    """
    while True:
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= max_bytes or max(image.size) < 32:
                return buffer.getvalue()
        image = shrunk(image, max(image.size) // 2)
