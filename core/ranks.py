"""Ranks among values, their middle and spread, and evenly spaced picks: counted the same way everywhere."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def count_less(among_M: Tensor, value_N: Tensor) -> Tensor:
    """Count, for every value, how many of others are strictly less: int64 [N], 0 to M."""
    return torch.searchsorted(among_M.sort().values, value_N.contiguous())


def count_at_least(among_M: Tensor, value_N: Tensor) -> Tensor:
    """Count, for every value, how many of others are as high or higher: int64 [N], 0 to M."""
    return len(among_M) - count_less(among_M, value_N)


def rank_of(value_N: Tensor) -> Tensor:
    """Return the share of smaller values, float64 [N] in [0, 1); equal values share a rank."""
    return count_less(value_N, value_N).double() / max(1, len(value_N))


def share_at_least(chance_M: Tensor, value_N: Tensor) -> Tensor:
    """Return (1 + number of chance's values at or above each value) / (1 + number of chance's): float64 [N]."""
    return (1 + count_at_least(chance_M, value_N)).double() / (1 + len(chance_M))


def median_and_spread(value_NX: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Return the median of every column, and how far above it the 84 % quantile lies: [X] each.

    Args:
        value_NX: float [N, X] or [N], N at least 1.
        least: the spread is never below it.
    """
    middle_X, high_X = np.quantile(value_NX.numpy(), [0.5, 0.84], axis=0)
    return torch.as_tensor(middle_X), torch.as_tensor(np.maximum(high_X - middle_X, least))


def evenly_spaced(n: int, most: int) -> Tensor:
    """Return up to ``most`` of the places 0 to n - 1, the first and the last among them: int64, rising."""
    return torch.linspace(0, n - 1, min(n, most)).round().long()
