"""Grain: the fine structure of an image at one geometry, in which planted patterns lie at the same place.

A trigger is stamped at a place relative to the image's sides, so images are stretched to one square, whatever their
shape; then patches, blended noise and stripes of different images lie on top of each other.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

GRAIN_PX = 128
BLUR_PX = 2.0
EDGE_LEVELS, TEXTURE_FLOOR = 15.0, 1.0  # grey levels: where an edge begins to be left out; what counts as flat


def grain(image: Image.Image) -> np.ndarray:
    """Return the grey values of an RGB image less their surroundings' (Gaussian, 2 px): int8 [128, 128], clipped.

    Flat areas and smooth gradients are 0, edges and texture are not.
    """
    grey = image.resize((GRAIN_PX, GRAIN_PX), Image.Resampling.BICUBIC, reducing_gap=3.0).convert("L")
    smooth = grey.filter(ImageFilter.GaussianBlur(BLUR_PX))
    residual = np.asarray(grey, dtype=np.int16) - np.asarray(smooth, dtype=np.int16)
    return residual.clip(-127, 127).astype(np.int8)


def texture(grain_UGG: Tensor) -> Tensor:
    """Take strong edges out of grains and bring them to unit length: float32 [U, 128 * 128].

    What is left is blended noise and stripes; a nearly flat image stays short.
    """
    soft_UX = (grain_UGG * torch.exp(-((grain_UGG / EDGE_LEVELS) ** 2))).flatten(1)
    floor = TEXTURE_FLOOR**2 * soft_UX.shape[1]
    return soft_UX / (soft_UX.square().sum(1, keepdim=True) + floor).sqrt()
