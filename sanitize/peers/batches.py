"""How Detect-CLIP's detectors see the data: in shuffled batches, each pair against the others of its batch alone.

Source: Huang et al., ICLR 2025, arXiv 2502.01385, and its published code. Kept as published: Euclidean distances inside
a batch, by matrix product in fp32 (a row is not quite at distance 0 from itself); a pair's own k-distance is that to
its (k + 1)-th neighbour; its neighbours are numbered in the distance matrix without the diagonal and then looked up in
the one that has it, so that about half of them are the row before the one meant; the k-distance and the LID that are
looked up there count the row itself as its nearest neighbour; NaN and infinity become 1,000.

Differs from it: the trained space has unit length (the published embeddings are not normalised); the order of the
pairs is drawn once from the run's seed; the batch is 2,048, which is what the published script compares a pair with
(256 pairs on four devices, doubled); a small last batch, on which the published code fails, is joined to the one before
it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from roclip_audit.core.parallel import map_ordered
from roclip_audit.core.seeding import derive_seed
from roclip_audit.sanitize.peers import PeerInput

BATCH = 2_048
K = 16
UNKNOWN = 1_000.0
LID_OFFSET = 1e-4

Score = Callable[[Tensor, int], Tensor]
"""Distances of a batch, float32 [B, B], and k, to scores [B]."""


def score_batches(pairs: PeerInput, k: int, score: Score, *, batch: int = BATCH) -> Tensor:
    """Score every pair among the pairs of its batch: float64 [N], finite.

    Fewer than k + 2 pairs are scored with as many neighbours as there are, 0 if there are too few for any.
    """
    score_N = torch.zeros(len(pairs), dtype=torch.float64)

    def one(rows: Tensor) -> Tensor:
        fewer = min(k, len(rows) - 2)
        if fewer < 1:
            return torch.zeros(len(rows), dtype=torch.float64)
        points = pairs.trained_ND[rows]
        scores = score(torch.cdist(points, points), fewer).double()
        return scores.nan_to_num(nan=UNKNOWN, posinf=UNKNOWN, neginf=0.0)

    batches = deal_batches(len(pairs), pairs.seed, batch=batch, k=k)
    for rows, scores in zip(batches, map_ordered(one, batches, workers=pairs.workers), strict=True):
        score_N[rows] = scores
    return score_N


def deal_batches(n: int, seed: int, *, batch: int, k: int) -> list[Tensor]:
    """Deal ``n`` rows into shuffled batches; a last one of fewer than 2 k rows joins the one before it."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(seed, "peers", "batches")))
    parts = list(order.split(batch)) if n else []
    if len(parts) > 1 and len(parts[-1]) < 2 * k:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def others(distance_BB: Tensor) -> Tensor:
    """Return the matrix without its diagonal: [B, B - 1]."""
    n = len(distance_BB)
    return distance_BB[~torch.eye(n, dtype=torch.bool)].view(n, n - 1)


def ascending(distance_BM: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the ``n`` smallest distances of every row, ascending, and their columns: [B, n] each."""
    near = distance_BM.topk(n, dim=1, largest=False)
    return near.values, near.indices


def published_lid(distance_BK: Tensor) -> Tensor:
    """Return -k / sum log(d_i / d_(k+1) + 1e-4) of k + 1 ascending distances: [B]."""
    k = distance_BK.shape[1] - 1
    return -k / (distance_BK[:, :k] / distance_BK[:, k:] + LID_OFFSET).log().sum(1)
