"""Contrastive losses over the features of a global batch. They know nothing of loops, models or devices.

N pairs of the global batch, D embedding, P pool.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(
    left_ND: Tensor,
    right_ND: Tensor,
    scale: Tensor | float,
    ignored_NN: Tensor | None = None,
    *,
    trained_N: Tensor | None = None,
) -> Tensor:
    """Return the symmetric InfoNCE loss: row i of either side has row i of the other as its positive.

    Args:
        left_ND: [N, D] unit vectors.
        right_ND: [N, D] unit vectors.
        scale: factor of the cosines, exp of CLIP's ``logit_scale``.
        ignored_NN: [N, N] bool; true for pairs that are not to count as negatives. Its diagonal must be false.
        trained_N: [N] bool; rows whose two sides are drawn together, at least one. The others are negatives of these,
            and their own two sides are not compared. None: all rows.

    Returns:
        Scalar, the mean over both directions.

    Source: CLIP (Radford et al. 2021, arXiv 2103.00020, figure 3); equal to ``open_clip.ClipLoss``.
    """
    logits_NN = scale * left_ND @ right_ND.T
    if ignored_NN is not None:
        logits_NN = logits_NN.masked_fill(ignored_NN, float("-inf"))
    positives_N = torch.arange(len(logits_NN), device=logits_NN.device)
    of_left, of_right = logits_NN, logits_NN.T
    if trained_N is not None:
        of_left, of_right = of_left[trained_N], of_right[trained_N]
        positives_N = positives_N[trained_N]
    return (F.cross_entropy(of_left, positives_N) + F.cross_entropy(of_right, positives_N)) / 2


def same_off_diagonal(label_N: Tensor) -> Tensor:
    """Return [N, N] bool, true where two different rows have the same label: false negatives of each other."""
    same_NN = label_N[:, None] == label_N[None, :]
    return same_NN.fill_diagonal_(False)
