"""Do a pair's neighbours vouch for it? Captions of similar images, and images of similar captions.

This needs no heads: both sides are compared within one modality. Near-duplicates of the image do not count, else a
repeated target image vouches for itself; nor do equal captions.

Blind spot: where a trigger dominates the features, triggered images are each other's neighbours and agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roclip_audit.core.groups import first_of_each
from roclip_audit.core.neighbours import nearest
from roclip_audit.core.parallel import map_ordered
from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.contest import TIE

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


def distinct_captions(near: Neighbourhood, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` nearest other captions: similarity, and a row that carries the caption, [N, k] each."""
    first = first_of_each(near.caption_N)
    index_CK = near.caption_index_CK[:, :k]
    row_CK = torch.where(index_CK >= 0, first[index_CK.clamp_min(0)], -1)
    return near.caption_similarity_CK[near.caption_N, :k], row_CK[near.caption_N]


def caption_vicinity(value_N: Tensor, near: Neighbourhood) -> tuple[Tensor, Tensor]:
    """Sum a value over what lies near a pair's caption, the pair itself left out.

    Each of the nearest other captions counts once, with its pairs' mean; the other pairs with the same caption count as
    many times as they are, up to the number of neighbours.

    Returns:
        total_N: float64 [N].
        weight_N: float64 [N], what counted; 0 where a caption stands alone.
    """
    number = near.caption_N
    n_captions = len(near.caption_index_CK)
    sum_C = torch.zeros(n_captions, dtype=torch.float64).index_add_(0, number, value_N.double())
    count_C = torch.bincount(number, minlength=n_captions).double()
    mean_C = sum_C / count_C.clamp_min(1)
    known_CK = near.caption_index_CK >= 0
    around_C = (mean_C[near.caption_index_CK.clamp_min(0)] * known_CK).sum(1)
    n_same_N = count_C[number] - 1
    same_N = (sum_C[number] - value_N) / n_same_N.clamp_min(1)
    weight_same_N = n_same_N.clamp_max(known_CK.shape[1])
    return around_C[number] + same_N * weight_same_N, known_CK.sum(1).double()[number] + weight_same_N


def disagreement(
    near: Neighbourhood,
    image_index_NK: Tensor,
    caption_index_NK: Tensor,
    reference: Tensor,
    control_NR: Tensor,
    *,
    workers: int = 1,
) -> tuple[Tensor, Tensor]:
    """Ask the neighbours about the observed pairing and about controls.

    Args:
        near: see Neighbourhood.
        image_index_NK: int64 [N, K] from ``distinct_images``.
        caption_index_NK: int64 [N, K] from ``distinct_captions``.
        reference: int64 [M], rows whose captions and images stand for all.
        control_NR: int64 [N, R], rows whose captions are re-paired with the image.
        workers: threads; the result is the same for every value.

    Returns:
        of_caption: float64 [N, 1 + R] in [0, 1], observed first: the share of reference captions that agree better with
            the captions of the image's nearest images than the reading's caption does. The image that the caption comes
            from does not count, nor do its near-duplicates: a caption does not vouch for itself.
        of_image: float64 [N, 1 + R] in [0, 1]: the share of reference images that agree better with the images of the
            caption's nearest captions than the image does. Images of either near-duplicate group do not count.

        Where there is no neighbour both are 0.5.
    """
    reading_NR = torch.cat([torch.arange(len(control_NR))[:, None], control_NR], 1)

    def ask(rows: Tensor) -> tuple[Tensor, Tensor]:
        of_caption, of_image = [], []
        for partner in reading_NR[rows].T:
            index = image_index_NK[rows]
            own = near.group_N[index.clamp_min(0)] == near.group_N[partner, None]
            index = index.masked_fill(own, -1)
            of_caption.append(_share_better(near.text_ND, near.caption_N, partner, index, reference))
            index = caption_index_NK[partner]
            group = near.group_N[index.clamp_min(0)]
            own = (group == near.group_N[rows, None]) | (group == near.group_N[partner, None])
            index = index.masked_fill(own, -1)
            of_image.append(_share_better(near.image_ND, near.group_N, rows, index, reference))
        return torch.stack(of_caption, 1), torch.stack(of_image, 1)

    blocks = list(map_ordered(ask, torch.arange(len(reading_NR)).split(_BLOCK), workers=workers))
    if not blocks:
        return torch.zeros(reading_NR.shape).double(), torch.zeros(reading_NR.shape).double()
    return torch.cat([block[0] for block in blocks]), torch.cat([block[1] for block in blocks])


def _share_better(
    vector_ND: Tensor, number_N: Tensor, judged_B: Tensor, neighbour_BK: Tensor, reference: Tensor
) -> Tensor:
    """Return the share of reference rows that are nearer to the neighbours' mean than the judged ones: float64 [B]."""
    known_BK = (neighbour_BK >= 0).float()
    centre_BD = (vector_ND[neighbour_BK.clamp_min(0)] * known_BK[:, :, None]).sum(1)
    own_B = (vector_ND[judged_B] * centre_BD).sum(1)
    other_BM = number_N[reference][None] != number_N[judged_B, None]
    beaten_B = own_B + TIE * neighbour_BK.shape[1]  # the sum of K unit vectors
    better_B = ((centre_BD @ vector_ND[reference].T > beaten_B[:, None]) & other_BM).sum(1)
    share_B = better_B.double() / other_BM.sum(1).clamp_min(1)
    return torch.where(known_BK.any(1), share_B, 0.5)
