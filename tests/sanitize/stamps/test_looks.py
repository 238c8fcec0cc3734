"""The ways of looking, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from roclip_audit.core.words import STAMP_SHOWS
from roclip_audit.sanitize.detail import DIM, GRID, N_PLACES, UNIT
from roclip_audit.sanitize.grain import GRAIN_PX, texture
from roclip_audit.sanitize.stamps.bend import LEVELS, MOST_LEVELS, N_LEANS, PLACES, STEEPEST, BendLook
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
    assert sorted(STAMP_SHOWS) == sorted(look.kind for look in (PlaceLook, WindowLook, GrainLook, ToneLook, BendLook))


def test_what_is_in_a_template_is_compared_with_the_rest_of_it() -> None:
    """One by one, by the template of the others."""
    rng = torch.Generator().manual_seed(3)
    grain = torch.randint(-6, 7, (6, GRAIN_PX, GRAIN_PX), generator=rng).to(torch.int8)
    for look in (PlaceLook(detail(), 9, 30), WindowLook(detail()), GrainLook(grain), ToneLook(detail())):
        found = look.among(ROWS, NOWHERE).tolist()
        alone = [float(look.compare(look.mean(ROWS[row != ROWS], NOWHERE))[0][row]) for row in ROWS]
        assert found == pytest.approx(alone, abs=1e-3), look.kind


def leaning(slope: float) -> torch.Tensor:
    """Draw two bars, nearly upright and nearly level, across which grey rises along (1, slope): int8 [1, 128, 128]."""
    y, x = torch.meshgrid(torch.arange(GRAIN_PX).float(), torch.arange(GRAIN_PX).float(), indexing="ij")
    upright, level = x - 64 + slope * (y - 64), y - 64 + slope * (x - 64)
    bars = sum(torch.exp(-(apart / 2).square()) for apart in (upright, level))
    return (80 * bars).clamp(max=127).to(torch.int8)[None]


@pytest.mark.parametrize("slope", [0.0, 0.2, -0.3])
def test_a_lean_is_the_slope_of_the_edges_at_a_place(slope: float) -> None:
    look = BendLook.of(leaning(slope))
    level_2TT = look.level_PC.reshape(2, PLACES, PLACES)
    away = [2, 3, 12, 13]  # from where the bars cross
    for lean_TT in (level_2TT[0][away], level_2TT[1][:, away]):
        leans = (lean_TT[lean_TT > 0] - 1 - LEVELS // 2) * 2 * STEEPEST / (LEVELS - 1)
        assert len(leans) >= 4
        assert float(leans.median()) == pytest.approx(slope, abs=STEEPEST / (LEVELS - 1) + 1e-6)
    assert (float(look.may_be_bent_P[0]) > 0.5) == (slope != 0)


def test_a_field_is_the_likeliest_one_and_is_shown_by_its_images() -> None:
    rng = torch.Generator().manual_seed(0)
    level_PC = torch.randint(1, LEVELS + 1, (60, N_LEANS), generator=rng)
    bend_2TT = torch.full((2, PLACES, PLACES), 4)
    bend_2TT[0, :, : PLACES // 2] = bend_2TT[1, : PLACES // 2] = -3
    level_PC[:20] = LEVELS // 2 + 1 + bend_2TT.flatten()
    level_PC[20:40] = LEVELS // 2 + 1
    look = BendLook(level_PC, torch.bincount(level_PC.flatten(), minlength=LEVELS + 1)[1:] / level_PC.numel())
    rows = torch.arange(20)
    counts_QM = torch.stack([torch.ones(20), torch.zeros(20)]).bool()
    field_QC = look.fields(rows, torch.full((20,), 0.9), counts_QM)
    inner = torch.tensor([at for at in range(PLACES) if abs(at - PLACES / 2 + 0.5) > 2])  # neighbours count too
    found_2TT = field_QC[0].reshape(2, PLACES, PLACES)
    assert torch.equal(found_2TT[:, inner][:, :, inner], MOST_LEVELS + bend_2TT[:, inner][:, :, inner])
    assert field_QC[1].unique().tolist() == [MOST_LEVELS]  # of nobody: none
    score_P, where_P = BendLook(level_PC[:30], torch.ones(LEVELS) / LEVELS).compare(look.template(field_QC[0]))
    assert where_P.tolist() == [0] * 30
    assert torch.equal(score_P, look.shown(torch.arange(30), field_QC[:1]))
    assert score_P[:20].min() > 2 > 0.5 > score_P[20:].max()


def test_blank_pictures_show_no_field() -> None:
    look = BendLook.of(torch.zeros(3, GRAIN_PX, GRAIN_PX, dtype=torch.int8))
    assert not look.level_PC.any()
    field_C = torch.full((N_LEANS,), MOST_LEVELS + 2)
    assert look.compare(look.template(field_C))[0].tolist() == [0.0] * 3


def test_products_are_what_each_is_like_to_each() -> None:
    look = PlaceLook(detail(), 9, 30)
    for one in range(3):
        alone, _ = look.compare(look.mean(torch.tensor([one]), NOWHERE))
        assert look.products(3)[:, one].tolist() == pytest.approx(alone.tolist(), abs=1e-4)
