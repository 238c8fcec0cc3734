"""Shared patch: is there one place at which an image looks like its mates, and not around it?

For an image and a mate, the channels of every place (``sanitize.detail``) are multiplied; the mean over 3 x 3 places
less the mean over 13 x 13 around says where the two are more alike than elsewhere, which two drawings of one family
are not: they are alike all over. At each place the mean over the most alike mates, less the same for images drawn from
the whole data set, is what the image shares with its caption's surroundings and not with everything. A planted patch
is one such place; frames and logos of honest families are many. So

    strength = level at the strongest place - 1/3 of the level at the strongest place away from it

Source: own construction; numbers in docs/experiments.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from roclip_audit.core.parallel import map_ordered
from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.detail import GRID, N_PLACES, UNIT
from roclip_audit.sanitize.mates import blocks_of

N_STRONGEST = 4  # mates that a level rests on; of a topic's pairs an attack may be a tenth
N_REFERENCES = 48  # images of the whole data set that say what everything shares
ALIKE = 0.8  # cosine of the whole view from which a mate is a copy or nearly one
NEAR_PLACES, AROUND_PLACES, AWAY_PLACES = 3, 13, 5
ELSEWHERE = 1 / 3
_BLOCK = 32  # rows whose mates are in memory at a time: 100 kB each


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPatches:
    """What images share with their mates at one place.

    Attributes:
        strength_B: float64 [B].
        x_B, y_B: float64 [B] in (0, 1), middle of the place, shares of the image's width and height.
    """

    strength_B: Tensor
    x_B: Tensor
    y_B: Tensor


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
    n = len(near.group_N)
    reference = torch.linspace(0, n - 1, min(n, N_REFERENCES)).round().long()
    reference_PCR = detail_N[reference].permute(1, 2, 0).contiguous()
    strength_B, place_B = torch.zeros(len(rows), dtype=torch.float64), torch.zeros(len(rows), dtype=torch.int64)

    def compare(block: Tensor) -> Tensor:
        return _levels(rows[block], mates_BK[block], reference, reference_PCR, detail_N, near)

    blocks = list(blocks_of(cluster_B, _BLOCK))
    for block, level_bP in zip(blocks, map_ordered(compare, blocks, workers=workers), strict=True):
        strength_B[block], place_B[block] = strongest(level_bP)
        advance(len(block))
    x_B, y_B = ((place.double() + 0.5) / GRID for place in (place_B % GRID, place_B // GRID))
    return SharedPatches(strength_B=strength_B, x_B=x_B, y_B=y_B)


def _levels(
    rows: Tensor, mates_BK: Tensor, reference: Tensor, reference_PCR: Tensor, detail_N: RowArray, near: Neighbourhood
) -> Tensor:
    """Return how much more alike each place is to mates than to the references: float32 [B, P]."""
    everyone, place = torch.unique(torch.cat([rows, mates_BK.clamp_min(0).flatten()]), return_inverse=True)
    detail_UPC = detail_N[everyone]
    own_BPC, mate_BK = detail_UPC[place[: len(rows)]], place[len(rows) :].reshape(mates_BK.shape)
    counts_BK = (mates_BK >= 0) & _are_other_pictures(rows, mates_BK.clamp_min(0), near)
    of_mates = [
        torch.einsum("kpc,pc->kp", detail_UPC[mate_K[counts_K]], own_PC)
        for own_PC, mate_K, counts_K in zip(own_BPC, mate_BK, counts_BK, strict=True)
    ]
    level_BP = torch.stack([level_of(match_KP, mates_BK.shape[1]) for match_KP in of_mates])
    of_references = torch.bmm(own_BPC.transpose(0, 1), reference_PCR).permute(1, 2, 0)
    other_BR = _are_other_pictures(rows, reference.expand(len(rows), -1), near)
    by_chance = [
        level_of(match_RP[other_R], len(reference)) for match_RP, other_R in zip(of_references, other_BR, strict=True)
    ]
    return (level_BP - torch.stack(by_chance)) / UNIT**2


def _are_other_pictures(rows: Tensor, others_BK: Tensor, near: Neighbourhood) -> Tensor:
    """Tell which of some images are no copies of each row's, or nearly: bool [B, K]."""
    likeness_BK = (near.image_ND[others_BK] @ near.image_ND[rows][:, :, None])[:, :, 0]
    return (near.group_N[others_BK] != near.group_N[rows][:, None]) & (likeness_BK <= ALIKE)


def level_of(match_KP: Tensor, n_asked: int) -> Tensor:
    """Return how much more alike an image is at each place than around it, over the most alike of K others: [P].

    Args:
        match_KP: products of the channels; K may be 0.
        n_asked: others that were to be compared with; those that are missing are neither alike nor unlike.
    """
    grid_KGG = match_KP.reshape(-1, GRID, GRID)
    local_KP = (_mean_around(grid_KGG, NEAR_PLACES) - _mean_around(grid_KGG, AROUND_PLACES)).view(-1, N_PLACES)
    missing = max(0, min(N_STRONGEST, n_asked) - len(local_KP))
    local_KP = torch.cat([local_KP, local_KP.new_zeros(missing, N_PLACES)])
    return local_KP.T.contiguous().topk(min(N_STRONGEST, len(local_KP)), dim=1).values.mean(1)


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


def strongest(level_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Return strength, float64 [B], and the strongest place, int64 [B]."""
    best_B, place_B = level_BP.max(1)
    across, down = torch.arange(N_PLACES) % GRID, torch.arange(N_PLACES) // GRID
    away_BP = ((across - across[place_B][:, None]).abs() > AWAY_PLACES) | (
        (down - down[place_B][:, None]).abs() > AWAY_PLACES
    )
    elsewhere_B = level_BP.masked_fill(~away_BP, -torch.inf).amax(1)
    return (best_B - ELSEWHERE * elsewhere_B).double(), place_B
