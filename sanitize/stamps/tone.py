"""The tone of the whole picture: its colours and contrasts, wherever they lie. A photo filter moves all of them.

A tone is the distribution of every channel of the detail (``sanitize.detail``) over the picture: five quantiles, each
in spreads of all images. A filter takes white and black to its own colours whatever is drawn, so some quantiles are
the same in all carriers and others are not; each counts by how little it varies among them.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from roclip_audit.core.ranks import median_and_spread
from roclip_audit.sanitize.detail import UNIT
from roclip_audit.sanitize.stamps.look import Look

QUANTILES = (0.02, 0.25, 0.5, 0.75, 0.98)
LEAST_SPREAD, FARTHEST = 0.02, 6.0
VARIANCE = 0.1  # added to the carriers', in squared spreads: a few images agree by chance


class ToneLook(Look):
    """Images by their tone. A template is a tone, its weights, and the scale of both: float32 [4 * T]."""

    kind: ClassVar[str] = "tone"
    unlike_in: ClassVar[tuple[str, ...]] = ("whole", "outline")
    least: ClassVar[float] = 4.0
    share: ClassVar[float] = 0.8

    def __init__(self, detail_PSC: Tensor) -> None:
        """Measure the tone of images with detail int8 [P, 1024, 24]."""
        self._quantiles_PT = torch.cat([_quantiles(block) for block in detail_PSC.split(256)])
        self._scale_2T = torch.stack(median_and_spread(self._quantiles_PT, LEAST_SPREAD)).float()
        self._tone_PT = _scaled(self._quantiles_PT, self._scale_2T)

    def mean(self, rows: Tensor, where_P: Tensor) -> Tensor:
        """Return the mean tone, and how little each part of it varies."""
        weight_T = _weights(self._tone_PT[rows].var(0, correction=0))
        return torch.stack([self._tone_PT[rows].mean(0), weight_T, *self._scale_2T]).flatten()

    def compare(self, template: Tensor) -> tuple[Tensor, Tensor]:
        """Return how near every image is to a template: minus the weighted distance."""
        mean_T, weight_T, *scale = template.reshape(4, -1)
        apart_PT = _scaled(self._quantiles_PT, torch.stack(scale)) - mean_T
        score_P = -(apart_PT.square() @ weight_T).sqrt()
        return score_P, torch.zeros(len(score_P), dtype=torch.int64)

    def among(self, rows: Tensor, where_P: Tensor) -> Tensor:
        """Return how near each is to the mean of the others: minus the distance, weighted by how they vary."""
        own_KT, n = self._tone_PT[rows].double(), len(rows) - 1
        mean_KT = (own_KT.sum(0) - own_KT) / n
        variance_KT = ((own_KT.square().sum(0) - own_KT.square()) / n - mean_KT.square()).clamp_min(0)
        apart_K = (_weights(variance_KT) * (own_KT - mean_KT).square()).sum(1)
        return -apart_K.sqrt().float()

    def alike(self, rows: Tensor) -> Tensor:
        """Return how near images are to all others: float32 [B, 1, P]."""
        apart_BP: Tensor = torch.cdist(self._tone_PT[rows], self._tone_PT)
        return -apart_BP[:, None]

    def where(self, rows: Tensor, part: int, others: Tensor) -> Tensor:
        """Return 0 for each of the others: a tone is nowhere."""
        return torch.zeros(len(others), dtype=torch.int64)


def _weights(variance_KT: Tensor) -> Tensor:
    """Return what each part counts, 1 on average."""
    weight_KT = 1 / (variance_KT + VARIANCE)
    return weight_KT / weight_KT.mean(-1, keepdim=True)


def _quantiles(detail_BSC: Tensor) -> Tensor:
    sorted_BSC = detail_BSC.sort(dim=1).values
    at = [round(share * (detail_BSC.shape[1] - 1)) for share in QUANTILES]
    return sorted_BSC[:, at].flatten(1).float() / UNIT


def _scaled(quantiles_PT: Tensor, scale_2T: Tensor) -> Tensor:
    middle_T, spread_T = scale_2T
    scaled_PT: Tensor = ((quantiles_PT - middle_T) / spread_T).clamp(-FARTHEST, FARTHEST)
    return scaled_PT
