"""Pictures to evaluate on: where they lie, and their pixels when they are needed.

Pictures are decoded each time a model, or a trigger, sees them; none is kept. A picture that cannot be read is left
out and counted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from stat import S_ISREG
from typing import Final, Protocol

import numpy as np
from PIL import Image

from roclip_audit.core.captions import IMAGE_EXTENSIONS, image_member
from roclip_audit.core.images import ImageProblem, decode_image, flatten
from roclip_audit.core.whole import ShardSample
from roclip_audit.train.attacks import Pixels

MAX_IMAGE_BYTES: Final = 256 << 20
MAX_PIXELS: Final = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A picture that could not be used, and why (``reason`` is one of core.problems.REASONS)."""

    where: str
    reason: str


class Pictures(Protocol):
    """A sequence of pictures that are decoded when asked for."""

    def __len__(self) -> int:
        """Return how many there are, readable or not."""

    def where(self, index: int) -> str:
        """Say where a picture lies, for people."""

    def pixels(self, index: int) -> Pixels:
        """Decode a picture to uint8 [H, W, 3].

        Raises:
            ImageProblem: it cannot be read.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An encoded picture: some bytes of a file.

    Args:
        where: what people see: shard and key, or the file.
        path: the file; empty for a sample without a picture.
        offset, n_bytes: where in the file.
    """

    where: str
    path: str
    offset: int = 0
    n_bytes: int = 0

    def read(self) -> bytes:
        """Read the encoded picture.

        Raises:
            ImageProblem: there is none, it is too large, or the file cannot be read.
        """
        if not self.path:
            raise ImageProblem("missing_image", f"no {', '.join(IMAGE_EXTENSIONS)} member")
        if self.n_bytes > MAX_IMAGE_BYTES:
            raise ImageProblem("image_too_large", f"{self.n_bytes:,} bytes, the limit is {MAX_IMAGE_BYTES:,}")
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                if not S_ISREG(os.fstat(descriptor).st_mode):
                    raise ImageProblem("image_undecodable", "not a regular file")
                file.seek(self.offset)
                return file.read(self.n_bytes)
        except OSError as error:
            raise ImageProblem("image_undecodable", f"cannot be read ({error.strerror or error})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPictures:
    """Pictures in shards or folders."""

    pictures: Sequence[Picture]
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.pictures)

    def where(self, index: int) -> str:
        """Return shard and key, or the file."""
        return self.pictures[index].where

    def pixels(self, index: int) -> Pixels:
        """Read and decode: upright, transparency over white."""
        return np.asarray(decode_image(self.pictures[index].read(), self.max_pixels))


@dataclass(frozen=True, slots=True)
class PicturesInMemory:
    """Pictures that somebody holds, PIL images or uint8 [H, W, 3]."""

    images: Sequence[Image.Image | Pixels]

    def __len__(self) -> int:
        return len(self.images)

    def where(self, index: int) -> str:
        """Return the position."""
        return f"picture {index}"

    def pixels(self, index: int) -> Pixels:
        """Return the pixels; a PIL image of another mode becomes RGB on white."""
        image = self.images[index]
        return np.asarray(flatten(image)) if isinstance(image, Image.Image) else image


def picture_of(found: ShardSample) -> Picture:
    """Return the picture that open_clip takes of a sample."""
    member = image_member(found.sample)
    if member is None:
        return Picture(where=found.where, path="")
    return Picture(where=found.where, path=found.shard.path, offset=member.offset, n_bytes=member.size)
