"""Groups as numbers that are equal where things belong together."""

from __future__ import annotations

import torch
from torch import Tensor


def connected_groups(similarity_NK: Tensor, index_NK: Tensor, threshold: float) -> Tensor:
    """Number the connected components of the graph that links neighbours at or above a similarity.

    Args:
        similarity_NK: float32 [N, K] from ``neighbours.nearest`` of a set with itself.
        index_NK: int64 [N, K].
        threshold: cosine from which two images count as near-duplicates.

    Returns:
        int64 [N], numbered in order of first appearance.
    """
    parent = list(range(len(similarity_NK)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    rows, slots = torch.nonzero((similarity_NK >= threshold) & (index_NK >= 0), as_tuple=True)
    for one, other in zip(rows.tolist(), index_NK[rows, slots].tolist(), strict=True):
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    seen: dict[int, int] = {}
    return torch.tensor([seen.setdefault(root(node), len(seen)) for node in range(len(parent))], dtype=torch.int64)


def first_of_each(number_N: Tensor) -> Tensor:
    """Return the first row of every number: int64 [max + 1], -1 where a number does not occur."""
    first = torch.full((int(number_N.max()) + 1 if len(number_N) else 0,), len(number_N), dtype=torch.int64)
    first.scatter_reduce_(0, number_N, torch.arange(len(number_N)), "amin")
    return first.masked_fill(first == len(number_N), -1)


def one_of_each(rows: Tensor, number_N: Tensor) -> Tensor:
    """Return the first of the given rows for every number that they have: int64, by number."""
    first = first_of_each(number_N[rows])
    return rows[first[first >= 0]]
