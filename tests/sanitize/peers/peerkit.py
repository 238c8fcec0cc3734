"""What peers see, drawn by code."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from roclip_audit.sanitize.peers import PeerInput
from tests.sanitize.detectors.pointkit import points


def peer_input(n: int, dim: int = 6, *, seed: int = 0, workers: int = 1, vectors: Tensor | None = None) -> PeerInput:
    """Draw ``n`` images as unit vectors, and cosines in two clumps."""
    trained = normalize(points(n, dim, seed), dim=1).float() if vectors is None else vectors
    cosine = torch.cat([0.7 + 0.1 * points(n, 1, seed + 1), 0.1 + 0.05 * points(n, 1, seed + 2)])[::2, 0]
    return PeerInput(
        cosine_N=cosine[:n].float(),
        trained_ND=trained,
        image_NF=normalize(points(n, dim, seed + 3), dim=1).float() if vectors is None else vectors,
        seed=seed,
        workers=workers,
    )
