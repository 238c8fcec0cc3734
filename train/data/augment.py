"""Augment a batch of pictures on the device: crop, flip, colour, blur, scale. One set of draws a global batch.

Pictures come as square canvases: the whole picture squashed to S x S, with its aspect ratio beside it. Crops are drawn
in the picture's own geometry, so a canvas is enough for every crop, and everything after decoding is a handful of
batched operations that run where the model runs. All ranks draw for the whole global batch and take their part, so the
result does not depend on how many there are.

Source: RoCLIP (arXiv 2303.06854) as released: horizontal flip p .5; random resized crop, scale .08 to 1; colour jitter
(.5, .5, .5, .1) with p .8; greyscale p .2; Gaussian blur, kernel 21, sigma .1 to 2 at 224 pixels, always.
Differs from it: brightness, saturation, hue and contrast are composed into one affine map of the colours (hue turns the
chroma plane of YIQ) instead of four clamped steps in random order; sigma scales with the side of the picture; a crop
that would leave the picture is cut to it instead of drawn again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.seeding import derive_seed

N_DRAWS: Final = 12
SIGMA_PX: Final = (0.1, 2.0)
_REFERENCE_PX: Final = 224
_GREY: Final = (0.299, 0.587, 0.114)
_RGB_TO_YIQ: Final = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
_YIQ_TO_RGB: Final = torch.linalg.inv(torch.tensor(_RGB_TO_YIQ)).tolist()


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """What is drawn for one view of a picture; the defaults are RoCLIP's.

    Args:
        scale: least and most area of the crop, shares of the picture.
        ratio: least and most width over height of the crop.
        flip: chance of a horizontal flip.
        jitter: chance of the colour jitter.
        brightness, contrast, saturation: factor within 1 - x to 1 + x.
        hue: turn of the colour circle within -x to x, share of a full turn.
        grey: chance of greyscale.
        blur: chance of a Gaussian blur.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.5
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.scale[0] <= self.scale[1] <= 1.0:
            raise ConfigError(f"crop scale {self.scale}: must be two shares of the picture, the smaller first")
        if not 0.0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"crop ratio {self.ratio}: must be two positive numbers, the smaller first")

    @classmethod
    def of_strength(cls, scale: tuple[float, float], colour: float) -> AugmentConfig:
        """Return RoCLIP's with another crop, and its chances of jitter, greyscale and blur times ``colour``."""
        whole = cls()
        return cls(scale=scale, jitter=colour * whole.jitter, grey=colour * whole.grey, blur=colour * whole.blur)

    @property
    def colours(self) -> bool:
        """True if any draw can change a colour."""
        return self.jitter > 0 or self.grey > 0


LIGHT: Final = AugmentConfig(scale=(0.9, 1.0), flip=0.0, jitter=0.0, grey=0.0, blur=0.0)
"""What open_clip trains with."""
GLIMPSE: Final = AugmentConfig(scale=(0.25, 0.6), jitter=0.0, grey=0.3, blur=0.3)
"""A part of the picture. Of a patch of a quarter of its side, more than a third is seen in 19 of 100 if it lies in a
corner, in 46 if it lies a fourteenth of the side from both edges, and nearly always in the middle."""


def draw(n_pairs: int, *, seed: int, epoch: int, step: int, view: int) -> Tensor:
    """Return uniform draws for one view of a global batch, float32 [n_pairs, N_DRAWS] in [0, 1), on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "augment", epoch, step, view))
    return torch.rand(n_pairs, N_DRAWS, generator=generator)


def augment(canvas_NCHW: Tensor, aspect_N: Tensor, draws_ND: Tensor, config: AugmentConfig, image_px: int) -> Tensor:
    """Return augmented pictures, float32 [N, 3, image_px, image_px] in [0, 1].

    Args:
        canvas_NCHW: uint8 [N, 3, S, S].
        aspect_N: width over height of the pictures before they were squashed.
        draws_ND: from ``draw``, the rows of these pictures, on the same device.
        config: what the draws mean.
        image_px: side of the result.
    """
    box_N4, draws_ND = crop_boxes(aspect_N, draws_ND, config), draws_ND.to(canvas_NCHW.device)
    flipped_N = draws_ND[:, 4] < config.flip
    pixels = cut(canvas_NCHW, box_N4, flipped_N, image_px)
    if config.colours:
        pixels = _recolour(pixels, draws_ND, config)
    return _blur(pixels, draws_ND, config) if config.blur > 0 else pixels


def whole(canvas_NCHW: Tensor, aspect_N: Tensor, image_px: int) -> Tensor:
    """Return the central square of pictures, as evaluation sees them, float32 [N, 3, image_px, image_px] in [0, 1]."""
    aspect_N = aspect_N.to(canvas_NCHW.device)
    width_N, height_N = (1 / aspect_N).clamp(max=1), aspect_N.clamp(max=1)
    box_N4 = torch.stack([(1 - width_N) / 2, (1 - height_N) / 2, width_N, height_N], dim=1)
    return cut(canvas_NCHW, box_N4, torch.zeros_like(aspect_N, dtype=torch.bool), image_px)


def crop_boxes(aspect_N: Tensor, draws_ND: Tensor, config: AugmentConfig) -> Tensor:
    """Return crops as left, top, width, height in shares of the picture, float32 [N, 4]."""
    least, most = config.scale
    area_N = least + (most - least) * draws_ND[:, 0]
    low, high = (math.log(ratio) for ratio in config.ratio)
    ratio_N = torch.exp(low + (high - low) * draws_ND[:, 1])
    width_N = (area_N * ratio_N / aspect_N).sqrt().clamp(max=1)
    height_N = (area_N / ratio_N * aspect_N).sqrt().clamp(max=1)
    return torch.stack([(1 - width_N) * draws_ND[:, 2], (1 - height_N) * draws_ND[:, 3], width_N, height_N], dim=1)


def cut(canvas_NCHW: Tensor, box_N4: Tensor, flipped_N: Tensor, image_px: int) -> Tensor:
    """Cut boxes out of canvases and resize them, bilinear, float32 [N, 3, image_px, image_px] in [0, 1]."""
    left_N, top_N, width_N, height_N = box_N4.to(canvas_NCHW.device).unbind(dim=1)
    across_N = torch.where(flipped_N, -width_N, width_N)
    zero_N = torch.zeros_like(left_N)
    theta_N23 = torch.stack(
        [
            torch.stack([across_N, zero_N, 2 * left_N + width_N - 1], dim=1),
            torch.stack([zero_N, height_N, 2 * top_N + height_N - 1], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta_N23, [len(canvas_NCHW), 3, image_px, image_px], align_corners=False)
    pixels = canvas_NCHW.float() / 255
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _recolour(pixels: Tensor, draws_ND: Tensor, config: AugmentConfig) -> Tensor:
    """Apply jitter and greyscale as one affine map a picture."""
    matrix_N33, offset_N3 = colour_map(pixels.mean(dim=(2, 3)), draws_ND, config)
    flat = torch.bmm(matrix_N33, pixels.flatten(2)) + offset_N3[:, :, None]
    return flat.clamp(0, 1).view_as(pixels)


def colour_map(mean_N3: Tensor, draws_ND: Tensor, config: AugmentConfig) -> tuple[Tensor, Tensor]:
    """Return what happens to the colours: new = matrix @ old + offset.

    Args:
        mean_N3: [N, 3] mean colour, 0 to 1.
        draws_ND: [N, N_DRAWS].
        config: strengths.

    Returns:
        [N, 3, 3] matrix and [N, 3] offset.
    """
    device, n_pairs = mean_N3.device, len(mean_N3)
    identity = torch.eye(3, device=device)
    grey_33 = torch.tensor(_GREY, device=device).expand(3, 3)
    jitters_N = (draws_ND[:, 5] < config.jitter).float()[:, None]
    strength = torch.tensor([config.brightness, config.contrast, config.saturation], device=device)
    factor_N3 = 1 + jitters_N * strength * (2 * draws_ND[:, 6:9] - 1)
    brightness_N, contrast_N, saturation_N = (factor_N3[:, place, None, None] for place in range(3))
    turn_N = 2 * math.pi * config.hue * jitters_N[:, 0] * (2 * draws_ND[:, 9] - 1)
    matrix = brightness_N * (saturation_N * identity + (1 - saturation_N) * grey_33)
    matrix = torch.bmm(_hue(turn_N), matrix)
    greyed_N = (draws_ND[:, 10] < config.grey).float()[:, None, None]
    matrix = torch.bmm(greyed_N * grey_33 + (1 - greyed_N) * identity.expand(n_pairs, 3, 3), matrix)
    mean_after_N = torch.bmm(grey_33[None, :1].expand(n_pairs, 1, 3), torch.bmm(matrix, mean_N3[:, :, None]))
    offset_N3 = ((1 - contrast_N) * mean_after_N).squeeze(-1).expand(n_pairs, 3)
    return contrast_N * matrix, offset_N3


def _hue(turn_N: Tensor) -> Tensor:
    """Return the maps that turn the chroma plane of YIQ, [N, 3, 3]."""
    to_yiq, to_rgb = (torch.tensor(matrix, device=turn_N.device) for matrix in (_RGB_TO_YIQ, _YIQ_TO_RGB))
    cosine, sine, zero, one = turn_N.cos(), turn_N.sin(), torch.zeros_like(turn_N), torch.ones_like(turn_N)
    rows = [[one, zero, zero], [zero, cosine, -sine], [zero, sine, cosine]]
    turn_N33 = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    turned: Tensor = to_rgb @ turn_N33 @ to_yiq
    return turned


def _blur(pixels: Tensor, draws_ND: Tensor, config: AugmentConfig) -> Tensor:
    """Blur each picture with its own sigma, one direction after the other."""
    height, width = pixels.shape[2:]
    unit = width / _REFERENCE_PX
    low, high = (sigma * unit for sigma in SIGMA_PX)
    chance_N = draws_ND[:, 11]
    sigma_N = low + (high - low) * (chance_N / config.blur).clamp(max=1)
    sigma_N = torch.where(chance_N < config.blur, sigma_N, torch.full_like(sigma_N, low)).clamp(min=1e-3)
    reach = max(1, math.ceil(2.5 * high))
    places = torch.arange(-reach, reach + 1, device=pixels.device, dtype=pixels.dtype)
    kernel_NK = torch.exp(-0.5 * (places / sigma_N[:, None]) ** 2)
    kernel_NK = kernel_NK / kernel_NK.sum(dim=1, keepdim=True)
    padded = F.pad(pixels, (reach, reach, reach, reach), mode="replicate")
    across = sum(kernel_NK[:, k, None, None, None] * padded[:, :, :, k : k + width] for k in range(2 * reach + 1))
    assert isinstance(across, Tensor)
    down = sum(kernel_NK[:, k, None, None, None] * across[:, :, k : k + height] for k in range(2 * reach + 1))
    assert isinstance(down, Tensor)
    return down


def canvas_px(image_px: int) -> int:
    """Return the side of the canvas for a model: room for crops to stay sharp, 1.25 times its input."""
    return math.ceil(image_px * 1.25)
