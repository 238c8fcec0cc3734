"""Plain CLIP: the symmetric InfoNCE loss on the pairs as they are. The undefended baseline.

Source: Radford et al. 2021, arXiv 2103.00020. Crops of 90 to 100 % and captions as they are, as open_clip trains;
with ``augment`` the strong crops, colours, blur and EDA of RoCLIP, so that the two can be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from torch import Tensor

from roclip_audit.train.losses import info_nce
from roclip_audit.train.methods.base import Embedder, Features, Loss, MethodSettings, Views


class Clip:
    """Contrastive training without any defence; implements ``Method``."""

    name: ClassVar[str] = "clip"

    def __init__(self, *, augment: bool) -> None:
        self._views = Views(image=("strong",), text=("eda",)) if augment else Views(image=("light",), text=("plain",))

    @classmethod
    def build(cls, settings: MethodSettings) -> Self:
        """Make the method."""
        return cls(augment=settings.augment)

    def views(self, epoch: int) -> Views:
        """Return one view of either side."""
        return self._views

    def begin_epoch(self, epoch: int, embedder: Embedder) -> None:
        """Do nothing."""

    def trains_text(self, epoch: int) -> bool:
        """Return True."""
        return True

    def rate(self, epoch: int) -> float:
        """Return 1."""
        return 1.0

    def is_matched(self, epoch: int) -> bool:
        """Return False."""
        return False

    def loss(self, features: Features, epoch: int) -> Loss:
        """Return CLIP's loss."""
        return Loss(total=info_nce(features.image_VND[0], features.text_VND[0], features.scale))

    def state(self) -> dict[str, Tensor]:
        """Return nothing: the method remembers nothing."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Do nothing."""
