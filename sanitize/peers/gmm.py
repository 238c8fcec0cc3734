"""SafeCLIP's split: two normal distributions of the cosine, sound pairs in the higher one."""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
from torch import Tensor

from roclip_audit.sanitize.peers import PeerInput
from roclip_audit.sanitize.peers.scikit_learn import require_sklearn


class Gmm:
    """Probability that a pair belongs to the component of the lower mean.

        score(x) = P(lower component | cos(image, caption)), two normal components fitted to all cosines

    Cost: a few passes over N numbers.

    Blind spot: that of CLIPScore; the two components need not be sound and unsound pairs; where their variances differ
    the order of the tails turns round, and where the posterior reaches 0 or 1 it parts no more.

    Source: Yang, Gao, Mirzasoleiman, ICML 2024, arXiv 2310.05862, which trusts pairs of posterior above 0.9; the
    mixture is scikit-learn's with random state 0, as in the published code.

    Differs from it: none in the formula; the published code warms the model up on each modality alone, then takes one
    epoch of the CLIP loss, while here the model is trained to the end.
    """

    name: ClassVar[str] = "gmm"

    def check(self) -> None:
        """Need scikit-learn."""
        require_sklearn(self.name, "mixture")

    def score(self, pairs: PeerInput) -> Tensor:
        """Return the posterior of the lower component: float64 [N], 0 to 1; 0 if there are fewer than two cosines."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        cosine_N1 = pairs.cosine_N.double().numpy()[:, None]
        if len(torch.unique(pairs.cosine_N)) < 2:
            return torch.zeros(len(pairs), dtype=torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the published code goes on as well
            mixture = GaussianMixture(n_components=2, random_state=0).fit(cosine_N1)
        return torch.from_numpy(mixture.predict_proba(cosine_N1)[:, int(mixture.means_[:, 0].argmin())].copy())
