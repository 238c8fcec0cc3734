"""Dimensionality-aware outlier score in the batch, or in the data."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from roclip_audit.sanitize.detectors.dao import Dao
from roclip_audit.sanitize.peers import PeerInput
from roclip_audit.sanitize.peers.batches import K, ascending, others, published_lid, score_batches
from roclip_audit.sanitize.peers.fixed import trained_neighbours


class DaoBatch:
    """DAO as published: among the pairs of a shuffled batch of 2,048.

        score(x) = mean over o of LID(o) log(d_(k+1)(x) / d_k(o)) within the batch, k = 16, o as numbered there

    Cost: N x 2,048 x D.

    Blind spot: a score depends on the company; a batch that holds many pairs of one attack makes them dense.

    Source: Huang et al., ICLR 2025, arXiv 2502.01385, and its published code; see ``batches`` for what that keeps.

    Differs from it: see ``batches``.
    """

    name: ClassVar[str] = "dao_batch"

    def check(self) -> None:
        """Need nothing."""

    def score(self, pairs: PeerInput) -> Tensor:
        """Return the score within the batch: float64 [N]."""
        return score_batches(pairs, K, in_batch)


class DaoFixed:
    """DAO as mended: ``sanitize.detectors.dao`` over all pairs, in the trained space.

        score(x) = that of the detector, with the same k

    Cost: N x N x D for the neighbours.

    Blind spot: that of the detector.

    Source: as ``DaoBatch``.

    Differs from it: all pairs are the reference set, neighbours are the right rows, no value is NaN.
    """

    name: ClassVar[str] = "dao_fixed"

    def check(self) -> None:
        """Need nothing."""

    def score(self, pairs: PeerInput) -> Tensor:
        """Return the score over all pairs: float64 [N]."""
        return Dao().score(trained_neighbours(pairs, K))


def in_batch(distance_BB: Tensor, k: int) -> Tensor:
    """Score the pairs of one batch from their distances."""
    near_BK, row_BK = ascending(others(distance_BB), k + 1)
    whole_BK = ascending(distance_BB, k + 1)[0]
    lid_B, reach_B = published_lid(whole_BK), whole_BK[:, k]
    row_BK = row_BK[:, :k]
    return (lid_B[row_BK] * (near_BK[:, k:] / reach_B[row_BK]).log()).mean(1)
