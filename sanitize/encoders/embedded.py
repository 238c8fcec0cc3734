"""The default encoder: EfficientNet-Lite0 for images, all-MiniLM-L6-v2 for captions, both from pip packages.

Neither was ever trained on image-caption pairs, so no image-caption poison can live in them. They share no space:
the align stage learns one.

Image: timm's ``tf_efficientnet_lite0`` (Tan & Le 2019, arXiv 1905.11946), ImageNet-1k weights, 1280 pooled features,
several views of the image at 128 px, input (pixel - 127) / 128. Batch normalisation is folded into the convolutions.
In bfloat16 throughout, features keep a cosine of only 0.989 to float32 on clip art; the damage is done by the first
stages. So those stay float32 and the rest, from stage 4 on, runs in bfloat16 where the processor multiplies it: cosine
at least 0.9996, 1.5 to 1.9 times the images a second. Text: see ``minilm``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self, cast

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from roclip_audit.core.errors import ConfigError, EncoderError
from roclip_audit.core.run import work_key
from roclip_audit.core.seeding import generator
from roclip_audit.core.torchvision_compat import ensure_torchvision_importable
from roclip_audit.sanitize.encoders import EncoderConfig
from roclip_audit.sanitize.encoders.minilm import MiniLM
from roclip_audit.sanitize.encoders.weights import EFFICIENTNET_LITE0, PINNED, read_index, read_verified, tensors_at
from roclip_audit.sanitize.views import VIEWS, shrink

IMAGE_PX = 128
SHRINK_PX = 3 * IMAGE_PX  # what the views are made from: still finer than they are after a crop
BF16_FROM_STAGE = 4
CHUNK = 16  # images a forward pass: activations of more leave the cache (measured: 16 is 1.4 to 2 times as fast as 128)
REVISION = 2  # raise when the code changes what it puts out


class EmbeddedEncoder:
    """Pretrained unimodal encoders from pip; implements ``Encoder``."""

    default_views: ClassVar[tuple[str, ...]] = ("whole", "crop", "blur", "silhouette", "outline", "dropout")

    name = "embedded"
    joint = False
    image_dim = 1280
    text_dim = 384
    shrink_px: int | None = SHRINK_PX

    def __init__(self, backbone: nn.Module, text: MiniLM, *, views: tuple[str, ...], precision: str) -> None:
        self._backbone = backbone
        self._text = text
        self.views = views
        self.precision = precision
        self.fingerprint = work_key(self.name, REVISION, [file.sha256 for file in PINNED], views, IMAGE_PX, precision)

    @classmethod
    def build(cls, rest: str, config: EncoderConfig) -> Self:
        """Verify and load the weights.

        Raises:
            ConfigError: something follows the name.
            EncoderError: weights are missing or not the pinned ones.
        """
        if rest:
            raise ConfigError(f"encoder embedded takes no argument, found {rest!r}")
        precision = config.resolved_precision()
        low = torch.bfloat16 if precision == "bf16" else torch.float32
        views = config.views or cls.default_views
        return cls(Backbone(load_backbone(), low), MiniLM.load(low), views=views, precision=precision)

    def prepare_image(self, image: Image.Image, seed: int) -> np.ndarray:
        """Return the views of an RGB image as uint8 [V, 128, 128, 3]."""
        small = shrink(image, SHRINK_PX)
        return np.stack([np.asarray(VIEWS[view](small, IMAGE_PX, generator(seed, view))) for view in self.views])

    def embed_images(self, batch: np.ndarray) -> np.ndarray:
        """Embed uint8 [B, V, 128, 128, 3] as raw pooled features, float32 [B, V, 1280]."""
        pixels = torch.from_numpy(np.require(batch.reshape(-1, *batch.shape[2:]), requirements="W"))
        with torch.inference_mode():
            features = [self._backbone(chunk) for chunk in torch.split(pixels, CHUNK)]
            return torch.cat(features).numpy().reshape(*batch.shape[:2], -1)

    def embed_texts(self, captions: Sequence[str]) -> np.ndarray:
        """Embed captions as unit vectors, float32 [B, 384]."""
        return self._text.embed(captions)


class Backbone(nn.Module):
    """EfficientNet-Lite0 from pixels to pooled features, its later stages in ``low`` precision."""

    def __init__(self, model: nn.Module, low: torch.dtype) -> None:
        super().__init__()
        stages = list(cast(nn.Sequential, model.blocks))
        self._low = low
        self._early = nn.Sequential(
            cast(nn.Module, model.conv_stem), cast(nn.Module, model.bn1), *stages[:BF16_FROM_STAGE]
        )
        self._late = nn.Sequential(
            *stages[BF16_FROM_STAGE:], cast(nn.Module, model.conv_head), cast(nn.Module, model.bn2)
        ).to(low)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Map uint8 [B, H, W, 3] to float32 [B, 1280]."""
        features: torch.Tensor = self._late(self._early(as_input(pixels)).to(self._low))
        return features.float().mean((2, 3))


def as_input(pixels: torch.Tensor) -> torch.Tensor:
    """Turn uint8 [B, H, W, 3] into what the network sees: float32 [B, 3, H, W]; the memory stays channels-last."""
    return pixels.permute(0, 3, 1, 2).float().sub_(127).div_(128)


def load_backbone() -> nn.Module:
    """Build EfficientNet-Lite0 from the verified weights, batch normalisation folded in, channels-last.

    Raises:
        EncoderError: weights are missing or not the pinned ones.
    """
    ensure_torchvision_importable()
    import timm

    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    tensors = tensors_at(read_index("efficientnet_lite0.json"), read_verified(EFFICIENTNET_LITE0))
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise EncoderError(f"timm's tf_efficientnet_lite0 has other tensors than the index: {missing} {unexpected}")
    model.eval().requires_grad_(False)
    fold_batch_norms(model)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def fold_batch_norms(module: nn.Module) -> None:
    """Fold every batch normalisation that directly follows a convolution into it, in place; keep its activation."""
    previous: nn.Module | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(previous, nn.Conv2d):
            previous.weight, bias = fuse_conv_bn_weights(
                previous.weight,
                previous.bias,
                cast(torch.Tensor, child.running_mean),
                cast(torch.Tensor, child.running_var),
                child.eps,
                child.weight,
                child.bias,
            )
            previous.bias = bias
            setattr(module, name, getattr(child, "act", nn.Identity()))
        else:
            fold_batch_norms(child)
        previous = child
