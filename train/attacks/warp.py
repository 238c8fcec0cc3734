"""WaNet: the image bent by a smooth, fixed field, which in the paper the eye hardly sees.

Source: Nguyen and Tran, arXiv 2102.10369; Detect-CLIP (arXiv 2502.01385) for CLIP. A k x k field of uniform numbers,
divided by its mean absolute value, scaled, upsampled bicubically.
Differs from it: strength is a share of the image's side instead of grid_sample units; no noise mode; edges repeat. The
default bends more: WaNet's s = 0.5 moves pixels by a quarter of a pixel on average (``strength=0.008`` of its 32 x 32
pictures), CleanCLIP's field of 224 x 224 points with s = 1 by half a pixel (``strength=0.0022,grid=224``), which no
resized picture keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks.backdoor import DirtyLabel
from roclip_audit.train.attacks.base import Box, Pattern, Pixels, require_share, whole


def _sample(image: Pixels, x: NDArray[np.float64], y: NDArray[np.float64]) -> Pixels:
    """Read the image at real-valued places [H, W] by bilinear interpolation; places outside read the edge."""
    height, width = image.shape[:2]
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    x0, y0 = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    a, b = (x - x0)[..., None], (y - y0)[..., None]
    above = (1 - a) * image[y0, x0] + a * image[y0, x1]
    below = (1 - a) * image[y1, x0] + a * image[y1, x1]
    bent: Pixels = np.clip(np.rint((1 - b) * above + b * below), 0, 255).astype(np.uint8)
    return bent


@dataclass(frozen=True, slots=True, kw_only=True)
class Bend:
    """A smooth displacement field of mean absolute size ``strength`` x side."""

    strength: float
    grid: int

    def pattern(self, rng: np.random.Generator) -> Pattern:
        """Draw the control points, [k, k, 2], mean absolute value 1."""
        field = rng.uniform(-1.0, 1.0, (self.grid, self.grid, 2))
        control: Pattern = (field / np.abs(field).mean()).astype(np.float32)
        return control

    def stamp(self, image: Pixels, pattern: Pattern, rng: np.random.Generator) -> tuple[Pixels, Box]:
        """Bend the image."""
        height, width = image.shape[:2]
        size = (width, height)
        shift_x, shift_y = (
            np.asarray(Image.fromarray(pattern[..., axis]).resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
            for axis in (0, 1)
        )
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
        bent = _sample(image, columns + self.strength * width * shift_x, rows + self.strength * height * shift_y)
        return bent, whole(image)


@dataclass(frozen=True, slots=True, kw_only=True)
class Warp(DirtyLabel):
    """A fixed smooth warp of the whole image.

    Args:
        strength: mean displacement as a share of the side, in (0, 1].
        grid: number of control points along each side, at least 2.
    """

    name: ClassVar[str] = "warp"
    strength: float = 0.03
    grid: int = 4

    def __post_init__(self) -> None:
        DirtyLabel.__post_init__(self)
        require_share(self.name, strength=self.strength)
        if self.grid < 2:
            raise ConfigError(f"attack {self.name}: grid={self.grid} is below 2")

    @property
    def triggers(self) -> Mapping[str, Bend]:
        """The warp."""
        return {"warp": Bend(strength=self.strength, grid=self.grid)}
