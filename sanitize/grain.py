"""Grain: the fine structure of an image at one geometry, in which planted patterns lie at the same place.

A trigger is stamped at a place relative to the image's sides, so images are stretched to one square, whatever their
shape; then patches, blended noise and stripes of different images lie on top of each other.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

GRAIN_PX = 128
BLUR_PX = 2.0


def grain(image: Image.Image) -> np.ndarray:
    """Return the grey values of an RGB image less their surroundings' (Gaussian, 2 px): int8 [128, 128], clipped.

    Flat areas and smooth gradients are 0, edges and texture are not.
    """
    grey = image.resize((GRAIN_PX, GRAIN_PX), Image.Resampling.BICUBIC, reducing_gap=3.0).convert("L")
    smooth = grey.filter(ImageFilter.GaussianBlur(BLUR_PX))
    residual = np.asarray(grey, dtype=np.int16) - np.asarray(smooth, dtype=np.int16)
    return residual.clip(-127, 127).astype(np.int8)
