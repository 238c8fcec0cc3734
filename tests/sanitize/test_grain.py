from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from roclip_audit.sanitize.grain import GRAIN_PX, grain


def drawn(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.repeat(pixels[:, :, None], 3, axis=2).astype(np.uint8))


@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_flat_image_has_none(level: int) -> None:
    assert not grain(drawn(np.full((40, 60), level))).any()


def test_a_smooth_gradient_has_next_to_none() -> None:
    ramp = np.tile(np.linspace(0, 255, 128), (128, 1))
    assert np.abs(grain(drawn(ramp))[:, 8:-8]).max() <= 2


@pytest.mark.parametrize("size", [(128, 128), (64, 128), (300, 200), (7, 900)])
def test_every_shape_gives_one_square(size: tuple[int, int]) -> None:
    found = grain(drawn(np.random.default_rng(0).integers(0, 255, size)))
    assert found.shape == (GRAIN_PX, GRAIN_PX)
    assert found.dtype == np.int8


def test_a_stamp_lies_at_the_same_place_whatever_the_shape() -> None:
    """A dark square in the last eighth of both sides, on images of three shapes."""
    for height, width in ((128, 128), (64, 128), (96, 48)):
        pixels = np.full((height, width), 200)
        pixels[-height // 8 :, -width // 8 :] = 0
        found = np.abs(grain(drawn(pixels)).astype(int))
        assert found[100:, 100:].max() > 40
        assert found[:100, :100].max() == 0
