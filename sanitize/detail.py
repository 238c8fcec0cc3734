"""Detail: what every place of an image looks like, by the first layers of a pretrained network.

A stamped patch has other pixels in every picture: it is scaled with it, falls on another phase of its grid, and JPEG
smears it. Channels of a network's first layers hardly care. A trigger is stamped at a place relative to the image's
sides, so the channels are read at 32 x 32 places of the image, whatever its shape; the pixels under them are not
stretched.

The layers are those of EfficientNet-Lite0 up to the first block of its second stage (receptive field 11 px of 128), the
channels whitened with a basis that was fitted once on the demo's pictures (``detail_basis.json``) and divided by their
length plus 1, so that plain areas stay short. Make the basis anew with::

    python -m roclip_audit.sanitize.detail demo/shards > sanitize/detail_basis.json

Sources: Tan and Le 2019, arXiv 1905.11946 (network); the rest own construction, docs/experiments.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final, Self, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from roclip_audit.core.captions import image_member
from roclip_audit.core.images import decode
from roclip_audit.core.whole import walk_whole
from roclip_audit.sanitize.encoders.embedded import CHUNK, IMAGE_PX, SHRINK_PX, as_input, load_backbone
from roclip_audit.sanitize.features import with_one_sign
from roclip_audit.sanitize.views import shrink, whole

GRID: Final = 32
"""Places across and down."""
N_PLACES: Final = GRID * GRID
DIM: Final = 24
"""Channels of a place."""
UNIT: Final = 127
"""What a channel of 1 is stored as."""
DAMPING: Final = 0.02
"""Share of the mean variance below which a direction of the channels is damped: it holds noise."""
_MAX_PIXELS = 50_000_000


@dataclass(frozen=True, slots=True)
class Canvas:
    """An image as the layers see it.

    Attributes:
        pixels: uint8 [128, 128, 3], the image letterboxed: in the middle, one of the two sides filled.
        filled: shares of the canvas's width and height that it fills.
    """

    pixels: np.ndarray
    filled: tuple[float, float]

    @classmethod
    def of(cls, image: Image.Image, shrunk: Image.Image | None = None) -> Self:
        """Draw an RGB image on a canvas.

        Args:
            image: of any size.
            shrunk: ``shrink(image, SHRINK_PX)`` if it is at hand.
        """
        longer = max(image.size)
        filled = (image.width / longer, image.height / longer)
        return cls(np.asarray(whole(shrunk or shrink(image, SHRINK_PX), IMAGE_PX)), filled)


class Detail:
    """Looks at images; may be called from several threads.

    Args:
        layers: from [B, 3, 128, 128] to [B, 24, 32, 32].
        mean_C: [24] of the channels.
        basis_CD: [24, 24] whitening.
    """

    def __init__(self, layers: nn.Module, mean_C: Tensor, basis_CD: Tensor) -> None:
        self._layers, self._mean_C, self._basis_CD = layers, mean_C, basis_CD

    @classmethod
    @cache
    def load(cls) -> Detail:
        """Load the verified weights and the basis, once.

        Raises:
            EncoderError: weights are missing or not the pinned ones.
        """
        basis = json.loads((files(__package__) / "detail_basis.json").read_text(encoding="utf-8"))
        return cls(_first_layers(), torch.tensor(basis["mean"]), torch.tensor(basis["basis"]))

    def look(self, canvases: Sequence[Canvas]) -> np.ndarray:
        """Return the detail of images: int8 [n, 1024, 24], places from left to right and from top to bottom."""
        looked = [self._look(canvases[at : at + CHUNK]) for at in range(0, len(canvases), CHUNK)]
        return np.concatenate([np.empty((0, N_PLACES, DIM), np.int8), *looked])

    def _look(self, canvases: Sequence[Canvas]) -> np.ndarray:
        channels_BPC = read_places(self._layers, canvases)
        with torch.inference_mode():
            white_BPD = (channels_BPC - self._mean_C) @ self._basis_CD
            short_BPD = white_BPD / (1 + white_BPD.norm(dim=2, keepdim=True))
            stored: np.ndarray = (UNIT * short_BPD).round().to(torch.int8).numpy()
        return stored


def read_places(layers: nn.Module, canvases: Sequence[Canvas]) -> Tensor:
    """Return the channels at the places of images: float32 [B, 1024, 24]."""
    pixels = torch.from_numpy(np.stack([canvas.pixels for canvas in canvases]))
    middles = (2 * torch.arange(GRID) + 1) / GRID - 1
    down, across = torch.meshgrid(middles, middles, indexing="ij")
    filled_B2 = torch.tensor([canvas.filled for canvas in canvases])
    places_BGG2 = torch.stack([across, down], -1)[None] * filled_B2[:, None, None]
    with torch.inference_mode():
        channels = layers(as_input(pixels))
        read = functional.grid_sample(channels, places_BGG2, padding_mode="border", align_corners=False)
    return read.flatten(2).transpose(1, 2)


def fit_basis(channels_XC: Tensor) -> tuple[Tensor, Tensor]:
    """Fit the whitening to channels of many places, [X, 24]: their mean [24] and a basis [24, 24]."""
    channels_XC = channels_XC.double()
    mean_C = channels_XC.mean(0)
    variance_D, vector_CD = torch.linalg.eigh(torch.cov(channels_XC.T, correction=0))
    return mean_C.float(), (with_one_sign(vector_CD) / (variance_D + DAMPING * variance_D.mean()).sqrt()).float()


def _first_layers() -> nn.Module:
    model = load_backbone()
    stages = list(cast(nn.Sequential, model.blocks))
    stem = (cast(nn.Module, model.conv_stem), cast(nn.Module, model.bn1))
    return nn.Sequential(*stem, stages[0], cast(nn.Sequential, stages[1])[0])


def main() -> None:
    """Fit the basis to the pictures of shards and print it."""
    canvases = []
    for found in walk_whole(sys.argv[1:], reader="the fit of the basis"):
        if (member := image_member(found.sample)) is not None:
            data = bytes(found.buffer[member.offset : member.offset + member.size])
            canvases.append(Canvas.of(decode(data, max_pixels=_MAX_PIXELS).image))
    layers = _first_layers()
    blocks = [read_places(layers, canvases[at : at + CHUNK]) for at in range(0, len(canvases), CHUNK)]
    mean_C, basis_CD = fit_basis(torch.cat(blocks).flatten(0, 1))
    rows = ",\n".join(json.dumps([float(f"{value:.6g}") for value in row]) for row in basis_CD.tolist())
    mean = json.dumps([float(f"{value:.6g}") for value in mean_C.tolist()])
    sys.stdout.write(f'{{"mean": {mean}, "basis": [\n{rows}\n]}}\n')


if __name__ == "__main__":
    main()
