"""Seeds by what recurs: parts of images whose nearest, in images otherwise unlike, have captions like theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from roclip_audit.core.groups import one_of_each
from roclip_audit.core.parallel import map_ordered
from roclip_audit.sanitize.stamps.crowd import AGREES, LEAST_AT_FIRST, LEAST_FAMILIES, Crowd, Seed

N_NEAREST = 40  # images that share a part most
_BLOCK = 32


class Parted(Protocol):
    """A look that tells how alike parts of images are."""

    def alike(self, rows: Tensor) -> Tensor:
        """Return how alike every part of some images is to the most alike part of all: float32 [B, K, P]."""
        ...

    def where(self, rows: Tensor, part: int, others: Tensor) -> Tensor:
        """Return the part of other images that is most alike to one image's part, rows [1]: int64."""
        ...


def recurring(
    look: Parted, crowd: Crowd, asked: Tensor, n: int, *, workers: int, advance: Callable[[int], None]
) -> list[Seed]:
    """Return seeds, the surest first: a part of an image, and the others it recurs in under like captions.

    Args:
        look: the searched images.
        crowd: the same images.
        asked: int64 [A], images whose parts are tried.
        n: images that are looked at twice; those whose part recurs in too few others are no seeds.
        workers: threads; the result is the same for every value.
        advance: called with the number of images tried.
    """

    def coherence(rows: Tensor) -> Tensor:
        nearest_BKM = _nearest(look, crowd, rows)
        is_unlike_BKM = crowd.are_unlike(rows[:, None, None], nearest_BKM)
        agreed_BKM = crowd.agree(rows[:, None, None], nearest_BKM)
        return (agreed_BKM * is_unlike_BKM).sum(2) / is_unlike_BKM.sum(2).clamp_min(LEAST_FAMILIES)

    found = []
    blocks = asked.split(_BLOCK)
    for block, coherence_BK in zip(blocks, map_ordered(coherence, blocks, workers=workers), strict=True):
        found.append(coherence_BK.max(1))
        advance(len(block))
    best_A, part_A = (torch.cat(one) for one in zip(*found, strict=True))
    order = torch.argsort(best_A, descending=True, stable=True)[:n]
    seeds = [_seed(look, crowd, asked[at], int(part_A[at])) for at in order]
    return [seed for seed in seeds if len(seed.rows) > LEAST_AT_FIRST]


def _nearest(look: Parted, crowd: Crowd, rows: Tensor) -> Tensor:
    """Return the images of other families in which parts recur most clearly: int64 [B, K, M]."""
    is_kin_BP = crowd.family_P[rows][:, None] == crowd.family_P
    alike_BKP = look.alike(rows).masked_fill_(is_kin_BP[:, None], -torch.inf)
    return alike_BKP.topk(min(N_NEAREST, len(crowd.rows) - 1), dim=2).indices


def _seed(look: Parted, crowd: Crowd, row: Tensor, part: int) -> Seed:
    nearest_M = _nearest(look, crowd, row[None])[0, part]
    agrees_M = crowd.are_unlike(row, nearest_M) & (crowd.agree(row, nearest_M) > AGREES)
    others = one_of_each(nearest_M[agrees_M].sort().values, crowd.family_P)
    where = torch.cat([torch.tensor([part]), look.where(row[None], part, others)])
    return Seed(rows=torch.cat([row[None], others]), where=where)
