"""Points drawn by code, their neighbour table by a full sort, and the detectors written down a second time.

Everything here goes by loops over a full distance matrix: slow, plain, and independent of what it tests.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from roclip_audit.sanitize.detectors.neighbour_table import NeighbourTable


def points(n: int, dim: int, seed: int = 0) -> Tensor:
    """Draw ``n`` normal points in float64."""
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distances(points_ND: Tensor) -> Tensor:
    """Return the full distance matrix, each entry computed from its own two points alone."""
    return torch.cdist(points_ND, points_ND, compute_mode="donot_use_mm_for_euclid_dist")


def table_of(points_ND: Tensor, k: int, reference_rows: Tensor | None = None) -> NeighbourTable:
    """Build the table of any points, unit vectors or not."""
    rows = torch.arange(len(points_ND)) if reference_rows is None else reference_rows
    distance_NM = distances(points_ND)[:, rows]
    distance_NM[torch.arange(len(points_ND))[:, None] == rows] = torch.inf
    distance_NM = torch.cat([distance_NM, torch.full((len(points_ND), k), torch.inf, dtype=torch.float64)], 1)
    distance_NK, index_NK = (part[:, :k] for part in distance_NM.sort(dim=1, stable=True))
    index_NK = index_NK.masked_fill(distance_NK.isinf(), -1)
    distance_NK = distance_NK.float()
    return NeighbourTable(distance_NK=distance_NK, index_NK=index_NK, reference_distance_MK=distance_NK[rows], k=k)


def rank_correlation(one_N: Tensor, other_N: Tensor) -> float:
    """Return Spearman's correlation of two columns without ties."""
    ranks = torch.stack([column.argsort().argsort().double() for column in (one_N, other_N)])
    return float(torch.corrcoef(ranks)[0, 1])


def neighbours(points_ND: Tensor, x: int, k: int) -> list[tuple[float, int]]:
    """Return (distance, row) of the k nearest other points, nearest first."""
    cloud = points_ND.tolist()
    return sorted((math.dist(cloud[x], other), o) for o, other in enumerate(cloud) if o != x)[:k]


def brute_k_distance(points_ND: Tensor, x: int, k: int) -> float:
    return neighbours(points_ND, x, k)[-1][0]


def brute_lid(points_ND: Tensor, x: int, k: int) -> float:
    near = neighbours(points_ND, x, k)
    return -k / sum(math.log(distance / near[-1][0]) for distance, _ in near)


def brute_slof(points_ND: Tensor, x: int, k: int) -> float:
    own = brute_k_distance(points_ND, x, k)
    return sum(own / brute_k_distance(points_ND, o, k) for _, o in neighbours(points_ND, x, k)) / k


def brute_dao(points_ND: Tensor, x: int, k: int) -> float:
    own = brute_k_distance(points_ND, x, k)
    return (
        sum(
            brute_lid(points_ND, o, k) * math.log(own / brute_k_distance(points_ND, o, k))
            for _, o in neighbours(points_ND, x, k)
        )
        / k
    )
