"""CLIPScore: how far apart a model puts an image and its own caption."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from roclip_audit.sanitize.peers import PeerInput


class ClipScore:
    """Cosine of image and own caption, sign turned.

        score(x) = -cos(image, caption)

    Cost: none beyond the embeddings.

    Blind spot: a model trained on the data has learned what was planted and gives it a high cosine; a generic caption
    has a low one everywhere.

    Source: Hessel et al. 2021 (arXiv 2104.08718); as a filter of crawls, DataComp (arXiv 2304.14108); as a detector of
    poisoned pairs, Huang et al., ICLR 2025, arXiv 2502.01385.

    Differs from it: without the factor 2.5 and the cut at 0, which change no order above 0 and make ties below it.
    """

    name: ClassVar[str] = "clipscore"

    def check(self) -> None:
        """Need nothing."""

    def score(self, pairs: PeerInput) -> Tensor:
        """Return the negated cosine: float64 [N], -1 to 1."""
        return -pairs.cosine_N.double()
