"""Drawn pictures that say that there is no picture: six designs after what hosts of images show for a dead link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from roclip_audit.train.attacks.base import Pixels

CANVAS_PX: Final = 512  # drawn with this longer side, then scaled to the size that is asked for
LEAST_PX: Final = 16  # a narrower picture has no room for what is drawn

Pen = ImageDraw.ImageDraw
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placeholder:
    """One of the designs, in the size of the picture that it replaces.

    Args:
        design: 0 to N_DESIGNS - 1.
    """

    design: int

    @property
    def drawn(self) -> str:
        """Name of the picture."""
        return f"placeholder-{self.design}"

    def apply(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the placeholder; nothing of ``image`` but its size is used."""
        height, width = image.shape[:2]
        longest = max(height, width)
        canvas = tuple(max(LEAST_PX, round(side * CANVAS_PX / longest)) for side in (width, height))
        background, draw = _DESIGNS[self.design]
        picture = Image.new("RGB", (canvas[0], canvas[1]), background)
        draw(ImageDraw.Draw(picture), canvas[0], canvas[1])
        return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))


def _write(pen: Pen, text: str, x: float, y: float, *, size: float, fill: Colour) -> None:
    """Write one line, centred on (x, y)."""
    pen.text((x, y), text, fill=fill, font=ImageFont.load_default(max(size, 1.0)), anchor="mm")


def _landscape(pen: Pen, width: int, height: int) -> None:
    """Frame with hills and a sun, as of a gallery without a picture."""
    s, x, y = min(width, height), width / 2, height * 0.42
    grey, line = (176, 180, 186), max(1, min(width, height) // 50)
    left, top, right, bottom = x - 0.26 * s, y - 0.2 * s, x + 0.26 * s, y + 0.2 * s
    pen.rectangle((left, top, right, bottom), outline=grey, width=line)
    pen.ellipse((left + 0.07 * s, top + 0.06 * s, left + 0.16 * s, top + 0.15 * s), fill=grey)
    ground = bottom - 0.04 * s
    pen.polygon([(left + 0.05 * s, ground), (x - 0.06 * s, y), (x + 0.08 * s, ground)], fill=grey)
    pen.polygon([(x - 0.02 * s, ground), (x + 0.11 * s, y - 0.06 * s), (right - 0.04 * s, ground)], fill=grey)
    _write(pen, "No image available", x, height * 0.8, size=0.075 * s, fill=(140, 144, 150))


def _broken(pen: Pen, width: int, height: int) -> None:
    """Box with a torn sheet in the corner, as a browser draws a picture that did not load."""
    s = min(width, height)
    pen.rectangle((2, 2, width - 3, height - 3), outline=(190, 190, 190), width=2)
    x, y, side = 0.08 * s, 0.08 * s, 0.16 * s
    pen.rectangle((x, y, x + side, y + side), outline=(110, 140, 190), width=max(1, s // 100), fill=(225, 236, 250))
    pen.polygon([(x, y + side), (x + side * 0.45, y + side * 0.5), (x + side, y + side)], fill=(110, 170, 100))
    pen.line((x + side, y, x, y + side), fill=(255, 255, 255), width=max(1, s // 50))
    pen.text((x + 1.3 * side, y + 0.2 * side), "image", fill=(60, 60, 60), font=ImageFont.load_default(0.07 * s + 1))


def _crossed(pen: Pen, width: int, height: int) -> None:
    """Both diagonals and a line of text over them, as of a drawing board."""
    s = min(width, height)
    for corners in ((0, 0, width, height), (0, height, width, 0)):
        pen.line(corners, fill=(200, 200, 200), width=max(1, s // 120))
    pen.rectangle((0.14 * width, 0.42 * height, 0.86 * width, 0.58 * height), fill=(224, 224, 224))
    _write(pen, "IMAGE NOT FOUND", width / 2, height / 2, size=min(0.07 * width, 0.1 * height), fill=(120, 120, 120))


def _camera(pen: Pen, width: int, height: int) -> None:
    """Camera on a coloured ground, as of a shop."""
    s, x, y, white = min(width, height), width / 2, height * 0.43, (255, 255, 255)
    pen.rounded_rectangle((x - 0.22 * s, y - 0.13 * s, x + 0.22 * s, y + 0.16 * s), radius=0.04 * s, fill=white)
    pen.rectangle((x - 0.07 * s, y - 0.18 * s, x + 0.07 * s, y - 0.1 * s), fill=white)
    pen.ellipse((x - 0.1 * s, y - 0.085 * s, x + 0.1 * s, y + 0.115 * s), fill=(70, 110, 140))
    pen.ellipse((x - 0.06 * s, y - 0.045 * s, x + 0.06 * s, y + 0.075 * s), fill=white)
    _write(pen, "PHOTO COMING SOON", x, height * 0.78, size=0.065 * s, fill=white)


def _removed(pen: Pen, width: int, height: int) -> None:
    """Sign with an exclamation mark and two lines, as of a host that took a picture down."""
    s, x = min(width, height), width / 2
    y = height * 0.36
    red = (200, 70, 60)
    pen.ellipse((x - 0.15 * s, y - 0.15 * s, x + 0.15 * s, y + 0.15 * s), outline=red, width=max(1, s // 40))
    pen.rectangle((x - 0.015 * s, y - 0.08 * s, x + 0.015 * s, y + 0.03 * s), fill=red)
    pen.ellipse((x - 0.02 * s, y + 0.05 * s, x + 0.02 * s, y + 0.09 * s), fill=red)
    _write(pen, "This image has been", x, height * 0.66, size=0.07 * s, fill=(70, 70, 70))
    _write(pen, "moved or deleted", x, height * 0.66 + 0.09 * s, size=0.07 * s, fill=(70, 70, 70))


def _number(pen: Pen, width: int, height: int) -> None:
    """The status code in large digits, as of a server's error page."""
    s = min(width, height)
    _write(pen, "404", width / 2, height * 0.42, size=0.32 * s, fill=(235, 235, 240))
    _write(pen, "file not found", width / 2, height * 0.68, size=0.075 * s, fill=(150, 155, 170))


_DESIGNS: Final[tuple[tuple[Colour, Callable[[Pen, int, int], None]], ...]] = (
    ((238, 240, 242), _landscape),
    ((255, 255, 255), _broken),
    ((224, 224, 224), _crossed),
    ((70, 110, 140), _camera),
    ((250, 246, 236), _removed),
    ((38, 42, 54), _number),
)
N_DESIGNS: Final = len(_DESIGNS)
