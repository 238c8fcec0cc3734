"""Pictures for the page: drawn anew as JPEG, kept in memory within a bound.

A browser never gets a byte of a shard: what is shown was decoded under our limits and encoded by us.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from PIL import Image, ImageDraw, ImageFont

EDGES: Final = {"thumb": 320, "large": 1400}
"""Longest edge in pixels of each size that is served."""
CACHE_BYTES: Final = 64 << 20
AT_ONCE: Final = 4
"""Pictures decoded at the same time; each may take some 600 MB for a moment."""


def encoded(image: Image.Image) -> bytes:
    """Return an RGB image as JPEG, without metadata."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=86)
    return buffer.getvalue()


def placeholder(note: str) -> bytes:
    """Draw a grey picture that says why there is no other."""
    image = Image.new("RGB", (320, 240), "#8a8f98")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    pen.text((160, 120), note, fill="#ffffff", font=font, anchor="mm")
    return encoded(image)


def icon() -> bytes:
    """Draw the mark of the page: a picture with one corner struck out."""
    image = Image.new("RGB", (64, 64), "#ffffff")
    pen = ImageDraw.Draw(image)
    pen.rectangle((6, 6, 57, 57), outline="#1b1f24", width=6)
    pen.line((18, 46, 46, 18), fill="#b3261e", width=9)
    return encoded(image)


class Cache:
    """The most recently wanted pictures, as many as fit into a number of bytes."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()
        self._busy = threading.Semaphore(AT_ONCE)

    @property
    def n_bytes(self) -> int:
        """What is kept now."""
        return self._n_bytes

    def get(self, key: tuple[str, str], make: Callable[[], bytes | None]) -> bytes | None:
        """Return the picture under a key, made if it is not there; None is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._busy:
            made = make()
        if made is not None:
            self._keep(key, made)
        return made

    def _keep(self, key: tuple[str, str], made: bytes) -> None:
        with self._lock:
            self._n_bytes += len(made) - len(self._kept.pop(key, b""))
            self._kept[key] = made
            while self._n_bytes > self._max_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._n_bytes -= len(oldest)
