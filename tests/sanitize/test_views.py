"""Views: square, of the asked size, the same for a seed and others for another, each removing what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from roclip_audit.core.seeding import generator
from roclip_audit.sanitize.views import VIEWS, fill, letterbox, otsu_threshold, shrink


def scene(width: int = 90, height: int = 60) -> Image.Image:
    pixels = np.full((height, width, 3), 250, dtype=np.uint8)
    pixels[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = (200, 20, 20)
    return Image.fromarray(pixels)


def seen(name: str, image: Image.Image, px: int, seed: int = 0) -> np.ndarray:
    return np.asarray(VIEWS[name](image, px, generator(seed, name)))


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("size", [(90, 60), (1, 1), (1, 300), (700, 2), (16, 16), (48, 48)])
def test_every_view_is_a_square_rgb_image_and_leaves_its_input_alone(name: str, size: tuple[int, int]) -> None:
    image = scene(*size)
    before = image.tobytes()
    view = VIEWS[name](image, 48, generator(0))
    assert (view.size, view.mode) == ((48, 48), "RGB")
    assert image.tobytes() == before
    assert VIEWS[name](image, 48, generator(0)).tobytes() == view.tobytes()


def test_whole_comes_first() -> None:
    assert next(iter(VIEWS)) == "whole"


@pytest.mark.parametrize("name", VIEWS)
def test_another_seed_draws_another_view_of_all_but_the_whole_image(name: str) -> None:
    disc = Image.new("RGB", (120, 120), "white")
    ImageDraw.Draw(disc).ellipse((20, 30, 90, 100), "red", "black", 5)
    drawn = {seen(name, disc, 64, seed).tobytes() for seed in range(6)}
    assert len(drawn) == 1 if name == "whole" else len(drawn) >= 4


def test_letterbox_neither_cuts_nor_stretches() -> None:
    pixels = np.asarray(letterbox(Image.new("RGB", (100, 50), "black"), 100))
    assert pixels[:24].min() == 255
    assert pixels[-24:].min() == 255
    assert pixels[27:-27].max() == 0


@pytest.mark.parametrize(
    ("name", "box", "least", "most"),
    [
        ("crop", (90, 90, 100, 100), 75, 100),
        ("crop", (96, 0, 100, 100), 100, 100),
        ("crop", (44, 44, 56, 56), 0, 0),
        ("dropout", (90, 90, 99, 99), 5, 30),
        ("dropout", (45, 45, 54, 54), 5, 30),
    ],
    ids=["crop, corner", "crop, border", "crop, middle", "dropout, corner", "dropout, middle"],
)
def test_how_often_a_patch_is_out_of_sight(name: str, box: tuple[int, int, int, int], least: int, most: int) -> None:
    image, patched = scene(100, 100), scene(100, 100)
    patched.paste((0, 0, 255), box)
    assert not np.array_equal(seen("whole", patched, 64), seen("whole", image, 64))
    views = [seen(name, patched, 64, seed).astype(int) for seed in range(100)]
    hidden = sum(not (pixels[..., 2] > pixels[..., 1] + 60).any() for pixels in views)
    assert least <= hidden <= most


@pytest.mark.parametrize("seed", range(5))
def test_blur_takes_noise_away(seed: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert seen("blur", Image.fromarray(noise), 128, seed).std() < 0.15 * noise.std()


def test_dropout_hides_every_place_as_often_and_leaves_the_rest_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    changed = np.stack(
        [(seen("dropout", Image.fromarray(noise), 48, seed) != noise).any(axis=2) for seed in range(400)]
    )
    assert changed.mean() == pytest.approx(0.25, abs=0.03)
    corners, middle = changed[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(), changed[:, 20:28, 20:28].mean()
    assert corners == pytest.approx(middle, abs=0.08)


def test_filling_spreads_what_is_around() -> None:
    pixels = np.zeros((32, 32, 4), dtype=np.uint8)
    pixels[:, :16], pixels[:, 16:] = (200, 0, 0, 255), (0, 0, 200, 255)
    pixels[10:20, 2:10, 3] = 0
    filled = np.asarray(fill(Image.fromarray(pixels))).astype(int)
    assert np.abs(filled[:, :16] - (200, 0, 0)).max() <= 20
    assert np.array_equal(filled[:, 16:], np.broadcast_to((0, 0, 200), (32, 16, 3)))


def test_filling_an_image_that_is_all_hole_gives_white() -> None:
    assert np.asarray(fill(Image.new("RGBA", (7, 7), (0, 0, 0, 0)))).min() == 255


def test_silhouette_is_black_and_white_and_shows_the_shape() -> None:
    pixels = seen("silhouette", scene(90, 90), 90)
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
