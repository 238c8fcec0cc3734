"""Any open_clip model as an encoder: ``ARCH/TAG``, ``hf-hub:ORG/NAME``, ``local-dir:PATH``, ``ARCH@FILE`` or a FILE.

Image and caption share one space, so features have unit length. Weights load with ``weights_only``: a checkpoint that
needs to run code is refused, and so is a model without weights. Preprocessing is the model's own (Pillow, bicubic).
Where the processor multiplies bfloat16 the towers run in it, each if a probe keeps a cosine of 0.999 to float32.

A model that was trained on the suspect data has learned the poison and lets it win: use one that was not.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from roclip_audit.core.checkpoint import LoadedModel, load_model
from roclip_audit.core.images import cut_to_aspect
from roclip_audit.core.run import work_key
from roclip_audit.core.seeding import generator
from roclip_audit.core.tokens import Tokenize
from roclip_audit.sanitize.encoders import EncoderConfig, clip_towers
from roclip_audit.sanitize.views import VIEWS, shrink

REVISION = 1  # raise when the code changes what it puts out
LEAST_COSINE = 0.999

Tower = Callable[[torch.Tensor], torch.Tensor]


class OpenClipEncoder:
    """A model of open_clip; implements ``Encoder``."""

    default_views: ClassVar[tuple[str, ...]] = ("whole",)
    joint = True
    shrink_px: int | None = None

    def __init__(self, loaded: LoadedModel, config: EncoderConfig) -> None:
        self.name = loaded.name
        self.views = config.views or self.default_views
        self._preprocess = Preprocess(loaded.preprocess, loaded.image_px)
        self._tokenize = Tokenize(loaded.tokenizer, loaded.context_length)
        weights = hash_state(loaded.model)  # before any cast
        (self._embed_pixels, image_precision), (self._embed_tokens, text_precision) = self._towers(loaded.model, config)
        self.precision = f"image {image_precision}, text {text_precision}"
        self.image_dim = self.text_dim = int(self.embed_texts(["a"]).shape[1])
        self.fingerprint = work_key(
            "open_clip", REVISION, weights, loaded.architecture, self._preprocess.steps, self.precision, self.views
        )

    @classmethod
    def build(cls, rest: str, config: EncoderConfig) -> Self:
        """Load a model through open_clip.

        Raises:
            ConfigError: the specification names no architecture, tag, folder or file.
            EncoderError: the model cannot be loaded, or has no weights.
        """
        return cls(load_model(rest), config)

    def prepare_image(self, image: Image.Image, seed: int) -> np.ndarray:
        """Return the views of an RGB image, resized as the model wants them, as uint8 [V, H, W, 3]."""
        return np.stack([self._preprocess.resize(image, view, seed) for view in self.views])

    def embed_images(self, batch: np.ndarray) -> np.ndarray:
        """Embed uint8 [B, V, H, W, 3] as unit vectors, float32 [B, V, D]."""
        with torch.inference_mode():
            features = self._embed_pixels(self._preprocess.normalise(batch.reshape(-1, *batch.shape[2:])))
            return F.normalize(features.float(), dim=-1).numpy().reshape(*batch.shape[:2], -1)

    def embed_texts(self, captions: Sequence[str]) -> np.ndarray:
        """Embed captions as unit vectors, float32 [B, D]."""
        with torch.inference_mode():
            return F.normalize(self._embed_tokens(self._tokenize(captions)).float(), dim=-1).numpy()

    def _towers(self, model: nn.Module, config: EncoderConfig) -> tuple[tuple[Tower, str], tuple[Tower, str]]:
        """Choose each tower's precision, by a probe where the choice is free."""
        exact = image_tower(model), text_tower(model)
        if config.resolved_precision() == "fp32":
            return (exact[0], "fp32"), (exact[1], "fp32")
        low_model = copy.deepcopy(model).bfloat16()
        low = image_tower(low_model), text_tower(low_model)
        probes = self._preprocess.normalise(self._probe_pixels()), self._tokenize(PROBE_CAPTIONS)
        chosen = []
        for slow, fast, probe in zip(exact, low, probes, strict=True):
            good = config.precision == "bf16" or _least_cosine(slow(probe), fast(probe)) >= LEAST_COSINE
            chosen.append((fast, "bf16") if good else (slow, "fp32"))
        return chosen[0], chosen[1]

    def _probe_pixels(self) -> np.ndarray:
        """Draw three images: noise, a gradient, a disc."""
        across, down = np.meshgrid(np.linspace(0, 1, 256), np.linspace(0, 1, 256))
        noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (256, 256, 3))
        gradient = np.stack([across, down, 1 - across], axis=-1) * 255
        disc = np.where(((across - 0.5) ** 2 + (down - 0.4) ** 2 < 0.06)[..., None], (200, 30, 30), (250, 250, 245))
        images = [Image.fromarray(pixels.astype(np.uint8)) for pixels in (noise, gradient, disc)]
        return np.stack([self._preprocess.resize(image, "whole", 0) for image in images])


PROBE_CAPTIONS = ("a", "a red disc on white paper", "IMG_0001.jpg", "two dogs (animal, pet, cartoon). Free, download")


def image_tower(model: nn.Module) -> Tower:
    """Return the image tower as a function of normalised pixels: the short one where it fits, else open_clip's own."""
    dtype = next(model.parameters()).dtype
    encode = clip_towers.find_image(model) or cast(Any, model).encode_image
    return _inferring(lambda pixels: encode(pixels.to(dtype)))


def text_tower(model: nn.Module) -> Tower:
    """Return the text tower as a function of token ids: the short one where it fits, else open_clip's own."""
    return _inferring(clip_towers.find_text(model) or cast(Any, model).encode_text)


def _inferring(tower: Tower) -> Tower:
    def run(batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return tower(batch)

    return run


def _least_cosine(exact: torch.Tensor, approximate: torch.Tensor) -> float:
    return float(F.cosine_similarity(exact.float(), approximate.float(), dim=-1).min())


def hash_state(model: nn.Module) -> str:
    """Hash names, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class Preprocess:
    """open_clip's evaluation transform, cut in two: resizing per image, scaling per batch."""

    def __init__(self, transform: object, image_px: int) -> None:
        self._image_px = image_px
        *self._geometry, _, normalise = cast(Any, transform).transforms
        self._mean = torch.tensor(normalise.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(normalise.std).view(1, 3, 1, 1)
        self.steps = str(transform)

    def resize(self, image: Image.Image, view: str, seed: int) -> np.ndarray:
        """Return one view as uint8 [H, W, 3].

        An image longer than 16 : 1 is cut to its middle first.
        """
        image = cut_to_aspect(image)
        if view != "whole":
            image = VIEWS[view](shrink(image, 3 * self._image_px), self._image_px, generator(seed, view))
        for step in self._geometry:
            image = step(image)
        return np.asarray(image)

    def normalise(self, pixels: np.ndarray) -> torch.Tensor:
        """Scale uint8 [B, H, W, 3] to what the model was trained on, float32 [B, 3, H, W]."""
        scaled = (
            torch.from_numpy(np.require(pixels, requirements="W")).permute(0, 3, 1, 2).contiguous().float().div_(255)
        )
        return scaled.sub_(self._mean).div_(self._std)
