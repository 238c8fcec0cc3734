"""Shared patch: is there one place at which an image looks like its mates, and not around it?

For an image and a mate, the channels of every place (``sanitize.detail``) are multiplied. The mean over 3 x 3 places
less the mean over 13 x 13 around says where the two are more alike than elsewhere, which two drawings of one family
are not: they are alike all over. Patches of a quarter of the side are seen by 7 x 7 less 21 x 21. At each place the
mean over the most alike mates, less the same for reference images of the whole data set, is what the image shares with
its caption's surroundings and not with everything: the level. A planted patch is one such place; frames and logos of
honest families are many. So, at either scale,

    strength = level at the strongest place - 1/3 of the level at the strongest place away from it

References that carry the trigger cancel it: an attack on a twelfth of all data is not seen.

Source: own construction; numbers in docs/experiments.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from roclip_audit.core.parallel import map_ordered
from roclip_audit.core.ranks import evenly_spaced
from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.detail import GRID, N_PLACES, UNIT
from roclip_audit.sanitize.mates import blocks_of, centred_cosines, stack_together

N_STRONGEST = 4  # mates that a level rests on; of a topic's pairs an attack may be a tenth
N_REFERENCES = 48  # images of the whole data set that say what everything shares
ALIKE = 0.8  # cosine of the whole view, its mean over all images taken off, from which a mate is a copy or nearly one
SCALES = ((3, 13), (7, 21))  # places across that are averaged: at the place, around it
AWAY_PLACES = 5
ELSEWHERE = 1 / 3
_BLOCK = 32  # rows whose mates are in memory at a time: 25 kB each


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPatches:
    """What images share with their mates at one place.

    Attributes:
        strength_BS: float64 [B, S], at every scale of SCALES.
        x_BS, y_BS: float64 [B, S] in (0, 1), middle of the place, shares of the image's width and height.
    """

    strength_BS: Tensor
    x_BS: Tensor
    y_BS: Tensor


def find_shared_patches(
    rows: Tensor,
    mates_BK: Tensor,
    cluster_B: Tensor,
    detail_N: RowArray,
    near: Neighbourhood,
    *,
    workers: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> SharedPatches:
    """Compare images with mates, place by place.

    Args:
        rows: int64 [B], the images.
        mates_BK: int64 [B, K], what each is compared with, -1 for none.
        cluster_B: int64 [B], equal where mates are likely to be the same.
        detail_N: int8 rows [1024, 24].
        near: groups of near-duplicates and the whole view.
        workers: threads; the result is the same for every value.
        advance: called with the number of images finished.
    """
    reference = evenly_spaced(len(near.group_N), N_REFERENCES)
    reference_PCR = detail_N[reference].permute(1, 2, 0).contiguous()
    centre_D = near.image_ND.mean(0)
    strength_BS = torch.zeros(len(rows), len(SCALES), dtype=torch.float64)
    place_BS = torch.zeros(strength_BS.shape, dtype=torch.int64)

    def compare(block: Tensor) -> Tensor:
        mates_bK = mates_BK[block]
        is_mate_bR = (mates_bK[:, :, None] == reference).any(1)
        of_mates = _are_other_pictures(rows[block], mates_bK, near, centre_D)
        of_references = _are_other_pictures(rows[block], reference.expand(len(block), -1), near, centre_D)
        return _levels(rows[block], mates_bK, of_mates, reference_PCR, of_references & ~is_mate_bR, detail_N)

    blocks = list(blocks_of(cluster_B, _BLOCK))
    for block, level_bSP in zip(blocks, map_ordered(compare, blocks, workers=workers), strict=True):
        strength_BS[block], place_BS[block] = strongest(level_bSP)
        advance(len(block))
    x_BS, y_BS = ((place.double() + 0.5) / GRID for place in (place_BS % GRID, place_BS // GRID))
    return SharedPatches(strength_BS=strength_BS, x_BS=x_BS, y_BS=y_BS)


def _levels(
    rows: Tensor,
    mates_BK: Tensor,
    mate_counts_BK: Tensor,
    reference_PCR: Tensor,
    reference_counts_BR: Tensor,
    detail_N: RowArray,
) -> Tensor:
    """Return how much more alike each place is to mates than to the references: float32 [B, S, P]."""
    everyone, own, mate_BK = stack_together(rows, mates_BK)
    detail_UPC = detail_N.as_stored(everyone)
    own_BPC = detail_UPC[own].float()
    of_mates = torch.stack(
        [
            level_of(torch.einsum("kpc,pc->kp", detail_UPC[mate_K[counts_K]].float(), own_PC), len(mate_K))
            for own_PC, mate_K, counts_K in zip(own_BPC, mate_BK, mate_counts_BK, strict=True)
        ]
    )
    match_BRP = torch.bmm(own_BPC.transpose(0, 1), reference_PCR).permute(1, 2, 0)
    of_references = torch.stack(
        [
            level_of(match_RP[counts_R], len(counts_R))
            for match_RP, counts_R in zip(match_BRP, reference_counts_BR, strict=True)
        ]
    )
    return (of_mates - of_references) / UNIT**2


def _are_other_pictures(rows: Tensor, others_BK: Tensor, near: Neighbourhood, centre_D: Tensor) -> Tensor:
    """Tell which of some images (-1 for none) are no copies of each row's, or nearly: bool [B, K]."""
    is_another_BK = near.group_N[others_BK.clamp_min(0)] != near.group_N[rows][:, None]
    return (others_BK >= 0) & is_another_BK & (centred_cosines(near, centre_D, rows, others_BK) <= ALIKE)


def level_of(match_KP: Tensor, n_asked: int) -> Tensor:
    """Return how much more alike an image is at each place than around it, over the most alike of K others: [S, P].

    Args:
        match_KP: products of the channels; K may be 0.
        n_asked: others that were to be compared with; those that are missing are neither alike nor unlike.
    """
    grid_KGG = match_KP.reshape(-1, GRID, GRID)
    local_SKP = torch.stack([_mean_around(grid_KGG, at) - _mean_around(grid_KGG, around) for at, around in SCALES])
    local_SKP = local_SKP.reshape(len(SCALES), -1, N_PLACES)
    missing = max(0, min(N_STRONGEST, n_asked) - len(match_KP))
    local_SKP = torch.cat([local_SKP, local_SKP.new_zeros(len(SCALES), missing, N_PLACES)], dim=1)
    local_SPK = local_SKP.transpose(1, 2).contiguous()
    return local_SPK.topk(min(N_STRONGEST, local_SPK.shape[2]), dim=2).values.mean(2)


def _mean_around(grid_KGG: Tensor, side: int) -> Tensor:
    """Take the mean over side x side places, fewer at the border."""
    near_GG = _band(side)
    return near_GG @ grid_KGG @ near_GG.T


@cache
def _band(side: int) -> Tensor:
    """Return the matrix that takes the mean over ``side`` neighbours in a row."""
    place = torch.arange(GRID)
    near_GG = ((place[:, None] - place).abs() <= side // 2).float()
    return near_GG / near_GG.sum(1, keepdim=True)


def strongest(level_BSP: Tensor) -> tuple[Tensor, Tensor]:
    """Return strength, float64 [B, S], and the strongest place, int64 [B, S]."""
    best_BS, place_BS = level_BSP.max(2)
    across, down = torch.arange(N_PLACES) % GRID, torch.arange(N_PLACES) // GRID
    away_BSP = ((across - across[place_BS][..., None]).abs() > AWAY_PLACES) | (
        (down - down[place_BS][..., None]).abs() > AWAY_PLACES
    )
    elsewhere_BS = level_BSP.masked_fill(~away_BSP, -torch.inf).amax(2)
    return (best_BS - ELSEWHERE * elsewhere_BS).double(), place_BS
