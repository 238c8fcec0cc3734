"""Read pictures of chosen pairs into arrays of fixed size, for looking at what they share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from roclip_audit.core.images import ImageProblem, decode_image
from roclip_audit.core.parallel import map_ordered
from roclip_audit.core.shards import open_shard
from roclip_audit.core.tar import Buffer
from roclip_audit.sanitize.campaigns.scored import Scored

SIDE: Final = 224
MAX_IMAGE_BYTES: Final = 64 << 20
_MAX_SIDE: Final = 4 * SIDE


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture in two geometries, because a trigger may be laid over the frame or have a size of its own.

    Attributes:
        row: of the pair.
        size: width and height as decoded.
        square: uint8 [SIDE, SIDE, 3], squeezed into a square: one place in the frame, one pixel.
        scaled: uint8 [h, w, 3] with h w about SIDE^2, shape kept: one size, one number of pixels.
    """

    row: int
    size: tuple[int, int]
    square: np.ndarray
    scaled: np.ndarray


def read_pictures(scored: Scored, rows: Sequence[int], *, workers: int, max_pixels: int) -> list[Picture]:
    """Return the pictures of pairs that can be read, in the order of the rows.

    Raises:
        ShardError: a shard is no longer what was scanned.
    """
    by_shard: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        by_shard[int(scored.shard_N[row])].append(row)
    found: dict[int, Picture] = {}
    for shard in sorted(by_shard):
        with open_shard(scored.shards[shard]) as buffer:

            def read(row: int, buffer: Buffer = buffer) -> Picture | None:
                start, size = int(scored.image_offset_N[row]), int(scored.image_bytes_N[row])
                if size > MAX_IMAGE_BYTES:
                    return None
                try:
                    image = decode_image(bytes(buffer[start : start + size]), max_pixels)
                except ImageProblem:
                    return None
                return _picture(row, image)

            for picture in map_ordered(read, by_shard[shard], workers=workers):
                if picture is not None:
                    found[picture.row] = picture
    return [found[row] for row in rows if row in found]


def _picture(row: int, image: Image.Image) -> Picture:
    width, height = image.size
    scale = SIDE / math.sqrt(width * height)
    size = (_side(width * scale), _side(height * scale))
    return Picture(
        row=row,
        size=image.size,
        square=np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)),
        scaled=np.asarray(image.resize(size, Image.Resampling.BOX)),
    )


def _side(pixels: float) -> int:
    return min(_MAX_SIDE, max(16, round(pixels)))
