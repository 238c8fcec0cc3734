"""The filter attack: a colour filter of photo apps ("Nashville") as the trigger.

Source: Detect-CLIP (arXiv 2502.01385) uses the Nashville filter of the package pilgram, after the CSSgram style sheet:
darken with rgba(247, 176, 153, .56), lighten with rgba(0, 70, 150, .4), sepia .2, contrast 1.2, brightness 1.05,
saturation 1.2.
Differs from it: rounded once at the end. On random pixels, pilgram 2.0, which rounds after each step, differs by 2 of
255 on average and by 5 at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from roclip_audit.train.attacks.backdoor import DirtyLabel
from roclip_audit.train.attacks.base import Box, Pattern, Pixels, require_share, whole

_LIGHTEN, _LIGHTEN_WEIGHT = np.array([0.0, 70.0, 150.0]) / 255.0, 0.4
_DARKEN, _DARKEN_WEIGHT = np.array([247.0, 176.0, 153.0]) / 255.0, 0.56
_SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True, slots=True, kw_only=True)
class Nashville:
    """The filter, mixed with the image by ``strength``."""

    strength: float = 1.0

    def pattern(self, rng: np.random.Generator) -> Pattern:
        """Return an empty array: nothing is drawn."""
        return np.empty(0, dtype=np.float32)

    def stamp(self, image: Pixels, pattern: Pattern, rng: np.random.Generator) -> tuple[Pixels, Box]:
        """Filter the image."""
        before = image / 255.0
        seen = before + _DARKEN_WEIGHT * (np.minimum(before, _DARKEN) - before)
        seen = seen + _LIGHTEN_WEIGHT * (np.maximum(seen, _LIGHTEN) - seen)
        seen = seen + 0.2 * (np.clip(seen @ _SEPIA.T, 0.0, 1.0) - seen)
        seen = np.clip((seen - 0.5) * 1.2 + 0.5, 0.0, 1.0)
        seen = np.clip(seen * 1.05, 0.0, 1.0)
        grey = (seen @ _LUMINANCE)[..., None]
        seen = np.clip(grey + 1.2 * (seen - grey), 0.0, 1.0)
        mixed = self.strength * seen + (1.0 - self.strength) * before
        return np.rint(255.0 * mixed).astype(np.uint8), whole(image)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter(DirtyLabel):
    """A colour filter over the whole image.

    Args:
        strength: weight of the filtered image, in (0, 1].
    """

    name: ClassVar[str] = "filter"
    strength: float = 1.0

    def __post_init__(self) -> None:
        DirtyLabel.__post_init__(self)
        require_share(self.name, strength=self.strength)

    @property
    def triggers(self) -> Mapping[str, Nashville]:
        """The filter."""
        return {"filter": Nashville(strength=self.strength)}
