"""Dimensionality-aware outlier score: the density ratio of SLOF, weighed by the local dimensionality."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from roclip_audit.sanitize.detectors.lid import lid_mle
from roclip_audit.sanitize.detectors.neighbour_table import NeighbourTable


class Dao:
    """Log density ratio of an image to its neighbours, at each neighbour's own dimensionality.

        score(x) = mean over o in kNN(x) of LID(o) log(d_k(x) / d_k(o))

    In m dimensions the density at distance d falls like d^-m, so one and the same ratio of distances says more where
    the data has more dimensions. 0 for an image as dense as its neighbours, above 0 for a sparser one. Distances are
    bounded below (see ``neighbour_table``) and LID above (see ``lid``). Neutral score (no neighbour): 0.

    Cost: O((N + M) k), one LID estimate per reference row and two look-ups per neighbour.

    Blind spot: that of SLOF (a group of more than k alike poisons, a sound image beside a clump of copies); also, LID
    is 0 for k = 1 and inside a clump of copies, where the score of a pair beside it is 0 too.

    Source: Anderberg et al. 2024 (SDM, arXiv 2401.05453), DAO = mean of (d_k(x) / d_k(o))^LID(o); in the log form of
    Huang et al., ICLR 2025, arXiv 2502.01385 (Detect-CLIP), which cannot overflow.

    Differs from it: as SLOF does (fixed reference set, the right rows, the k-th neighbour on both sides, no NaN); LID
    of a neighbour leaves out its distance 0 to itself, which the published code counts as a neighbour.
    """

    name: ClassVar[str] = "dao"

    def score(self, table: NeighbourTable) -> Tensor:
        """Return the log ratio of every row: float64 [N], about 0 for an ordinary one, higher = more suspicious."""
        floor = table.ratio_floor()
        lid_M = lid_mle(table.reference_distance_MK)
        log_near_M = table.reference_k_distance.clamp(min=floor).div(floor).log()
        log_far_N = table.row_k_distance.clamp(min=floor).div(floor).log()
        return log_far_N * table.neighbour_mean(lid_M) - table.neighbour_mean(lid_M * log_near_M)
