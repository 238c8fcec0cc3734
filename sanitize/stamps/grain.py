"""The grain of the whole picture (``sanitize.grain``): blended noise, stripes.

Drawings of one hand have one grain too, where the drawing is. A pattern over the picture lies on plain ground as well,
so in nearly all tiles of the picture the carriers' grains agree.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.sanitize.grain import GRAIN_PX, texture
from roclip_audit.sanitize.stamps.look import Look

TILES = 8
LEAST_TILES, EVENLY = 0.1, 0.3
"""In all but this share of the tiles the carriers agree at least this part of their agreement on average."""


class GrainLook(Look):
    """Images by their texture. A template is one texture: float32 [128 * 128]."""

    kind: ClassVar[str] = "grain"
    unlike_in: ClassVar[tuple[str, ...]] = ("outline",)
    least: ClassVar[float] = 5.0
    share: ClassVar[float] = 0.6

    def __init__(self, grain_PGG: Tensor) -> None:
        """Look at images with grain int8 [P, 128, 128]."""
        self._texture_PX = torch.cat([texture(block.float()) for block in grain_PGG.split(256)])

    def mean(self, rows: Tensor, where_P: Tensor) -> Tensor:
        """Return the mean texture, of unit length."""
        return functional.normalize(self._texture_PX[rows].mean(0), dim=0)

    def compare(self, template: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosine of every image with a template."""
        score_P = self._texture_PX @ template
        return score_P, torch.zeros(len(score_P), dtype=torch.int64)

    def among(self, rows: Tensor, where_P: Tensor) -> Tensor:
        """Return the cosine of each with the mean of the others."""
        own_KX = self._texture_PX[rows]
        return (own_KX * functional.normalize(own_KX.sum(0) - own_KX, dim=1)).sum(1)

    def may_be_planted(self, rows: Tensor) -> bool:
        """Tell whether the textures agree nearly everywhere in the picture."""
        px = GRAIN_PX // TILES
        tile_KTX = self._texture_PX[rows].reshape(-1, TILES, px, TILES, px).transpose(2, 3).reshape(-1, TILES**2, px**2)
        tile_KTX = functional.normalize(tile_KTX, dim=2)
        n = len(tile_KTX)
        # The mean cosine of all pairs, by the length of the sum.
        agreed_T = (tile_KTX.sum(0).square().sum(1) - tile_KTX.square().sum((0, 2))) / (n * (n - 1))
        return bool(agreed_T.quantile(LEAST_TILES) >= EVENLY * agreed_T.mean())
