"""SIG: a faint sinusoid over the columns.

Source: Barni et al., arXiv 1902.11237; for CLIP: CleanCLIP and BadCLIP (arXiv 2311.12075), 60/255 sin(2 pi 6 j / W),
added and clipped as BadCLIP does.
Differs from it: the period follows the width of the picture, so that it survives resizing; Detect-CLIP (arXiv
2502.01385) mixes a stored wave in with weight 0.2 instead of adding one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks.backdoor import DirtyLabel
from roclip_audit.train.attacks.base import Box, Pattern, Pixels, require_share, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinusoid:
    """amplitude x 255 x sin(2 pi periods j / W) added to each column j."""

    amplitude: float
    periods: float

    def pattern(self, rng: np.random.Generator) -> Pattern:
        """Return an empty array: the wave follows from the parameters."""
        return np.empty(0, dtype=np.float32)

    def stamp(self, image: Pixels, pattern: Pattern, rng: np.random.Generator) -> tuple[Pixels, Box]:
        """Add the wave."""
        width = image.shape[1]
        wave = 255.0 * self.amplitude * np.sin(2.0 * np.pi * self.periods * np.arange(width) / width)
        stamped = np.clip(np.rint(image + wave[None, :, None]), 0, 255).astype(np.uint8)
        return stamped, whole(image)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sig(DirtyLabel):
    """A sinusoid over the columns.

    Args:
        amplitude: share of the grey range, in (0, 1].
        periods: number of periods over the width, above 0.
    """

    name: ClassVar[str] = "sig"
    amplitude: float = 60 / 255
    periods: float = 6.0

    def __post_init__(self) -> None:
        DirtyLabel.__post_init__(self)
        require_share(self.name, amplitude=self.amplitude)
        if not 0.0 < self.periods < float("inf"):
            raise ConfigError(f"attack {self.name}: periods={self.periods:g} is not above 0")

    @property
    def triggers(self) -> Mapping[str, Sinusoid]:
        """The wave."""
        return {"sinusoid": Sinusoid(amplitude=self.amplitude, periods=self.periods)}
