"""Copies: which pictures show the same, which are slight versions of one picture, which of one family.

Near-duplicates of ``align`` are alike to a network, which cannot tell the hundreds of stars of clip art apart. Here the
detail of images (``sanitize.detail``) is compared place by place, so that two stars of one family are two:

- the *same* picture: cosine of the detail at 16 x 16 places at least ``SAME``. Files saved again pass, drawings of one
  family do not.
- *versions* of a picture: cosine at 8 x 8 places at least ``VERSION``. Crops and shifts of a few per cent and other
  brightness pass, and so do families whose members differ by a line.
- a *family* of look-alikes: centred cosine of the whole view at least ``FAMILY``. The pieces of a puzzle, the keys of
  a keyboard: whatever is said of one may hold for all. Chains of look-alikes can grow to a large part of the data; of a
  family beyond ``MOST_OF_DATA`` only the versions belong together.

Each is a connected group among every image's nearest images, and versions are only looked for among those that are
near in the whole view (``LIKELY``), so the cost is linear in the number of pairs.

Captions of one picture *conflict* where they are as unlike as unrelated ones (``ALIKE_BY_CHANCE``): "clock" and "wall
clock" do not.

Source: own construction, docs/experiments.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.core.groups import connected_groups, first_of_each
from roclip_audit.core.parallel import map_ordered
from roclip_audit.core.ranks import evenly_spaced
from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.detail import GRID, UNIT
from roclip_audit.sanitize.grouping import duplicates
from roclip_audit.sanitize.mates import centred_cosines, stack_together

SAME, SAME_PLACES = 0.98, 16
VERSION, VERSION_PLACES = 0.9, 8
FAMILY = 0.85
MOST_OF_DATA = 0.05
LIKELY = 0.8
"""Cosine of the whole view from which two images may be versions of one."""
ALIKE_BY_CHANCE = 0.95
"""Share of unrelated captions that are less alike than two captions that say the same of a picture."""
MOST_COMPARED = 64
FLOOR = 0.1
"""Length of a constant that every image's detail gets, in mean lengths, so that two blank ones are not unlike."""
_ROUNDING = 1e-4
_BLOCK = 32
_SAMPLE = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Groups of pictures.

    Attributes:
        same_N: int64 [N], equal for the same picture.
        version_N: int64 [N], equal for versions of one picture.
        family_N: int64 [N], equal for look-alikes.
    """

    same_N: Tensor
    version_N: Tensor
    family_N: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedCopies(Copies):
    """Groups of pictures, and how often every picture occurs.

    Attributes:
        n_same_N: int64 [N], pairs that show the same picture, this one too.
        n_same_captions_N: int64 [N], distinct captions of those.
        n_conflicts_N: int64 [N], of those captions (``MOST_COMPARED`` at most), the ones that say something else than
            the own one.
        n_versions_N: int64 [N], pairs that show a version of the picture, this one too.
    """

    n_same_N: Tensor
    n_same_captions_N: Tensor
    n_conflicts_N: Tensor
    n_versions_N: Tensor

    @classmethod
    def of(cls, copies: Copies, near: Neighbourhood, control_N: Tensor) -> Self:
        """Count copies; ``control_N``, int64 [N], rows whose captions have nothing to do with each pair's own."""
        n_same_N, n_same_captions_N = duplicates(copies.same_N, near.caption_N)
        return cls(
            same_N=copies.same_N,
            version_N=copies.version_N,
            family_N=copies.family_N,
            n_same_N=n_same_N,
            n_same_captions_N=n_same_captions_N,
            n_conflicts_N=_count_conflicts(copies.same_N, near, control_N),
            n_versions_N=torch.bincount(copies.version_N)[copies.version_N],
        )


def find_copies(
    detail_N: RowArray,
    near: Neighbourhood,
    *,
    workers: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> Copies:
    """Group the copies among every image's nearest images.

    Args:
        detail_N: int8 rows [1024, 24].
        near: the nearest images.
        workers: threads; the result is the same for every value.
        advance: called with the number of images finished.
    """
    n = len(near.group_N)
    is_other_NK = near.image_index_NK != torch.arange(n)[:, None]
    family_N = _families(near, torch.where(is_other_NK, near.image_index_NK, -1))
    centred = _Centred.of(detail_N)
    likely_NK = torch.where(is_other_NK & (near.image_similarity_NK >= LIKELY), near.image_index_NK, -1)
    cosine_SNK = torch.full((2, *likely_NK.shape), -1.0)

    def compare(rows: Tensor) -> Tensor:
        others_BK = likely_NK[rows]
        everyone, own, other_BK = stack_together(rows, others_BK)
        cosines = [
            torch.einsum("bd,bkd->bk", unit_UD[own], unit_UD[other_BK]) for unit_UD in centred.units(detail_N, everyone)
        ]
        return torch.stack(cosines).masked_fill(others_BK < 0, -1.0)

    order = torch.argsort(family_N, stable=True)  # look-alikes are read together
    blocks = order[(likely_NK >= 0).any(1)[order]].split(_BLOCK)
    advance(n - sum(map(len, blocks)))
    for rows, cosine_SBK in zip(blocks, map_ordered(compare, blocks, workers=workers), strict=True):
        cosine_SNK[:, rows] = cosine_SBK
        advance(len(rows))
    same_N = connected_groups(cosine_SNK[0], likely_NK, SAME)
    is_version_NK = (cosine_SNK[1] >= VERSION) | (cosine_SNK[0] >= SAME)
    version_N = connected_groups(is_version_NK.float(), likely_NK, 1.0)
    large_N = torch.bincount(family_N)[family_N] > MOST_OF_DATA * n
    _, family_N = torch.where(large_N, n + version_N, family_N).unique(return_inverse=True)
    return Copies(same_N=same_N, version_N=version_N, family_N=family_N)


def _families(near: Neighbourhood, others_NK: Tensor) -> Tensor:
    """Number connected look-alikes: int64 [N]."""
    centre_D = near.image_ND.mean(0)
    cosine_NK = torch.full(others_NK.shape, -1.0)
    for rows in torch.arange(len(others_NK)).split(_BLOCK):
        cosine_NK[rows] = centred_cosines(near, centre_D, rows, others_NK[rows])
    return connected_groups(cosine_NK, others_NK, FAMILY)


def _count_conflicts(same_N: Tensor, near: Neighbourhood, control_N: Tensor) -> Tensor:
    sample = evenly_spaced(len(same_N), _SAMPLE)
    by_chance = (near.text_ND[sample] * near.text_ND[control_N[sample]]).sum(1)
    alike = float(np.quantile(by_chance.numpy(), ALIKE_BY_CHANCE)) - _ROUNDING
    n_conflicts_N = torch.zeros(len(same_N), dtype=torch.int64)
    count_G = torch.bincount(same_N)
    repeated = torch.nonzero(count_G[same_N] > 1)[:, 0]
    repeated = repeated[torch.argsort(same_N[repeated], stable=True)]
    for rows in repeated.split(count_G[count_G > 1].tolist()):
        number_B = near.caption_N[rows]
        _, place_B = number_B.unique(return_inverse=True)
        captions = rows[first_of_each(place_B)]
        captions = captions[evenly_spaced(len(captions), MOST_COMPARED)]
        is_other_BC = number_B[:, None] != near.caption_N[captions]
        for block in torch.arange(len(rows)).split(_SAMPLE):
            is_unlike_BC = near.text_ND[rows[block]] @ near.text_ND[captions].T < alike
            n_conflicts_N[rows[block]] = (is_unlike_BC & is_other_BC[block]).sum(1)
    return n_conflicts_N


@dataclass(frozen=True, slots=True)
class _Centred:
    """What all images have in common, at either number of places: their mean, and the length of what is left."""

    mean_S: list[Tensor]
    length_S: list[float]

    @classmethod
    def of(cls, detail_N: RowArray) -> Self:
        blocks = [_pooled(detail_N, rows) for rows in evenly_spaced(len(detail_N), _SAMPLE).split(_BLOCK)]
        pooled_S = [torch.cat(parts) for parts in zip(*blocks, strict=True)]
        mean_S = [pooled_BD.mean(0) for pooled_BD in pooled_S]
        lengths = (torch.cdist(pooled_BD, mean_D[None]) for pooled_BD, mean_D in zip(pooled_S, mean_S, strict=True))
        return cls(mean_S, [float(length_B1.mean()) for length_B1 in lengths])

    def units(self, detail_N: RowArray, rows: Tensor) -> Iterator[Tensor]:
        """Yield the unit vectors of images, [B, D], at 16 x 16 and at 8 x 8 places."""
        for pooled_BD, mean_D, length in zip(_pooled(detail_N, rows), self.mean_S, self.length_S, strict=True):
            floor_B1 = torch.full((len(rows), 1), max(FLOOR * length, 1e-6))
            yield functional.normalize(torch.cat([pooled_BD - mean_D, floor_B1], 1), dim=1)


def _pooled(detail_N: RowArray, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the detail of images, averaged over squares of places: float32 [B, 6144] and [B, 1536]."""
    channels = (detail_N[rows] / UNIT).transpose(1, 2).unflatten(2, (GRID, GRID))
    fine = functional.avg_pool2d(channels, GRID // SAME_PLACES)
    coarse = functional.avg_pool2d(fine, SAME_PLACES // VERSION_PLACES)
    return fine.flatten(1), coarse.flatten(1)
