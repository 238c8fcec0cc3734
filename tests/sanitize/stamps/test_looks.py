"""The ways of looking, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from roclip_audit.core.words import STAMP_SHOWS
from roclip_audit.sanitize.detail import DIM, GRID, N_PLACES, UNIT
from roclip_audit.sanitize.grain import GRAIN_PX, texture
from roclip_audit.sanitize.stamps.grain import GrainLook
from roclip_audit.sanitize.stamps.place import PlaceLook
from roclip_audit.sanitize.stamps.tone import FARTHEST, LEAST_SPREAD, QUANTILES, VARIANCE, ToneLook
from roclip_audit.sanitize.stamps.window import FLOOR, PER_IMAGE, WindowLook

ROWS, NOWHERE = torch.tensor([1, 4, 5]), torch.zeros(6, dtype=torch.int64)


def detail() -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(-127, 128, (6, N_PLACES, DIM), generator=rng).to(torch.int8)


@pytest.mark.parametrize(("x", "y"), [(16, 9), (0, 0), (31, 4)])
def test_a_place_is_compared_with_what_lies_around_it(x: int, y: int) -> None:
    detail_PSC = detail()
    look = PlaceLook(detail_PSC, x, y)
    score_P, _ = look.compare(look.mean(ROWS, NOWHERE))
    grid = detail_PSC.reshape(-1, GRID, GRID, DIM).double() / UNIT

    def mean_product(image: int, side: int, step: int) -> float:
        near = [
            float(grid[image, v, u] @ grid[ROWS, v, u].mean(0))
            for v in range(max(0, y - side // 2), min(GRID, y + side // 2 + 1), step)
            for u in range(max(0, x - side // 2), min(GRID, x + side // 2 + 1), step)
        ]
        return sum(near) / len(near)

    expected = [mean_product(image, 3, 1) - mean_product(image, 13, 2) for image in range(6)]
    assert score_P.tolist() == pytest.approx(expected, abs=1e-4)


def test_windows_are_the_peaks_of_detail_and_the_best_of_them_counts() -> None:
    detail_PSC = (detail().float() * 0.2).to(torch.int8)
    grid = detail_PSC.reshape(-1, GRID, GRID, DIM)
    rich = torch.randint(-127, 128, (3, 3, DIM), generator=torch.Generator().manual_seed(1)).to(torch.int8)
    at = [(int(row) * 3, 20 - int(row)) for row in ROWS]
    for row, (x, y) in zip(ROWS.tolist(), at, strict=True):
        grid[row, y : y + 3, x : x + 3] = rich
    look = WindowLook(detail_PSC)
    assert look.window_PKW.shape == (6, PER_IMAGE, 9 * DIM)
    # The richest comes first; unfolded, a channel's nine places lie together.
    expected = rich.permute(2, 0, 1).flatten().float() / UNIT
    assert torch.allclose(look.window_PKW[ROWS, 0], expected.expand(3, -1))
    template = look.mean(ROWS, NOWHERE)
    assert torch.allclose(template, functional.normalize(expected, dim=0), atol=1e-5)
    score_P, where_P = look.compare(template)
    assert where_P[ROWS].tolist() == [0, 0, 0]
    length = float(expected.norm())
    assert score_P[ROWS].tolist() == pytest.approx([length / (length + FLOOR)] * 3, abs=1e-4)
    assert score_P[[0, 2, 3]].max() < 0.5


def test_a_pattern_has_to_lie_everywhere() -> None:
    rng = torch.Generator().manual_seed(2)
    noise = torch.randint(-4, 5, (6, GRAIN_PX, GRAIN_PX), generator=rng)
    pattern = torch.randint(-6, 7, (GRAIN_PX, GRAIN_PX), generator=rng)
    all_over, left = noise + pattern, noise.clone()
    left[:, :, :64] += pattern[:, :64]
    over, part = (GrainLook(grain.to(torch.int8)) for grain in (all_over, left))
    assert over.may_be_planted(ROWS)
    assert not part.may_be_planted(ROWS)
    score_P, _ = over.compare(over.mean(ROWS, NOWHERE))
    texture_PX = texture(all_over.float())
    expected = texture_PX @ functional.normalize(texture_PX[ROWS].mean(0), dim=0)
    assert torch.allclose(score_P, expected, atol=1e-5)


def test_a_tone_is_where_the_channels_lie_and_what_varies_counts_less() -> None:
    detail_PSC = detail()
    detail_PSC[ROWS, :, 3] //= 4
    look = ToneLook(detail_PSC)
    score_P, where_P = look.compare(look.mean(ROWS, NOWHERE))
    assert where_P.tolist() == [0] * 6
    quantiles = np.quantile(detail_PSC.double().numpy() / UNIT, QUANTILES, axis=1, method="nearest")
    quantiles = quantiles.transpose(1, 0, 2).reshape(6, -1)
    middle, high = np.quantile(quantiles, [0.5, 0.84], axis=0)
    tone = np.clip((quantiles - middle) / np.maximum(high - middle, LEAST_SPREAD), -FARTHEST, FARTHEST)
    weight = 1 / (tone[ROWS].var(0) + VARIANCE)
    apart = (tone - tone[ROWS].mean(0)) ** 2 @ (weight / weight.mean())
    assert score_P.tolist() == pytest.approx((-np.sqrt(apart)).tolist(), abs=2e-2)
    assert sorted(score_P.topk(3).indices.tolist()) == ROWS.tolist()


def test_windows_and_tones_say_what_is_nearest_and_where() -> None:
    detail_PSC = detail()
    detail_PSC[4] = detail_PSC[1]
    for look in (WindowLook(detail_PSC), ToneLook(detail_PSC)):
        alike_BKP = look.alike(torch.tensor([1]))
        assert alike_BKP[0, :, [0, 2, 3, 5]].amax(1).lt(alike_BKP[0, :, 4]).all()
        parts = alike_BKP.shape[1]
        assert [int(look.where(torch.tensor([1]), part, torch.tensor([4]))) for part in range(parts)] == [*range(parts)]


def test_every_kind_is_said_in_words() -> None:
    assert sorted(STAMP_SHOWS) == sorted(look.kind for look in (PlaceLook, WindowLook, GrainLook, ToneLook))


def test_what_is_in_a_template_is_compared_with_the_rest_of_it() -> None:
    """One by one, by the template of the others."""
    rng = torch.Generator().manual_seed(3)
    grain = torch.randint(-6, 7, (6, GRAIN_PX, GRAIN_PX), generator=rng).to(torch.int8)
    for look in (PlaceLook(detail(), 9, 30), WindowLook(detail()), GrainLook(grain), ToneLook(detail())):
        found = look.among(ROWS, NOWHERE).tolist()
        alone = [float(look.compare(look.mean(ROWS[row != ROWS], NOWHERE))[0][row]) for row in ROWS]
        assert found == pytest.approx(alone, abs=1e-3), look.kind
