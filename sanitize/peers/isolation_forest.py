"""Isolation forest on image features: how few random cuts set an image apart."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from roclip_audit.core.seeding import derive_seed
from roclip_audit.sanitize.peers import PeerInput
from roclip_audit.sanitize.peers.scikit_learn import require_sklearn


class IsolationForest:
    """Anomaly score of an isolation forest of 100 trees.

        score(x) = 2^(-mean path length of x / expected path length)

    Cost: 100 trees of 256 pairs, N x 100 paths.

    Blind spot: cuts along single features of a high-dimensional embedding say little; a group of alike images is not
    isolated.

    Source: Liu, Ting, Zhou 2008 (ICDM); on CLIP embeddings, Huang et al., ICLR 2025, arXiv 2502.01385.

    Differs from it: one forest over all pairs on the features of the frozen encoder, where the published code fits one
    to each batch of the trained model's; and the sign, which the published detector leaves as scikit-learn's.
    """

    name: ClassVar[str] = "isolation_forest"

    def check(self) -> None:
        """Need scikit-learn."""
        require_sklearn(self.name, "ensemble")

    def score(self, pairs: PeerInput) -> Tensor:
        """Return the anomaly score: float64 [N], 0 to 1."""
        from sklearn.ensemble import IsolationForest as Forest

        features = pairs.image_NF.numpy()
        forest = Forest(n_estimators=100, random_state=derive_seed(pairs.seed, "peers", self.name) % 2**32)
        return torch.from_numpy(-forest.fit(features).score_samples(features)).double()
