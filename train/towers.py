"""The two towers as the loop sees them: global features of any views, on one process or many.

N local pairs, V views, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from roclip_audit.core.environment import cpu_features, multiplies_bf16, read_text
from roclip_audit.train.config import Precision
from roclip_audit.train.data import augment
from roclip_audit.train.data.loader import CaptionTokens, pinned
from roclip_audit.train.data.pictures import Canvases, Pictures
from roclip_audit.train.data.repeats import number_pictures
from roclip_audit.train.distributed import World
from roclip_audit.train.model import TrainableModel, is_text_parameter

MAX_LOG_SCALE: Final = math.log(100)
LEAST_BF16_PX: Final = 64
"""Side of the input from which bfloat16 pays on a CPU."""
_EMBED_BATCH: Final = 256


def uses_bf16(precision: Precision, device: torch.device, image_px: int) -> bool:
    """Tell whether the towers run in bfloat16: asked for, or where the device multiplies it natively and gains by it.

    On a CPU with AMX, steps of the small models take 0.6 times as long at 64 pixels, and 1.3 to 1.7 times as long at
    32, where conversions cost more than the products save.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return image_px >= LEAST_BF16_PX and multiplies_bf16(cpu_features(read_text("/proc/cpuinfo")))


class Towers:
    """A model being trained.

    Args:
        trainable: the model.
        world: this process among all.
        bf16: run the towers in bfloat16 (the loss is always float32).
        compiled: let torch compile them.
        strong: what the view of that name is.
    """

    def __init__(
        self,
        trainable: TrainableModel,
        world: World,
        *,
        bf16: bool,
        compiled: bool = False,
        strong: augment.AugmentConfig | None = None,
    ) -> None:
        self._strong = strong or augment.AugmentConfig()
        self._world = world
        self._bf16 = bf16
        self.image_px = trainable.image_px
        self._mean = torch.tensor(trainable.mean, device=world.device).view(1, 3, 1, 1)
        self._std = torch.tensor(trainable.std, device=world.device).view(1, 3, 1, 1)
        model = trainable.model.to(world.device).train()
        if any(isinstance(module, nn.Conv2d) and module.kernel_size[0] == 3 for module in model.modules()):
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads
        if world.size > 1 and world.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if getattr(model, "logit_bias", None) is not None:  # SigLIP's; no loss here uses it, and DDP waits for it
            cast(Tensor, model.logit_bias).requires_grad_(False)
        self.model: nn.Module = model
        self._trained: nn.Module = model
        self._compiled = compiled
        self._trains_text: bool | None = None

    def set_mode(self, *, trains_text: bool) -> None:
        """Choose whether the text tower learns; called at the start of every epoch."""
        if trains_text == self._trains_text:
            return
        self._trains_text = trains_text
        for name, parameter in self.model.named_parameters():
            if is_text_parameter(name):
                parameter.requires_grad_(trains_text)
        model = cast(nn.Module, torch.compile(self.model)) if self._compiled else self.model
        self._trained = model
        if self._world.size > 1:  # DDP fixes at its making which parameters it waits for
            ids = [self._world.device.index] if self._world.device.type == "cuda" else None
            self._trained = DistributedDataParallel(model, device_ids=ids)

    def features(
        self, pixels_VNCHW: Sequence[Tensor], tokens_VNL: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Return the global features of a batch, with gradient where the tower learns.

        Args:
            pixels_VNCHW: one float32 [N, 3, H, W] in [0, 1] an image view.
            tokens_VNL: one int64 [N, L] a text view.

        Returns:
            Image features and text features, one float32 [N x ranks, D] a view, and the scale.
        """
        pixels, tokens = self._normalise(torch.cat(list(pixels_VNCHW))), torch.cat(list(tokens_VNL))
        with self._autocast():
            if self._trains_text:
                image_VND, text_VND, scale = self._trained(pixels, tokens)[:3]
            else:
                image_VND, _, scale = self._trained(pixels, None)[:3]
                with torch.no_grad():
                    text_VND = cast(Any, self.model).encode_text(tokens, normalize=True)
        images = image_VND.float().chunk(len(pixels_VNCHW))
        texts = text_VND.float().chunk(len(tokens_VNL))
        gather = self._world.gather
        return tuple(map(gather, images)), tuple(map(gather, texts)), scale.float()

    def view(self, name: str, canvases: Canvases, draws_ND: Tensor | None = None) -> Tensor:
        """Return one view of pictures, float32 [N, 3, H, W] in [0, 1].

        Args:
            name: one of ``methods.base.ImageView``.
            canvases: the pictures, on the device.
            draws_ND: their rows of ``augment.draw``; not needed for ``whole``.
        """
        if name == "whole" or draws_ND is None:
            return augment.whole(canvases.pixels_NCHW, canvases.aspect_N, self.image_px)
        config = {"light": augment.LIGHT, "strong": self._strong, "glimpse": augment.GLIMPSE}[name]
        return augment.augment(canvases.pixels_NCHW, canvases.aspect_N, draws_ND, config, self.image_px)

    def clamp_scale(self) -> None:
        """Keep the logit scale between 1 and 100."""
        cast(Any, self.model).logit_scale.data.clamp_(0, MAX_LOG_SCALE)

    def _normalise(self, pixels: Tensor) -> Tensor:
        return (pixels - self._mean) / self._std

    def _autocast(self) -> AbstractContextManager[None]:
        if not self._bf16:
            return nullcontext()
        return cast("AbstractContextManager[None]", torch.autocast(self._world.device.type, dtype=torch.bfloat16))

    @torch.no_grad()
    def embed(self, pixels: Tensor | None, tokens: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return un-augmented features, unit vectors float32 [N, D], as evaluation would."""
        self.model.eval()
        model = cast(Any, self.model)
        try:
            with self._autocast():
                image = None if pixels is None else model.encode_image(self._normalise(pixels), normalize=True).float()
                text = None if tokens is None else model.encode_text(tokens, normalize=True).float()
        finally:
            self.model.train()
        return image, text

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Return what ``embed`` says of images alone."""
        return cast(Tensor, self.embed(pixels, None)[0])


class PairEmbedder:
    """Un-augmented features of pairs of the data set; implements ``methods.base.Embedder``."""

    def __init__(
        self, towers: Towers, pictures: Pictures, tokens: CaptionTokens, world: World, n_pairs: int, *, workers: int = 1
    ) -> None:
        self._workers = workers
        self._towers = towers
        self._pictures = pictures
        self._tokens = tokens
        self._world = world
        self._n_pairs = n_pairs

    def texts(self, pairs: NDArray[np.int64]) -> Tensor:
        """Return unit vectors [n, D] of these pairs' captions; every rank computes them all."""
        parts = []
        for start in range(0, len(pairs), _EMBED_BATCH):
            tokens = self._tokens(pairs[start : start + _EMBED_BATCH], "plain").to(self._world.device)
            parts.append(cast(Tensor, self._towers.embed(None, tokens)[1]))
        return torch.cat(parts)

    def cosines(self) -> Tensor:
        """Return [N_all] cosines on the CPU; the ranks share the work."""
        world = self._world
        each = math.ceil(self._n_pairs / world.size)
        mine = np.arange(world.rank * each, (world.rank + 1) * each) % self._n_pairs
        parts = [self._cosines_of(mine[start : start + _EMBED_BATCH]) for start in range(0, each, _EMBED_BATCH)]
        return world.gather(torch.cat(parts))[: self._n_pairs].cpu()

    def picture_numbers(self) -> NDArray[np.int64]:
        """Return [N_all] numbers that are equal where pairs show the same picture; the main process finds them."""
        world = self._world
        number_A = torch.empty(self._n_pairs, dtype=torch.int64, device=world.device)
        if world.is_main:
            found = number_pictures(self._pictures, self._n_pairs, workers=self._workers)
            number_A.copy_(torch.from_numpy(found))
        return world.from_main(number_A).cpu().numpy()

    def _cosines_of(self, pairs: NDArray[np.int64]) -> Tensor:
        canvases = on_device(self._pictures.load(pairs), self._world.device)
        tokens = self._tokens(pairs, "plain").to(self._world.device)
        image_ND, text_ND = self._towers.embed(self._towers.view("whole", canvases), tokens)
        return F.cosine_similarity(cast(Tensor, image_ND), cast(Tensor, text_ND))


def on_device(canvases: Canvases, device: torch.device) -> Canvases:
    """Return canvases on a device; a copy to a GPU goes on while it computes."""
    if canvases.pixels_NCHW.device.type == device.type:
        return canvases
    return Canvases(
        pixels_NCHW=pinned(canvases.pixels_NCHW, device),
        aspect_N=pinned(canvases.aspect_N, device),
        readable_N=canvases.readable_N,
    )
