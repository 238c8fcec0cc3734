"""Views: square, of the asked size, pure, and each removing what it promises to remove."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from roclip_audit.sanitize.views import VIEWS, letterbox, otsu_threshold, shrink


def scene(width: int = 90, height: int = 60) -> Image.Image:
    pixels = np.full((height, width, 3), 250, dtype=np.uint8)
    pixels[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = (200, 20, 20)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("size", [(90, 60), (1, 1), (1, 300), (700, 2), (16, 16)])
def test_every_view_is_a_square_rgb_image_and_leaves_its_input_alone(name: str, size: tuple[int, int]) -> None:
    image = scene(*size)
    before = image.tobytes()
    view = VIEWS[name](image, 48)
    assert (view.size, view.mode) == ((48, 48), "RGB")
    assert image.tobytes() == before
    assert VIEWS[name](image, 48).tobytes() == view.tobytes()


def test_whole_comes_first() -> None:
    assert next(iter(VIEWS)) == "whole"


def test_letterbox_neither_cuts_nor_stretches() -> None:
    pixels = np.asarray(letterbox(Image.new("RGB", (100, 50), "black"), 100))
    assert pixels[:24].min() == 255
    assert pixels[-24:].min() == 255
    assert pixels[27:-27].max() == 0


def test_a_corner_patch_does_not_survive_the_crop() -> None:
    image, patched = scene(100, 100), scene(100, 100)
    patched.paste((0, 0, 255), (88, 88, 100, 100))
    assert VIEWS["crop"](patched, 64).tobytes() == VIEWS["crop"](image, 64).tobytes()
    assert VIEWS["whole"](patched, 64).tobytes() != VIEWS["whole"](image, 64).tobytes()


def test_blur_takes_noise_away() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert np.asarray(VIEWS["blur"](Image.fromarray(noise), 128)).std() < 0.1 * noise.std()


def test_silhouette_is_black_and_white_and_shows_the_shape() -> None:
    pixels = np.asarray(VIEWS["silhouette"](scene(90, 90), 90))
    assert set(np.unique(pixels)) == {0, 255}
    assert pixels[45, 45, 0] == 0
    assert pixels[3, 3, 0] == 255


@given(st.binary(min_size=1, max_size=300))
def test_otsu_agrees_with_trying_every_threshold(levels: bytes) -> None:
    grey = np.frombuffer(levels, dtype=np.uint8).astype(float)

    def between(threshold: int) -> float:
        low, high = grey[grey <= threshold], grey[grey > threshold]
        return low.size * high.size * (low.mean() - high.mean()) ** 2 if low.size and high.size else 0.0

    found = otsu_threshold(np.frombuffer(levels, dtype=np.uint8))
    assert between(found) == pytest.approx(max(map(between, range(256))), rel=1e-6, abs=1e-6)


@given(st.integers(1, 4000), st.integers(1, 40), st.booleans())
def test_shrink_bounds_the_longer_side_and_keeps_every_side(long: int, short: int, upright: bool) -> None:
    image = Image.new("RGB", (short, long) if upright else (long, short))
    small = shrink(image, 100)
    assert max(small.size) <= max(100, 1)
    assert min(small.size) >= 1
    assert (small is image) == (max(image.size) <= 100)
