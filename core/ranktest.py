"""Rank tests: do values lie higher than others, or above 0, by more than chance?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MOST_EXACT = 100


def rank_sum_p(ones: Tensor, others: Tensor) -> float:
    """Return P(the first rank so high by chance): Mann-Whitney, normal approximation with ties, one-sided.

    Args:
        ones: float [n], those that may lie higher.
        others: float [m].
    """
    n, m = len(ones), len(others)
    if not n or not m:
        return 1.0
    joined = torch.cat([ones, others]).double()
    twice, counts = _twice_the_ranks(joined)
    excess = float(twice[:n].sum()) / 2 - n * (n + 1) / 2 - n * m / 2
    ties = float((counts.double() ** 3 - counts).sum())
    variance = n * m / 12 * ((n + m + 1) - ties / ((n + m) * (n + m - 1)))
    return 0.5 * math.erfc((excess - 0.5) / math.sqrt(2 * variance)) if variance > 0 else 1.0


def signed_rank_p(differences: Tensor) -> float:
    """Return P(differences so far above 0 by chance): Wilcoxon's signed ranks, one-sided, exact up to MOST_EXACT.

    Args:
        differences: float [n], of pairs; zeros are left out, equal ones share their mean rank.
    """
    differences = differences[differences != 0].double()
    n = len(differences)
    if not n:
        return 1.0
    twice, _ = _twice_the_ranks(differences.abs())
    sum_above = int(twice[differences > 0].sum())
    if n <= MOST_EXACT:
        share = torch.zeros(n * (n + 1) + 1, dtype=torch.float64)  # of all signs, those that give each sum
        share[0] = 1.0
        for rank in twice.tolist():
            moved = share.clone()
            moved[rank:] += share[:-rank]
            share = moved / 2
        return min(1.0, float(share[sum_above:].sum()))
    excess = sum_above / 2 - n * (n + 1) / 4
    variance = float(twice.double().square().sum()) / 16
    return 0.5 * math.erfc((excess - 0.5) / math.sqrt(2 * variance))


def _twice_the_ranks(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return twice the rank of every value, from 2, equal ones at their mean: int64 [n]; how many equal each other."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    return (2 * counts.cumsum(0) - counts + 1)[inverse], counts
