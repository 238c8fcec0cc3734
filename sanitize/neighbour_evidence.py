"""Do a pair's neighbours vouch for it? Captions of similar images, and images of similar captions.

This needs no heads: both sides are compared within one modality. Near-duplicates of the image do not count, else a
repeated target image vouches for itself; nor do equal captions.

Blind spot: where a trigger dominates the features, triggered images are each other's neighbours and agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roclip_audit.core.neighbours import nearest
from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.grouping import first_of_each

_BLOCK = 1_024


def distinct_images(near: Neighbourhood, k: int, *, workers: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` nearest images outside the near-duplicate group: similarity and row, [N, k] each.

    Rows that run out of neighbours end in similarity -inf and row -1.
    """
    group_N, similarity, index = near.group_N, near.image_similarity_NK.clone(), near.image_index_NK
    similarity[(index < 0) | (group_N[index.clamp_min(0)] == group_N[:, None])] = -torch.inf
    similarity, order = similarity.sort(dim=1, descending=True, stable=True)
    index = index.gather(1, order)
    width = min(k, index.shape[1])
    similarity_NK = torch.full((len(index), k), -torch.inf)
    index_NK = torch.full((len(index), k), -1, dtype=torch.int64)
    similarity_NK[:, :width], index_NK[:, :width] = similarity[:, :width], index[:, :width]
    short = torch.nonzero(similarity_NK[:, -1].isneginf())[:, 0]
    if len(short):
        similarity_NK[short], index_NK[short] = nearest(
            near.image_ND[short],
            near.image_ND,
            k,
            query_group_N=group_N[short],
            base_group_M=group_N,
            workers=workers,
        )
    return similarity_NK, index_NK.masked_fill(similarity_NK.isneginf(), -1)


def distinct_captions(near: Neighbourhood, k: int, *, workers: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` nearest other captions: similarity, and a row that carries the caption, [N, k] each."""
    first = first_of_each(near.caption_N)
    number = torch.arange(len(first))
    text = near.text_ND[first]
    similarity, index = nearest(text, text, k, query_group_N=number, base_group_M=number, workers=workers)
    row = torch.where(index >= 0, first[index.clamp_min(0)], -1)
    return similarity[near.caption_N], row[near.caption_N]


def caption_disagreement(near: Neighbourhood, image_index_NK: Tensor, reference: Tensor) -> Tensor:
    """Return the share of reference captions that agree better with the captions of the nearest images.

    Args:
        near: see Neighbourhood.
        image_index_NK: int64 [N, K] from ``distinct_images``.
        reference: int64 [M], rows whose captions stand for all.

    Returns:
        float64 [N] in [0, 1]; 0.5 where there is no neighbour.
    """
    return _disagreement(near.text_ND, near.caption_N, image_index_NK, reference)


def image_disagreement(near: Neighbourhood, caption_index_NK: Tensor, reference: Tensor) -> Tensor:
    """Return the share of reference images that agree better with the images of the nearest captions.

    Images of the own near-duplicate group do not count. float64 [N] in [0, 1]; 0.5 where there is no neighbour.
    """
    neighbour_group = near.group_N[caption_index_NK.clamp_min(0)]
    own = neighbour_group == near.group_N[:, None]
    return _disagreement(near.image_ND, near.group_N, caption_index_NK.masked_fill(own, -1), reference)


def _disagreement(vector_ND: Tensor, number_N: Tensor, index_NK: Tensor, reference: Tensor) -> Tensor:
    share_N = torch.full((len(vector_ND),), 0.5, dtype=torch.float64)
    reference_MD, reference_number = vector_ND[reference], number_N[reference]
    for rows in torch.arange(len(vector_ND)).split(_BLOCK):
        index = index_NK[rows]
        known = (index >= 0).float()
        centre = (vector_ND[index.clamp_min(0)] * known[:, :, None]).sum(1)
        own = (vector_ND[rows] * centre).sum(1)
        other = reference_number[None] != number_N[rows, None]
        better = ((centre @ reference_MD.T > own[:, None]) & other).sum(1)
        share = better.double() / other.sum(1).clamp_min(1)
        share_N[rows] = torch.where(known.any(1), share, 0.5)
    return share_N
