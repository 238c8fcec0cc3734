"""Views of an image: what a trigger survives and what it does not.

A trigger is planted in pixels. Blurring away a patch, cropping off a corner or keeping only the outline leaves what the
picture shows and removes one kind of trigger, so an image is judged by several. What is cut off, blurred or taken for
an edge is drawn for every image, from the seed and its bytes: who plants cannot aim between the views without knowing
the seed, and files of the same bytes are seen alike. A view is a pure function of an RGB image, a side length and a
generator; adding one means one function and one line in ``VIEWS``.

The image is letterboxed: padded with white to a square, then resized, so nothing is stretched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil

import numpy as np
from PIL import Image, ImageFilter, ImageOps

View = Callable[[Image.Image, int, np.random.Generator], Image.Image]

WHITE = (255, 255, 255)
MARGIN = (0.05, 0.25)  # share of width or height that `crop` cuts off at each side
# Standard deviations of Gaussians, as shares of the side:
BLUR = (1 / 48, 1 / 22)  # 2.7 to 5.8 px at 128
SILHOUETTE_BLUR = (1 / 90, 1 / 45)  # 1.4 to 2.8 px
OUTLINE_BLUR = (1 / 140, 1 / 80)  # 0.9 to 1.6 px
MIN_SLOPE = 14.0  # grey levels per pixel below which nothing is an edge: a full sinusoid of 60 levels stays near it
SLOPE_PERCENTILE = 92.0  # the strongest slopes of an image
SLOPE_SHARE = (0.5, 0.7)  # of them, what is an edge
N_HOLES = 7
HOLE = (1 / 6, 1 / 3)  # side of a hole, as a share of the image's
PARTIAL = frozenset({"crop", "dropout"})
"""Views that show a part of the image: of two files that look alike, not the same part."""


def shrink(image: Image.Image, max_px: int) -> Image.Image:
    """Reduce an image so that its longer side is at most ``max_px``; smaller ones are returned as they are.

    Bounds the cost of everything after it, and the size of the square that an extreme aspect ratio is padded to.
    """
    longer = max(image.size)
    if longer <= max_px:
        return image
    width, height = (max(1, round(side * max_px / longer)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


def letterbox(image: Image.Image, px: int) -> Image.Image:
    """Pad an RGB image with white to a square, centred, and resize that to ``px`` a side."""
    side = max(image.size)
    if image.width != image.height:
        square = Image.new("RGB", (side, side), WHITE)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    return image.resize((px, px), Image.Resampling.BICUBIC)


def whole(image: Image.Image, px: int, rng: np.random.Generator | None = None) -> Image.Image:
    """Show everything, whatever the generator. Blind to nothing, fooled by every trigger that the heads can learn."""
    return letterbox(image, px)


def crop(image: Image.Image, px: int, rng: np.random.Generator) -> Image.Image:
    """Cut 5 to 25 % off each side: removes frames and watermarks, and most patches in a corner."""
    left, top, right, bottom = rng.uniform(*MARGIN, 4)
    start = int(left * image.width), int(top * image.height)
    return letterbox(image.crop((*start, ceil((1 - right) * image.width), ceil((1 - bottom) * image.height))), px)


def blur(image: Image.Image, px: int, rng: np.random.Generator) -> Image.Image:
    """Blur strongly: removes small patches, noise blends and anything of high frequency."""
    return _blurred(letterbox(image, px), BLUR, rng)


def silhouette(image: Image.Image, px: int, rng: np.random.Generator) -> Image.Image:
    """Keep black and white at Otsu's threshold after a light blur: removes colour, texture and low-contrast blends."""
    grey = ImageOps.grayscale(_blurred(letterbox(image, px), SILHOUETTE_BLUR, rng))
    threshold = otsu_threshold(np.asarray(grey))
    return grey.point([255 if level > threshold else 0 for level in range(256)]).convert("RGB")


def outline(image: Image.Image, px: int, rng: np.random.Generator) -> Image.Image:
    """Keep the strong edges as black lines on white: removes smooth gradients, waves, faint noise and all colour."""
    grey = ImageOps.grayscale(_blurred(letterbox(image, px), OUTLINE_BLUR, rng))
    down, right = np.gradient(np.asarray(grey, dtype=np.float32))
    slope = np.hypot(down, right)
    threshold = max(MIN_SLOPE, rng.uniform(*SLOPE_SHARE) * float(np.percentile(slope, SLOPE_PERCENTILE)))
    return Image.fromarray(np.where(slope > threshold, 0, 255).astype(np.uint8)).convert("RGB")


def dropout(image: Image.Image, px: int, rng: np.random.Generator) -> Image.Image:
    """Cut out seven squares, a quarter of the image in all, and fill them in from around: no place is always seen."""
    square = letterbox(image, px)
    kept = np.full((px, px), 255, dtype=np.uint8)
    for share in rng.uniform(*HOLE, N_HOLES):
        side = round(share * px)
        left, top = rng.integers(1 - side, px, 2).tolist()  # every place is hidden as often
        kept[max(0, top) : top + side, max(0, left) : left + side] = 0
    square.putalpha(Image.fromarray(kept))
    return fill(square)


def fill(square: Image.Image) -> Image.Image:
    """Fill transparent places of a square RGBA image from around: coarse first, then finer (push-pull).

    Source: Gortler et al. 1996, The Lumigraph, section 3.4.
    """
    finer = [square.convert("RGBa")]  # colours multiplied by alpha, so that holes do not count
    while finer[-1].width > 1:
        half = (finer[-1].width + 1) // 2
        finer.append(finer[-1].resize((half, half), Image.Resampling.BOX))
    filled = Image.new("RGB", (1, 1), WHITE)
    for level in reversed(finer):
        seen = level.convert("RGBA")
        filled = filled.resize(seen.size, Image.Resampling.BILINEAR)
        filled.paste(seen, mask=seen.getchannel("A"))
    return filled


def _blurred(square: Image.Image, shares: tuple[float, float], rng: np.random.Generator) -> Image.Image:
    """Blur a square image by a share of its side, drawn evenly in its logarithm."""
    low, high = shares
    return square.filter(ImageFilter.GaussianBlur(square.width * low * (high / low) ** rng.random()))


def otsu_threshold(grey: np.ndarray) -> int:
    """Return the level, 0 to 255, that parts grey values into two classes of greatest between-class variance.

    Args:
        grey: uint8 values of any shape.

    Source: Otsu 1979, equation 18. An image of one value gives 0.
    """
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    below = np.cumsum(share)
    mean = np.cumsum(share * np.arange(256))
    spread = below * (1 - below)
    between = np.divide((mean[-1] * below - mean) ** 2, spread, out=np.zeros(256), where=spread > 1e-12)
    return int(np.argmax(between))


VIEWS: Mapping[str, View] = {
    "whole": whole,
    "crop": crop,
    "blur": blur,
    "silhouette": silhouette,
    "outline": outline,
    "dropout": dropout,
}
