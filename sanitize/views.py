"""Views of an image: what a trigger survives and what it does not.

A trigger is planted in pixels. Blurring away a patch, cropping off a corner or keeping only the outline leaves what the
picture shows and removes one kind of trigger, so an image is judged by its worst view. A view is a pure function of an
RGB image and a side length; adding one means one function and one line in ``VIEWS``.

The image is letterboxed: padded with white to a square, then resized, so nothing is cut off and nothing is stretched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageFilter, ImageOps

View = Callable[[Image.Image, int], Image.Image]

WHITE = (255, 255, 255)
CROP_MARGIN = 0.15  # share of each side that `crop` cuts off
BLUR_SHARE = 1 / 32  # standard deviation of `blur`, as a share of the side: 4 px at 128
OUTLINE_BLUR_SHARE = 1 / 106  # of `outline`: 1.2 px at 128
MIN_SLOPE = 14.0  # grey levels per pixel below which nothing is an edge: a full sinusoid of 60 levels stays near it
SLOPE_PERCENTILE, SLOPE_SHARE = 92.0, 0.6  # the strongest slopes of an image, and the share of them that is an edge


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


def whole(image: Image.Image, px: int) -> Image.Image:
    """Show everything. Blind to nothing, fooled by every trigger that the heads can learn."""
    return letterbox(image, px)


def crop(image: Image.Image, px: int) -> Image.Image:
    """Cut 15 % off each side: removes patches, frames and watermarks near the border."""
    dx, dy = int(CROP_MARGIN * image.width), int(CROP_MARGIN * image.height)
    return letterbox(image.crop((dx, dy, image.width - dx, image.height - dy)), px)


def blur(image: Image.Image, px: int) -> Image.Image:
    """Blur strongly: removes small patches, noise blends and anything of high frequency."""
    return letterbox(image, px).filter(ImageFilter.GaussianBlur(px * BLUR_SHARE))


def silhouette(image: Image.Image, px: int) -> Image.Image:
    """Keep black and white at Otsu's threshold after a light blur: removes colour, texture and low-contrast blends."""
    grey = ImageOps.grayscale(letterbox(image, px).filter(ImageFilter.GaussianBlur(px * BLUR_SHARE / 2)))
    threshold = otsu_threshold(np.asarray(grey))
    return grey.point([255 if level > threshold else 0 for level in range(256)]).convert("RGB")


def outline(image: Image.Image, px: int) -> Image.Image:
    """Keep the strong edges as black lines on white: removes smooth gradients, waves, faint noise and all colour."""
    grey = ImageOps.grayscale(letterbox(image, px).filter(ImageFilter.GaussianBlur(px * OUTLINE_BLUR_SHARE)))
    down, right = np.gradient(np.asarray(grey, dtype=np.float32))
    slope = np.hypot(down, right)
    threshold = max(MIN_SLOPE, SLOPE_SHARE * float(np.percentile(slope, SLOPE_PERCENTILE)))
    return Image.fromarray(np.where(slope > threshold, 0, 255).astype(np.uint8)).convert("RGB")


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
}
