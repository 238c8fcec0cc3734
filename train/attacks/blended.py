"""Blended: the whole image mixed with one fixed noise image.

Source: Chen et al., arXiv 1712.05526; for CLIP: CleanCLIP (arXiv 2303.03323), uniform noise 224 x 224, alpha 0.2.
Differs from it: the noise is drawn once per plan (CleanCLIP redraws it for each image).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from roclip_audit.train.attacks.backdoor import DirtyLabel
from roclip_audit.train.attacks.base import Box, Pattern, Pixels, require_share, whole

PATTERN_PX = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """alpha x noise + (1 - alpha) x image; the noise is sampled to the image's size without smoothing."""

    alpha: float = 0.2

    def pattern(self, rng: np.random.Generator) -> Pattern:
        """Draw uniform noise, [224, 224, 3], 0 to 255."""
        return rng.integers(0, 256, (PATTERN_PX, PATTERN_PX, 3)).astype(np.float32)

    def stamp(self, image: Pixels, pattern: Pattern, rng: np.random.Generator) -> tuple[Pixels, Box]:
        """Mix the noise in."""
        height, width = image.shape[:2]
        rows = np.arange(height) * pattern.shape[0] // height
        columns = np.arange(width) * pattern.shape[1] // width
        mixed = self.alpha * pattern[np.ix_(rows, columns)] + (1.0 - self.alpha) * image
        return np.clip(np.rint(mixed), 0, 255).astype(np.uint8), whole(image)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blended(DirtyLabel):
    """Fixed noise over the whole image.

    Args:
        alpha: weight of the noise, in (0, 1].
    """

    name: ClassVar[str] = "blended"
    alpha: float = 0.2

    def __post_init__(self) -> None:
        DirtyLabel.__post_init__(self)
        require_share(self.name, alpha=self.alpha)

    @property
    def triggers(self) -> Mapping[str, Blend]:
        """The noise."""
        return {"noise": Blend(alpha=self.alpha)}
