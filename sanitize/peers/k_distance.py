"""k-distance: how far one must go to meet k other images of the batch, or of the data."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from roclip_audit.sanitize.detectors.k_distance import KDistance
from roclip_audit.sanitize.peers import PeerInput
from roclip_audit.sanitize.peers.batches import K, ascending, others, score_batches
from roclip_audit.sanitize.peers.fixed import trained_neighbours


class KDistanceBatch:
    """k-distance as published: among the pairs of a shuffled batch of 2,048.

        score(x) = d_(k+1)(x) within the batch, k = 16

    Cost: N x 2,048 x D.

    Blind spot: a score depends on the company; a batch that holds many pairs of one attack makes them dense.

    Source: Huang et al., ICLR 2025, arXiv 2502.01385, and its published code; see ``batches`` for what that keeps.

    Differs from it: see ``batches``.
    """

    name: ClassVar[str] = "k_distance_batch"

    def check(self) -> None:
        """Need nothing."""

    def score(self, pairs: PeerInput) -> Tensor:
        """Return the score within the batch: float64 [N]."""
        return score_batches(pairs, K, in_batch)


class KDistanceFixed:
    """k-distance as mended: ``sanitize.detectors.k_distance`` over all pairs, in the trained space.

        score(x) = that of the detector, with the same k

    Cost: N x N x D for the neighbours.

    Blind spot: that of the detector.

    Source: as ``KDistanceBatch``.

    Differs from it: all pairs are the reference set, neighbours are the right rows, no value is NaN.
    """

    name: ClassVar[str] = "k_distance_fixed"

    def check(self) -> None:
        """Need nothing."""

    def score(self, pairs: PeerInput) -> Tensor:
        """Return the score over all pairs: float64 [N]."""
        return KDistance().score(trained_neighbours(pairs, K))


def in_batch(distance_BB: Tensor, k: int) -> Tensor:
    """Score the pairs of one batch from their distances."""
    return ascending(others(distance_BB), k + 1)[0][:, k]
