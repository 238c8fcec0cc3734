"""CleanCLIP: CLIP's loss, plus each modality against its own augmentation.

    L = InfoNCE(image, text) + 1/2 (InfoNCE(image, augmented image) + InfoNCE(text, augmented text))

Source: Bansal et al., ICCV 2023, arXiv 2303.03323: fine-tuning of a poisoned model on clean pairs (``--from``, learning
rate 1e-5, 10 epochs). As a loss for training from scratch it is no defence (Verma et al., arXiv 2311.14948).
Differs from it: the augmented image is RoCLIP's strong view instead of AutoAugment.
"""

from __future__ import annotations

from typing import ClassVar, Self

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.losses import info_nce
from roclip_audit.train.methods.base import Features, Loss, MethodSettings, Views
from roclip_audit.train.methods.clip import Clip


class CleanClip(Clip):
    """Two views of either side; implements ``Method``."""

    name: ClassVar[str] = "cleanclip"

    def __init__(self) -> None:
        super().__init__(augment=False)
        self._views = Views(image=("light", "strong"), text=("plain", "eda"))

    @classmethod
    def build(cls, settings: MethodSettings) -> Self:
        """Make the method.

        Raises:
            ConfigError: augmentation is off.
        """
        if not settings.augment:
            raise ConfigError("cleanclip compares each side with its augmentation; it cannot run without augmentation")
        return cls()

    def loss(self, features: Features, epoch: int) -> Loss:
        """Return the sum of the three losses."""
        (image_ND, augmented_ND), (text_ND, eda_ND) = features.image_VND, features.text_VND
        pairs = info_nce(image_ND, text_ND, features.scale)
        images = info_nce(image_ND, augmented_ND, features.scale)
        texts = info_nce(text_ND, eda_ND, features.scale)
        return Loss(total=pairs + (images + texts) / 2, parts={"pairs": pairs, "images": images, "texts": texts})
