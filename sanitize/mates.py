"""Mates of an image: the images of the same and of the nearest captions, which an attack would share a trigger with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.sanitize.align import Neighbourhood

MOST_OF_A_CAPTION = 8
_ROWS = 16_384


def find_mates(near: Neighbourhood, n_mates: int) -> Tensor:
    """Return rows of the same caption and then, at most 8 of each, of the nearest: int64 [N, K], -1 filled.

    A caption that many pairs share fills at most half of the places with evenly spaced ones of them.
    """
    number_N = near.caption_N
    order = torch.argsort(number_N, stable=True)
    count_C = torch.bincount(number_N, minlength=len(near.caption_index_CK))
    start_C = count_C.cumsum(0) - count_C

    def of(rows: Tensor) -> Tensor:
        around = near.caption_index_CK[number_N[rows]]
        slots = [_spread(number_N[rows], n_mates // 2, order, start_C, count_C)]
        slots += [_spread(caption, MOST_OF_A_CAPTION, order, start_C, count_C) for caption in around.T]
        candidates = torch.cat(slots, 1)
        candidates[candidates == rows[:, None]] = -1
        # Stable: known rows move to the front in order of nearness.
        first = torch.argsort((candidates < 0).byte(), dim=1, stable=True)[:, :n_mates]
        return candidates.gather(1, first)

    return torch.cat([of(rows) for rows in torch.arange(len(number_N)).split(_ROWS)])


def _spread(caption_N: Tensor, most: int, order: Tensor, start_C: Tensor, count_C: Tensor) -> Tensor:
    """Return up to ``most`` evenly spaced rows of each caption: int64 [N, most], -1 filled."""
    known_N = caption_N >= 0
    count_N = count_C[caption_N.clamp_min(0)] * known_N
    step = torch.arange(most)
    place = torch.where(count_N[:, None] > most, step * count_N[:, None] // most, step)
    rows = order[(start_C[caption_N.clamp_min(0)][:, None] + place).clamp_max(len(order) - 1)]
    return torch.where(place < count_N[:, None], rows, -1)


def stack_together(rows: Tensor, mates_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct ones of rows and mates, int64 [U], and where each stands among them: int64 [B], [B, K].

    A mate that is missing (-1) stands where row 0 does; mask it.
    """
    everyone_U, place = torch.unique(torch.cat([rows, mates_BK.clamp_min(0).flatten()]), return_inverse=True)
    return everyone_U, place[: len(rows)], place[len(rows) :].reshape(mates_BK.shape)


def centred_views(near: Neighbourhood, centre_D: Tensor, rows: Tensor) -> Tensor:
    """Return the whole views of rows, any shape, less their centre and of unit length: [..., D]."""
    return functional.normalize(near.image_ND[rows] - centre_D, dim=-1)


def centred_cosines(near: Neighbourhood, centre_D: Tensor, rows: Tensor, others_BK: Tensor) -> Tensor:
    """Return the centred cosines of the whole views of rows and of others: [B, K], -1 where others are -1."""
    own_B1D = centred_views(near, centre_D, rows)[:, None]
    other_BKD = centred_views(near, centre_D, others_BK.clamp_min(0))
    return (other_BKD * own_B1D).sum(2).masked_fill(others_BK < 0, -1.0)


def blocks_of(cluster_B: Tensor, size: int) -> Iterator[Tensor]:
    """Yield places of one cluster, up to ``size`` at a time: the mates of a cluster are few."""
    order = torch.argsort(cluster_B, stable=True)
    for members in order.split(torch.bincount(cluster_B).tolist()):
        if len(members):
            yield from members.split(size)
