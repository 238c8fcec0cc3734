from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.detail import DIM, GRID, N_PLACES, UNIT
from roclip_audit.sanitize.shared_patch import (
    ELSEWHERE,
    N_STRONGEST,
    SCALES,
    SharedPatches,
    find_shared_patches,
    level_of,
    strongest,
)
from tests.sanitize.datakit import near_of

N, N_PLANTED = 120, 8
PLACE = (26, 5)  # row and column of the middle of what is planted


def drawn(seed: int = 0, planted: int = N_PLANTED, half: int = 1) -> Tensor:
    """Draw detail: short random channels everywhere; the first images have a square of places in common."""
    rng = torch.Generator().manual_seed(seed)
    detail = torch.randn(N, GRID, GRID, DIM, generator=rng) * 0.3 / DIM**0.5
    row, column = PLACE
    patch = functional.normalize(torch.randn(2 * half + 1, 2 * half + 1, DIM, generator=rng), dim=2)
    detail[:planted, row - half : row + half + 1, column - half : column + half + 1] = patch
    return detail.view(N, N_PLACES, DIM)


def found_in(detail: Tensor, *, alike: Tensor | None = None, n_mates: int = N - 1, workers: int = 1) -> SharedPatches:
    """Compare every image with the ones after it, in a ring."""
    rng = torch.Generator().manual_seed(1)
    image = functional.normalize(torch.randn(N, 16, generator=rng), dim=1)
    near = near_of(list(range(N)), [[-1]] * N, image_ND=image if alike is None else alike)
    mates = (torch.arange(N)[:, None] + torch.arange(1, n_mates + 1)) % N
    rows = RowArray.of([(UNIT * detail).clamp(-UNIT, UNIT).round().to(torch.int8).numpy()])
    return find_shared_patches(torch.arange(N), mates, torch.arange(N) // 30, rows, near, workers=workers)


@pytest.mark.parametrize(("half", "scale"), [(1, 0), (4, 1)])
def test_a_shared_place_is_seen_and_named(half: int, scale: int) -> None:
    found = found_in(drawn(half=half))
    strength_B = found.strength_BS[:, scale]
    assert strength_B[:N_PLANTED].min() > 2 * strength_B[N_PLANTED:].max()
    for place_BS, middle in ((found.y_BS, PLACE[0]), (found.x_BS, PLACE[1])):
        assert ((place_BS[:N_PLANTED, scale] - (middle + 0.5) / GRID).abs() <= (half + 0.5) / GRID).all()


def test_copies_do_not_count() -> None:
    alike = functional.normalize(torch.randn(N, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    alike[:N_PLANTED] = alike[0]
    found = found_in(drawn(), alike=alike)
    assert (found.strength_BS[:N_PLANTED].amax(0) < found_in(drawn()).strength_BS[:N_PLANTED].amin(0) / 2).all()


def test_what_everything_shares_does_not_count() -> None:
    found = found_in(drawn(planted=N), n_mates=20)
    assert (found.strength_BS.amax(0) < found_in(drawn()).strength_BS[:N_PLANTED].amin(0) / 2).all()


def test_mates_are_no_references() -> None:
    """Where there are so few images that all are mates, a patch is still seen."""
    few = 30
    rows = RowArray.of([(UNIT * drawn()[:few]).clamp(-UNIT, UNIT).round().to(torch.int8).numpy()])
    image = functional.normalize(torch.randn(few, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    near = near_of(list(range(few)), [[-1]] * few, image_ND=image)
    mates = torch.stack([torch.cat([torch.arange(row), torch.arange(row + 1, few)]) for row in range(few)])
    found = find_shared_patches(torch.arange(few), mates, torch.zeros(few, dtype=torch.int64), rows, near)
    assert found.strength_BS[:N_PLANTED, 0].min() > 2 * found.strength_BS[N_PLANTED:, 0].max()


def test_any_number_of_workers_gives_the_same() -> None:
    one, three = (found_in(drawn(), workers=workers) for workers in (1, 3))
    assert torch.equal(one.strength_BS, three.strength_BS)
    assert torch.equal(one.x_BS, three.x_BS)


def test_level_agrees_with_plain_loops() -> None:
    match = torch.randn(6, N_PLACES, generator=torch.Generator().manual_seed(3))
    grid = match.view(6, GRID, GRID)

    def around(one: int, row: int, column: int, side: int) -> Tensor:
        half = side // 2
        return grid[one, max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1].mean()

    for level, (at, beside) in zip(level_of(match, 6).view(-1, GRID, GRID), SCALES, strict=True):
        for row, column in ((0, 0), (5, 31), (16, 7), (31, 12)):
            local = torch.stack([around(one, row, column, at) - around(one, row, column, beside) for one in range(6)])
            assert torch.isclose(level[row, column], local.topk(N_STRONGEST).values.mean(), atol=1e-5)


def test_missing_mates_are_neither_alike_nor_unlike() -> None:
    nothing = level_of(torch.zeros(0, N_PLACES), 48)
    assert nothing.shape == (len(SCALES), N_PLACES)
    assert not nothing.any()
    match = torch.zeros(1, N_PLACES)
    match[0, 300] = 1.0
    assert torch.isclose(level_of(match, 48)[0].max() * N_STRONGEST, level_of(match, 1)[0].max())


def test_a_second_place_counts_against_the_first() -> None:
    level = torch.zeros(2, 1, N_PLACES)
    level[:, 0, 5 * GRID + 5] = 1.0
    level[0, 0, 6 * GRID + 6], level[1, 0, 25 * GRID + 25] = 0.9, 0.9  # beside it, and away from it
    strength, place = strongest(level)
    assert place[:, 0].tolist() == [5 * GRID + 5] * 2
    assert torch.allclose(strength[:, 0], torch.tensor([1.0, 1.0 - 0.9 * ELSEWHERE]).double())
