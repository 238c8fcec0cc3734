"""k-distance: how far one must go to meet k other images."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from roclip_audit.sanitize.detectors.neighbour_table import NeighbourTable


class KDistance:
    """Distance to the k-th nearest reference image.

        score(x) = d_k(x)

    The plainest measure of sparsity: an image unlike anything else in the data scores high. Neutral score (no
    neighbour): 0.

    Cost: O(N), one column of the table.

    Blind spot: density is compared over the whole data set, so a sparse but sound subject outranks an odd image in a
    dense one; a planted image that is repeated more than k times stands in a crowd of its own and scores 0.

    Source: Ramaswamy, Rastogi, Shim 2000 (SIGMOD), definition of D^k; used on CLIP embeddings by Huang et al., ICLR
    2025, arXiv 2502.01385 (Detect-CLIP).

    Differs from it: a fixed reference set instead of the batch of 2,048, so a score does not depend on the company;
    unit vectors instead of raw embeddings; the k-th neighbour, where the published code reads the (k + 1)-th.
    """

    name: ClassVar[str] = "k_distance"

    def score(self, table: NeighbourTable) -> Tensor:
        """Return d_k of every row: float64 [N], in the table's unit (0 to 2 for unit vectors), higher = sparser."""
        return table.row_k_distance
