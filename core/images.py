"""Decode images that an attacker may have written: three formats, a pixel cap from the header, one kind of failure.

Only JPEG, PNG and WEBP are tried. Pillow's global settings are left alone: ``LOAD_TRUNCATED_IMAGES`` stays off, so a
truncated image is a finding, and ``MAX_IMAGE_PIXELS`` still applies above our own cap. Colour profiles and other
metadata are not used, except the EXIF orientation. What is decoded is what a person would see: frame one, upright,
transparency over white. (A trainer that merely drops the alpha channel sees what lies below it.)
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS: Final = ("JPEG", "PNG", "WEBP")
MAX_ASPECT: Final = 16
_EXTENSIONS: Final = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
_FOREIGN: Final = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"<svg": "SVG",
    b"<?xml": "XML",
    b"<!DOC": "HTML",
    b"<html": "HTML",
}

# All that Pillow's parsers were seen to raise on damaged bytes. KeyboardInterrupt and SystemExit are not among them.
_PILLOW_FAILURES: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class _QuietPillow:
    """Ignores Pillow's warnings while any thread is inside.

    Otherwise hostile metadata could write to the terminal, or stop a decode where warnings are errors.
    ``catch_warnings`` restores what it saw at its start, so threads that overlap share one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_inside:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._n_inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if not self._n_inside:
                self._saved.__exit__(None, None, None)


_quiet_pillow = _QuietPillow()


class ImageProblem(Exception):  # noqa: N818 - a finding about a pair, not an error of the program
    """An image that cannot be used; ``reason`` is one of core.problems.REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedImage:
    """A decoded image and what its file said about itself."""

    image: Image.Image
    """RGB, upright, without transparency."""
    format: str
    """One of FORMATS."""
    n_frames: int

    def notes(self, extension: str) -> list[ImageProblem]:
        """Return what is odd about the file but did not stop its decoding.

        Args:
            extension: of the member it came from, without the dot.
        """
        notes = []
        if self.n_frames > 1:
            notes.append(ImageProblem("image_animated", f"{self.n_frames} frames"))
        if _EXTENSIONS.get(extension.lower()) != self.format:
            notes.append(ImageProblem("image_format", f"{self.format} content under the extension {extension}"))
        return notes


def decode_image(data: bytes, max_pixels: int) -> Image.Image:
    """Decode one image to RGB; see ``decode``."""
    return decode(data, max_pixels=max_pixels).image


def decode(data: bytes, *, max_pixels: int) -> DecodedImage:
    """Decode one image out of hostile bytes.

    Memory: at most about 12 bytes a pixel of ``max_pixels``, and the header is checked before any of it is taken.

    Args:
        data: the whole file.
        max_pixels: most pixels (width times height) that will be decoded.

    Raises:
        ImageProblem: with reason image_undecodable, image_truncated, image_too_large or image_format; nothing else.
    """
    try:
        with _quiet_pillow, Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > max_pixels:
                raise ImageProblem("image_too_large", f"{width} x {height} pixels, the limit is {max_pixels}")
            opened.load()
            upright = _upright(opened)
            n_frames = getattr(opened, "n_frames", 1)
            # An MPO is a JPEG with more pictures behind the first; Pillow's JPEG reader hands it on.
            return DecodedImage(
                image=flatten(upright),
                format="JPEG" if opened.format == "MPO" else str(opened.format),
                n_frames=n_frames,
            )
    except Image.DecompressionBombError as error:
        raise ImageProblem("image_too_large", str(error)) from error
    except _PILLOW_FAILURES as error:
        raise _problem(data, error) from error


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF orientation says; broken EXIF says nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except _PILLOW_FAILURES:
        return image


def flatten(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: transparency over white, 16 bits a channel to the upper 8."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        pixels = image.convert("RGBA")
        white = Image.new("RGBA", pixels.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, pixels).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def cut_to_aspect(image: Image.Image) -> Image.Image:
    """Cut an image longer than MAX_ASPECT : 1 to its middle.

    open_clip scales the shorter side up, and one of 1 x 1,000,000 pixels would take gigabytes.
    """
    width, height = (min(side, MAX_ASPECT * min(image.size)) for side in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _problem(data: bytes, error: BaseException) -> ImageProblem:
    """Name what went wrong from the error and the first bytes."""
    for magic, name in _FOREIGN.items():
        if data.lstrip()[: len(magic)] == magic:
            return ImageProblem("image_format", f"{name} content is not accepted")
    detail = f"{type(error).__name__}: {error}" if data else "the file is empty"
    if data and isinstance(error, UnidentifiedImageError):  # its own message holds a memory address
        detail = "not a readable JPEG, PNG or WEBP file"
    shortened = "truncated" in str(error).lower() or _webp_is_short(data)
    return ImageProblem("image_truncated" if shortened else "image_undecodable", detail)


def _webp_is_short(data: bytes) -> bool:
    """Tell whether a WEBP file is shorter than its RIFF header says; libwebp itself only says "no"."""
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return False
    return len(data) < 8 + int.from_bytes(data[4:8], "little")


def dhash(image: Image.Image) -> int:
    """Return the 64-bit difference hash of an image: near-duplicates differ in few bits.

    Each bit says whether one of 9 x 8 grey cells is brighter than its left neighbour, row by row, first cell in the
    highest bit; the same bits as the ImageHash package's ``dhash``.
    """
    cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.LANCZOS))
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")
