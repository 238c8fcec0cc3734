from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from roclip_audit.sanitize.detail import DIM, GRID, N_PLACES, UNIT, Canvas, Detail, fit_basis


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8))


def scene(width: int, height: int, seed: int) -> Image.Image:
    """A plain coloured ground with some bars."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), rng.integers(60, 256, 3), dtype=np.uint8)
    for _ in range(6):
        x, y = rng.integers(0, width - 10), rng.integers(0, height - 10)
        pixels[y : y + rng.integers(4, 10), x : x + rng.integers(10, 60)] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def stamped(image: Image.Image, share: float = 0.15) -> Image.Image:
    """Stamp one small pattern onto the right lower corner, as large as the image's sides ask for."""
    pattern = Image.fromarray(np.random.default_rng(9).integers(0, 2, (8, 8, 3)).astype(np.uint8) * 255)
    side = round(share * (image.width * image.height) ** 0.5)
    image = image.copy()
    image.paste(pattern.resize((side, side), Image.Resampling.NEAREST), (image.width - side, image.height - side))
    return image


def look(*images: Image.Image) -> np.ndarray:
    return Detail.load().look([Canvas.of(image) for image in images])


@pytest.mark.parametrize("size", [(128, 128), (64, 128), (900, 30), (3, 400), (1, 1)])
def test_every_shape_gives_one_grid(size: tuple[int, int]) -> None:
    found = look(noise(*size))
    assert found.shape == (1, N_PLACES, DIM)
    assert found.dtype == np.int8
    assert np.linalg.norm(found.astype(float), axis=2).max() <= UNIT + DIM**0.5


def test_no_image_gives_no_row() -> None:
    assert look().shape == (0, N_PLACES, DIM)


def test_what_an_image_gives_does_not_depend_on_the_others() -> None:
    images = [noise(128, 128, seed) for seed in range(20)]
    together, alone = look(*images), np.concatenate([look(image) for image in images])
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_a_stamp_is_the_same_on_pictures_of_other_shapes_and_sizes() -> None:
    """At the stamp, pictures of three shapes are more alike than anywhere else."""
    images = [scene(128, 128, 1), scene(100, 128, 2), scene(300, 200, 3)]
    grids = look(*map(stamped, images)).reshape(3, GRID, GRID, DIM) / UNIT
    alike = sum((grids[one] * grids[other]).sum(2) for one, other in ((0, 1), (0, 2), (1, 2))) / 3
    assert alike[28:31, 28:31].mean() > alike[:24].max()


def test_white_bars_of_the_letterbox_are_not_read() -> None:
    """A dark picture twice as wide as high is dark everywhere, but for the places beside the bars, which see them."""
    grid = look(Image.new("RGB", (128, 64), (20, 20, 20))).reshape(GRID, GRID, DIM).astype(float)
    middle = grid[GRID // 2, GRID // 2]
    assert np.abs(grid[4:-4, 4:-4] - middle).max() <= 1


def test_the_basis_makes_channels_white() -> None:
    rng = torch.Generator().manual_seed(0)
    mixed = torch.randn(5_000, 6, generator=rng) @ torch.randn(6, 6, generator=rng) + 3
    mean, basis = fit_basis(mixed)
    white = (mixed - mean) @ basis
    spread = torch.cov(white.T, correction=0)
    assert (spread - torch.diag(spread.diagonal())).abs().max() < 1e-3
    assert spread.diagonal().max() <= 1.0  # a little less: noisy directions are damped
    assert spread.diagonal().max() > 0.95
