"""Local intrinsic dimensionality: how fast the number of neighbours grows with the distance."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from roclip_audit.sanitize.detectors.neighbour_table import NeighbourTable, k_distance, row_blocks

MAX_LID = 1_000.0
"""Highest value given; 3,000 random directions in 1,280 dimensions, the flattest data there is, stay below 410."""

_LEAST_RATIO = 1e-4  # a neighbour at distance 0 counts as one at this share of d_k


class Lid:
    """Local intrinsic dimensionality, maximum-likelihood estimate.

        score(x) = LID(x) = -k / sum_i log max(d_i(x) / d_k(x), 1e-4)

    Around a point on an m-dimensional surface the number of neighbours grows like distance^m, and LID is m. An image
    that lies off the data sees all of it at about one distance: its LID is high. Bounded by ``MAX_LID``, which k
    neighbours at exactly one distance reach. k neighbours at distance 0 do not grow at all: 0. Neutral score (fewer
    than two neighbours, which say nothing about growth): 0.

    Cost: O(N k).

    Blind spot: the standard error is LID / sqrt(k), 18 % at k = 32; an image in a dense place of many dimensions
    scores as high as a stray one, and close copies among the neighbours pull the score down.

    Source: Amsaleg et al. 2015 (KDD, "Estimating Local Intrinsic Dimensionality"), maximum-likelihood estimator; used
    on CLIP embeddings by Huang et al., ICLR 2025, arXiv 2502.01385 (Detect-CLIP).

    Differs from it: a fixed reference set instead of the batch; ratios are bounded below, where the published code adds
    1e-4 to each, which turns the sum positive and the score to about -10,000 just when all neighbours are equally far;
    d_k is the k-th distance, where the published code divides by the (k + 1)-th.
    """

    name: ClassVar[str] = "lid"

    def score(self, table: NeighbourTable) -> Tensor:
        """Return the LID of every row: float64 [N], 0 to ``MAX_LID``, higher = more suspicious."""
        return lid_mle(table.distance_NK)


def lid_mle(distance_NK: Tensor) -> Tensor:
    """Estimate LID from ascending neighbour distances.

    Args:
        distance_NK: float32 [N, k], ascending, +inf where there is no neighbour.

    Returns:
        float64 [N], 0 to ``MAX_LID``; 0 for a row with fewer than two neighbours or with all of them at distance 0.
    """
    return torch.cat([_lid_block(distance_NK[rows]) for rows in row_blocks(len(distance_NK))])


def _lid_block(distance_BK: Tensor) -> Tensor:
    n_neighbours_B = distance_BK.isfinite().sum(1)
    radius_B = k_distance(distance_BK)
    ratio_BK = distance_BK.double() / radius_B[:, None]
    growth_B = -ratio_BK.clamp(_LEAST_RATIO, 1.0).log().sum(1)  # a missing neighbour has ratio 1 and adds nothing
    lid_B = n_neighbours_B / growth_B.clamp(min=torch.finfo(torch.float64).tiny)
    unknown_B = (n_neighbours_B < 2) | (radius_B == 0)
    return lid_B.clamp(max=MAX_LID).masked_fill(unknown_B, 0.0)
