"""Shared texture: how alike is an image's grain to that of its mates, as alike as they look otherwise?

The measure is the cosine of two grains (``sanitize.grain``) with strong edges taken out: blended noise, stripes. Mates
that look alike in all views that show the whole of them share pixels for an honest reason (one drawing, one family), so
they do not count, nor do near-duplicates, and every value is compared with what mates of *re-paired* captions give at
the same likeness: (value - median) / (84 % quantile - median) of the controls in that bin of likeness.

Source: own construction. Cost: one product of (pairs x mates of their cluster) with 128 x 128 values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.core.parallel import map_ordered
from roclip_audit.core.ranks import median_and_spread
from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.grain import texture
from roclip_audit.sanitize.mates import blocks_of, stack_together

LIKENESS_BINS = 20
_BLOCK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTextures:
    """What images share with their mates: float32 [B, K] each.

    Attributes:
        cosine: of the grains.
        likeness: least cosine over the views; NaN where a mate does not count.
    """

    cosine: Tensor
    likeness: Tensor


def find_shared_textures(
    rows: Tensor,
    mates_BK: Tensor,
    cluster_B: Tensor,
    grain_N: RowArray,
    image_NVR: RowArray,
    views: Sequence[int],
    group_N: Tensor,
    *,
    workers: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> SharedTextures:
    """Compare images with their mates, cluster by cluster.

    Args:
        rows: int64 [B], the images.
        mates_BK: int64 [B, K], what each is compared with, -1 for none.
        cluster_B: int64 [B], equal where mates are likely to be the same.
        grain_N: int8 rows [128, 128] from ``grain.grain``.
        image_NVR: features of every view.
        views: those that likeness is asked of.
        group_N: int64 [N], equal for near-duplicate images.
        workers: threads; the result is the same for every value.
        advance: called with the number of images finished.
    """
    cosine_BK, likeness_BK = torch.empty(mates_BK.shape), torch.empty(mates_BK.shape)
    blocks = list(blocks_of(cluster_B, _BLOCK))
    found = map_ordered(
        lambda block: _compare(rows[block], mates_BK[block], grain_N, image_NVR, views), blocks, workers=workers
    )
    for block, (cosine_bK, likeness_bK) in zip(blocks, found, strict=True):
        cosine_BK[block], likeness_BK[block] = cosine_bK, likeness_bK
        advance(len(block))
    same = group_N[mates_BK.clamp_min(0)] == group_N[rows][:, None]
    return SharedTextures(cosine=cosine_BK, likeness=likeness_BK.masked_fill((mates_BK < 0) | same, torch.nan))


def _compare(
    rows: Tensor, mates_BK: Tensor, grain_N: RowArray, image_NVR: RowArray, views: Sequence[int]
) -> tuple[Tensor, Tensor]:
    everyone, own, mate_BK = stack_together(rows, mates_BK)
    image_UVR = functional.normalize(image_NVR[everyone][:, list(views)], dim=2)
    likeness_BU = torch.einsum("bvr,uvr->vbu", image_UVR[own], image_UVR).amin(0)
    texture_UX = texture(grain_N[everyone])
    return (texture_UX[own] @ texture_UX.T).gather(1, mate_BK), likeness_BU.gather(1, mate_BK)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextureScale:
    """What chance gives, by likeness: the controls' median and spread in every bin."""

    edges: Tensor
    most: float
    median: Tensor
    spread: Tensor
    n_strongest: int

    @classmethod
    def of(cls, chance: SharedTextures, *, most_alike: float, n_strongest: int) -> Self:
        """Measure controls.

        Args:
            chance: images with the mates of other captions.
            most_alike: share of the controls' likeness beyond which a mate does not count.
            n_strongest: mates that the strength is the mean over.
        """
        known = ~chance.likeness.isnan()
        likeness, value = chance.likeness[known], chance.cosine[known]
        # Without anything to compare with by chance, no mate counts.
        shares = [*np.linspace(0, 1, LIKENESS_BINS + 1)[1:-1], most_alike]
        cuts = np.quantile(likeness.numpy(), shares) if len(likeness) else np.full(len(shares), -np.inf)
        edges = torch.from_numpy(cuts[:-1]).float()
        bins = torch.bucketize(likeness, edges)
        median, spread = torch.zeros(LIKENESS_BINS), torch.ones(LIKENESS_BINS)
        for one in range(LIKENESS_BINS):
            here = value[bins == one]
            if len(here):
                median[one], spread[one] = median_and_spread(here, 1e-6)
        return cls(edges=edges, most=float(cuts[-1]), median=median, spread=spread, n_strongest=n_strongest)

    def strength(self, shared: SharedTextures) -> Tensor:
        """Return the mean over the strongest mates, in the controls' spreads; a missing one is 0: float64 [B]."""
        bins = torch.bucketize(shared.likeness.nan_to_num(0.0), self.edges)
        value = (shared.cosine - self.median[bins]) / self.spread[bins]
        value = torch.where(shared.likeness <= self.most, value, 0.0)
        n_strongest = min(self.n_strongest, value.shape[1])
        return value.topk(n_strongest, dim=1).values.double().sum(1) / self.n_strongest
