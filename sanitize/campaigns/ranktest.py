"""The rank test that says whether held-out members of a campaign score higher than held-out controls."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rank_sum_p(members: Tensor, controls: Tensor) -> float:
    """Return P(members rank so high by chance): Mann-Whitney, normal approximation with ties, one-sided.

    Args:
        members: float [n], higher = more of the trigger.
        controls: float [m].
    """
    n, m = len(members), len(controls)
    if not n or not m:
        return 1.0
    joined = torch.cat([members, controls]).double()
    _, inverse, counts = joined.unique(return_inverse=True, return_counts=True)
    rank = (counts.cumsum(0) - (counts - 1) / 2)[inverse]
    excess = float(rank[:n].sum()) - n * (n + 1) / 2 - n * m / 2
    ties = float((counts.double() ** 3 - counts).sum())
    variance = n * m / 12 * ((n + m + 1) - ties / ((n + m) * (n + m - 1)))
    return 0.5 * math.erfc((excess - 0.5) / math.sqrt(2 * variance)) if variance > 0 else 1.0
