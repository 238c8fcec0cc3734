"""The table of neighbours that feeds every density detector.

Letters: N rows that are scored, M rows of the reference set, K neighbours. d_k(x) is the distance from x to its k-th
nearest reference row, x itself left out.

Three rules keep every score finite:

- **Fewer than k neighbours** (a small run, or near-duplicates left out of the search): the row ends with distance +inf
  and index -1, and d_k(x) means the farthest neighbour there is. A row without a single neighbour has nothing to be
  compared with and gets the detector's neutral score.
- **Copies.** A distance below ``RESOLUTION`` is 0: fp32 rounding alone moves the distance of two equal unit vectors
  that far, and a ratio of two such distances would be noise.
- **Ratios.** Where a distance is divided by another, both are first raised to ``FLOOR_SHARE`` of the median k-distance
  of the reference set. So two copies have ratio 1, and the ratio of a pair beside a clump of more than k copies is
  large, but bounded. The floor grows with the distances: ratios do not depend on their scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RESOLUTION = 2e-3
"""Euclidean distance of unit vectors below which they are equal; fp32 at 64 to 1,280 dimensions reaches 1.1e-3."""

FLOOR_SHARE = 0.01
_ROWS = 65_536  # rows at a time: what is computed in float64 stays small beside the table


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NeighbourTable:
    """Distances of every row to its k nearest reference rows.

    Attributes:
        distance_NK: float32 [N, k], ascending, the row itself left out; +inf where there is no neighbour.
        index_NK: int64 [N, k], rows of the reference set, 0 to M - 1; -1 where there is no neighbour.
        reference_distance_MK: float32 [M, k], the same distances for the reference rows themselves.
        k: neighbours per row, at least 1.

    Raises:
        ValueError: the arrays contradict each other or this description.
    """

    distance_NK: Tensor
    index_NK: Tensor
    reference_distance_MK: Tensor
    k: int

    def __post_init__(self) -> None:
        if self.k < 1 or any(part.shape[1:] != (self.k,) for part in (self.distance_NK, self.reference_distance_MK)):
            raise ValueError(f"neighbour table: k is {self.k}, distances are {tuple(self.distance_NK.shape)}")
        if self.index_NK.shape != self.distance_NK.shape or self.index_NK.dtype != torch.int64:
            raise ValueError("neighbour table: one int64 index is needed for every distance")
        if not torch.equal(self.index_NK < 0, self.distance_NK.isposinf()):
            raise ValueError("neighbour table: a missing neighbour has index -1 and distance +inf")
        if bool((self.index_NK >= len(self.reference_distance_MK)).any()):
            raise ValueError(
                f"neighbour table: an index is beyond the {len(self.reference_distance_MK)} reference rows"
            )
        if not (_is_ascending(self.distance_NK) and _is_ascending(self.reference_distance_MK)):
            raise ValueError("neighbour table: distances must be at least 0 and ascending")

    @property
    def row_k_distance(self) -> Tensor:
        """d_k of every row, float64 [N]: the farthest of its neighbours, 0 without any."""
        return k_distance(self.distance_NK)

    @property
    def reference_k_distance(self) -> Tensor:
        """d_k of every reference row, float64 [M]."""
        return k_distance(self.reference_distance_MK)

    @property
    def has_neighbour(self) -> Tensor:
        """True for the rows that have a neighbour at all, bool [N]."""
        return self.index_NK[:, 0] >= 0

    def ratio_floor(self) -> float:
        """Return the least distance that may enter a ratio: a share of the median positive d_k of the reference set."""
        k_distance_M = self.reference_k_distance
        positive = k_distance_M[k_distance_M > 0]
        return FLOOR_SHARE * positive.median().item() if len(positive) else 1.0

    def neighbour_mean(self, value_M: Tensor) -> Tensor:
        """Average a value of the reference rows over each row's neighbours.

        Args:
            value_M: float64 [M].

        Returns:
            float64 [N]; 0 for a row without neighbours.
        """
        value = torch.cat([value_M, value_M.new_zeros(1)])  # index -1 reads this zero
        blocks = (self.index_NK[rows] for rows in row_blocks(len(self.index_NK)))
        return torch.cat([value[index].sum(1) / (index >= 0).sum(1).clamp(min=1) for index in blocks])


def row_blocks(n_rows: int) -> list[slice]:
    """Cut rows into blocks of bounded size; one empty block if there are none."""
    return [slice(start, start + _ROWS) for start in range(0, max(1, n_rows), _ROWS)]


def k_distance(distance_NK: Tensor) -> Tensor:
    """Return the last finite distance of every row as float64 [N], 0 where there is none."""
    n_neighbours_N = distance_NK.isfinite().sum(1)
    last_N = distance_NK.gather(1, (n_neighbours_N - 1).clamp(min=0)[:, None])[:, 0]
    return last_N.masked_fill(n_neighbours_N == 0, 0.0).double()


def table_from_similarity(
    similarity_NK: Tensor, index_NK: Tensor, reference_rows: Tensor, *, k: int | None = None
) -> NeighbourTable:
    """Turn what ``core.neighbours.nearest`` found into the table that detectors read.

    For unit vectors the Euclidean distance is sqrt(2 - 2 cos). A row that found itself is dropped from its own
    neighbours, wherever it stands among its copies, and then every row gives up one neighbour, so that d_k means the
    same k for all. To leave near-duplicates out as well, search with ``query_group_N`` and ``base_group_M``.
    Cost: a few passes over [N, K].

    Args:
        similarity_NK: float32 [N, K], cosines, descending, -inf where there is no neighbour; the base that was searched
            is the reference set, in the order of ``reference_rows``.
        index_NK: int64 [N, K], rows of that base, -1 where there is no neighbour.
        reference_rows: int64 [M], which of the N rows the reference set is made of, none twice;
            ``torch.arange(N)`` if it is all of them.
        k: neighbours to keep; if None, all columns, or all but one if any row found itself.

    Returns:
        The table; see the rules on top of this module.

    Raises:
        ValueError: a cosine is NaN, a reference row is out of range or repeated, or ``k`` is not in [1, K].
    """
    _check_search(similarity_NK, index_NK, reference_rows)
    base_row = torch.cat([reference_rows, reference_rows.new_full((1,), -1)])  # index -1 is no row
    row_N = torch.arange(len(similarity_NK))
    parts = row_blocks(len(similarity_NK))
    blocks = [_without_self(row_N[rows], similarity_NK[rows], index_NK[rows], base_row) for rows in parts]
    n_columns = similarity_NK.shape[1]
    k = n_columns - any(found_self for _, _, found_self in blocks) if k is None else k
    if not 1 <= k <= n_columns:
        raise ValueError(f"neighbour table: k = {k} with {n_columns} columns searched")
    distance_NK = torch.cat([distance[:, :k] for distance, _, _ in blocks])
    return NeighbourTable(
        distance_NK=distance_NK,
        index_NK=torch.cat([index[:, :k] for _, index, _ in blocks]),
        reference_distance_MK=distance_NK[reference_rows],
        k=k,
    )


def _check_search(similarity_NK: Tensor, index_NK: Tensor, reference_rows: Tensor) -> None:
    """Refuse what ``nearest`` cannot have returned."""
    n_rows, n_reference = len(similarity_NK), len(reference_rows)
    if bool(similarity_NK.isnan().any()):
        raise ValueError("neighbour table: a cosine is NaN; vectors must be finite and of unit length")
    if index_NK.numel() and not -1 <= int(index_NK.min()) <= int(index_NK.max()) < n_reference:
        raise ValueError(f"neighbour table: an index is not among the {n_reference} reference rows")
    if n_reference and not 0 <= int(reference_rows.min()) <= int(reference_rows.max()) < n_rows:
        raise ValueError(f"neighbour table: a reference row is not in [0, {n_rows})")
    if n_reference and int(reference_rows.bincount().max()) > 1:
        raise ValueError("neighbour table: a reference row is repeated")


def _without_self(
    row_B: Tensor, similarity_BK: Tensor, index_BK: Tensor, base_row: Tensor
) -> tuple[Tensor, Tensor, bool]:
    """Return (distance float32 [B, K], index [B, K], whether any row found itself), no row among its own neighbours."""
    self_BK = base_row[index_BK] == row_B[:, None]
    gone_BK = self_BK | similarity_BK.isneginf() | (index_BK < 0)
    distance_BK = (2 - 2 * similarity_BK.double()).clamp(min=0).sqrt()
    distance_BK = distance_BK.masked_fill(distance_BK < RESOLUTION, 0.0).masked_fill(gone_BK, torch.inf)
    distance_BK, order_BK = distance_BK.float().sort(dim=1, stable=True)
    return distance_BK, index_BK.masked_fill(gone_BK, -1).gather(1, order_BK), bool(self_BK.any())


def _is_ascending(distance_NK: Tensor) -> bool:
    """Return True if every row starts at 0 or above and never falls; False for NaN."""
    return bool((distance_NK[:, :1] >= 0).all()) and bool((distance_NK[:, 1:] >= distance_NK[:, :-1]).all())
