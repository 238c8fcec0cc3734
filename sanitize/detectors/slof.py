"""Simplified local outlier factor: an image's k-distance against that of its neighbours."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from roclip_audit.sanitize.detectors.neighbour_table import NeighbourTable


class Slof:
    """Mean ratio of the k-distance of an image to those of its neighbours.

        score(x) = mean over o in kNN(x) of d_k(x) / d_k(o)

    1 for an image in surroundings as dense as its neighbours', above 1 for one that is more lonely than they are. Both
    distances are bounded below (see ``neighbour_table``): copies among copies score 1. Neutral score (no neighbour): 1.

    Cost: O(N k), one look-up per neighbour.

    Blind spot: a group of more than k alike poisons is as dense as its own neighbours and scores 1; a sound image
    beside a clump of copies scores very high, up to d_k(x) / floor, unless near-duplicates are left out of the search.

    Source: Schubert, Zimek, Kriegel 2014 (DMKD 28(1), "Local outlier detection reconsidered"), simplified LOF: Breunig
    et al.'s LOF without the reachability distance; used on CLIP embeddings by Huang et al., ICLR 2025, arXiv 2502.01385
    (Detect-CLIP).

    Differs from it: a fixed reference set instead of the batch. The published code finds neighbours in a matrix without
    its diagonal and looks them up in the full one, so about half address the wrong row, and divides a (k + 1)-th
    distance by a k-th; here both are the k-th and the rows are those found. NaN and infinity cannot arise, where there
    they become 1,000.
    """

    name: ClassVar[str] = "slof"

    def score(self, table: NeighbourTable) -> Tensor:
        """Return the factor of every row: float64 [N], above 0, about 1 for an ordinary one, higher = more lonely."""
        floor = table.ratio_floor()
        inverse_M = 1 / table.reference_k_distance.clamp(min=floor)
        score_N = table.row_k_distance.clamp(min=floor) * table.neighbour_mean(inverse_M)
        return score_N.masked_fill(~table.has_neighbour, 1.0)
