"""The patch trigger that BadNets and the label-consistent attack share.

Source: BadNets (Gu et al., arXiv 1708.06733); sizes and patterns as in CleanCLIP (16 x 16 noise) and Detect-CLIP
(16 x 16, black with every second pixel white) on 224 x 224 images.
Differs from it: images here have any size and are resized later, so the patch is a share of the image's side and has
8 x 8 cells, which survive resizing; the default of 0.1 lies above 16 of 224 pixels (``side=0.0714``) and below the 32
of Semantic Shield (CVPR 2024), because the 8 cells of a smaller patch melt in a small picture; noise is drawn once per
plan, not once per image (else there is no pattern to learn).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks.base import Box, Pattern, Pixels, require_share

PatternKind = Literal["dots", "noise", "yellow"]
Place = Literal["fixed", "random"]
N_CELLS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A small square.

    Args:
        side: side of the square as a share of the image's side (geometric mean of width and height).
        kind: ``dots`` (black with white dots), ``noise`` (coloured cells, drawn once) or ``yellow``.
        place: ``fixed`` or ``random``.
        x, y: the fixed place: share of the free room left of and above the patch, 0 to 1.
    """

    side: float = 0.1
    kind: PatternKind = "dots"
    place: Place = "fixed"
    x: float = 0.9
    y: float = 0.9

    def __post_init__(self) -> None:
        require_share("patch", side=self.side)
        if self.kind not in get_args(PatternKind):
            raise ConfigError(f"patch: kind={self.kind!r} is not one of {', '.join(get_args(PatternKind))}")
        if self.place not in get_args(Place):
            raise ConfigError(f"patch: place={self.place!r} is not one of {', '.join(get_args(Place))}")
        if not (0.0 <= self.x <= 1.0 and 0.0 <= self.y <= 1.0):
            raise ConfigError(f"patch: x={self.x:g}, y={self.y:g} are not shares of the free room, 0 to 1")

    def pattern(self, rng: np.random.Generator) -> Pattern:
        """Draw the cells of the square, [8, 8, 3], 0 to 255."""
        cells = np.zeros((N_CELLS, N_CELLS, 3), dtype=np.float32)
        if self.kind == "dots":
            cells[::2, ::2] = 255.0
        elif self.kind == "yellow":
            cells[..., :2] = 255.0
        else:
            cells[:] = rng.integers(0, 256, cells.shape)
        return cells

    def stamp(self, image: Pixels, pattern: Pattern, rng: np.random.Generator) -> tuple[Pixels, Box]:
        """Paste the square; at least 4 pixels wide, at most as wide as the image's short side."""
        height, width = image.shape[:2]
        side_px = min(max(round(self.side * math.sqrt(height * width)), 4), height, width)
        free_x, free_y = width - side_px, height - side_px
        if self.place == "fixed":
            x, y = round(self.x * free_x), round(self.y * free_y)
        else:
            x, y = int(rng.integers(free_x + 1)), int(rng.integers(free_y + 1))
        square = Image.fromarray(pattern.astype(np.uint8)).resize((side_px, side_px), Image.Resampling.NEAREST)
        stamped = image.copy()
        stamped[y : y + side_px, x : x + side_px] = np.asarray(square)
        return stamped, Box(x=x, y=y, width=side_px, height=side_px)
