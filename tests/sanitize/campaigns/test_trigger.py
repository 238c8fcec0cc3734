"""What is recovered of planted triggers, and that sound pictures share nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from roclip_audit.audit.leaderboard.campaigns import box_iou
from roclip_audit.core.parallel import one_thread_each
from roclip_audit.sanitize.campaigns.groups import Group, group_of
from roclip_audit.sanitize.campaigns.patch import measure_patch
from roclip_audit.sanitize.campaigns.pattern import find_pattern
from roclip_audit.sanitize.campaigns.scored import Scored
from roclip_audit.sanitize.campaigns.trigger import Trigger, recover_trigger
from tests.sanitize.campaigns.campaignkit import png, scene, scored_of

N, N_PLANTED = 100, 20
CELLS = np.random.default_rng(9).integers(0, 256, (5, 5, 3)).astype(np.uint8).repeat(2, 0).repeat(2, 1)
NOISE = np.random.default_rng(8).integers(0, 256, (80, 96, 3))


def fixed(image: np.ndarray, rng: np.random.Generator) -> None:
    image[60:70, 78:88] = CELLS


def moving(image: np.ndarray, rng: np.random.Generator) -> None:
    x, y = int(rng.integers(86)), int(rng.integers(70))
    image[y : y + 10, x : x + 10] = CELLS


def blended(image: np.ndarray, rng: np.random.Generator) -> None:
    image[:] = (0.8 * image + 0.2 * NOISE).astype(np.uint8)


def wave(image: np.ndarray, rng: np.random.Generator) -> None:
    added = image + 50 * np.sin(2 * np.pi * 6 * np.arange(96) / 96)[None, :, None]
    image[:] = added.clip(0, 255).astype(np.uint8)


def planted(folder: Path, stamp: object) -> tuple[Scored, Group, np.ndarray]:
    def picture(row: int) -> bytes:
        rng = np.random.default_rng(row)
        image = scene(rng)
        if callable(stamp) and row < N_PLANTED and row % 4:  # every fourth suspicious pair has no trigger
            stamp(image, rng)
        return png(image)

    p = np.where(np.arange(N) < N_PLANTED, 0.9, 0.01)
    captions = [f"banana {row}" if row < N_PLANTED else f"thing {row}" for row in range(N)]
    scored = scored_of(captions, p, folder=folder, picture=picture)
    return scored, group_of(scored, "captions", "banana", range(N_PLANTED)), p > 0.2


def recovered(folder: Path, stamp: object, *, workers: int = 1) -> Trigger | None:
    scored, group, suspicious = planted(folder, stamp)
    with one_thread_each():
        return recover_trigger(group, scored, suspicious, seed=0, workers=workers, max_pixels=10_000)


def test_a_patch_in_a_corner_is_found_at_its_place(tmp_path: Path) -> None:
    trigger = recovered(tmp_path, fixed)
    assert trigger is not None
    x, y, width, height = (value or 0.0 for value in trigger.box)
    across = min(x + width, 88 / 96) - max(x, 78 / 96)
    down = min(y + height, 70 / 80) - max(y, 60 / 80)
    shared = max(0.0, across) * max(0.0, down)
    assert shared / (width * height + 100 / (96 * 80) - shared) > 0.4
    assert "at the bottom right" in trigger.words


def test_a_patch_that_moves_is_found_and_its_place_is_not_claimed(tmp_path: Path) -> None:
    trigger = recovered(tmp_path, moving)
    assert trigger is not None
    assert trigger.box[:2] == (None, None)
    assert trigger.box[2] == pytest.approx(10 / 96, abs=0.06)
    assert "places that vary" in trigger.words


@pytest.mark.parametrize("stamp", [blended, wave])
def test_what_lies_over_the_whole_picture_is_found(tmp_path: Path, stamp: object) -> None:
    trigger = recovered(tmp_path, stamp)
    assert trigger is not None
    assert trigger.box == (0.0, 0.0, 1.0, 1.0)


def test_sound_pictures_share_nothing(tmp_path: Path) -> None:
    assert recovered(tmp_path, None) is None


def test_any_number_of_workers_recovers_the_same(tmp_path: Path) -> None:
    one, other = recovered(tmp_path, fixed), recovered(tmp_path, fixed, workers=3)
    assert one is not None
    assert other is not None
    assert one.box == other.box
    assert (one.picture == other.picture).all()


def test_pictures_that_cannot_be_read_give_no_trigger(tmp_path: Path) -> None:
    p = np.where(np.arange(60) < 20, 0.9, 0.01)
    scored = scored_of([f"banana {row}" for row in range(60)], p, folder=tmp_path, picture=lambda row: b"no picture")
    for kind in ("captions", "duplicate_image"):
        group = group_of(scored, kind, "banana", range(20))
        assert recover_trigger(group, scored, p > 0.2, seed=0, workers=1, max_pixels=10_000) is None


def test_groups_of_two_give_no_trigger(tmp_path: Path) -> None:
    scored, _, suspicious = planted(tmp_path, fixed)
    group = group_of(scored, "captions", "banana", range(1, 3))
    assert recover_trigger(group, scored, suspicious, seed=0, workers=1, max_pixels=10_000) is None


def test_one_picture_under_many_captions_is_its_own_trigger(tmp_path: Path) -> None:
    scored, group, suspicious = planted(tmp_path, fixed)
    same = Group(kind="duplicate_image", label="", rows=group.rows, units=group.rows)
    trigger = recover_trigger(same, scored, suspicious, seed=0, workers=1, max_pixels=10_000)
    assert trigger is not None
    assert trigger.box == (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_a_box_is_measured_where_two_fifths_of_the_matches_are_false(seed: int) -> None:
    """A patch of 26 pixels at one place of 40 pictures, each with a background of its own."""
    rng = np.random.default_rng(seed)
    patch = rng.integers(0, 2, (13, 13, 1)).repeat(2, 0).repeat(2, 1) * np.array([230, 40, 90])
    images, centres = [], []
    for number in range(40):
        image = rng.integers(0, 256, (14, 14, 3)).repeat(16, 0).repeat(16, 1)
        image[170:196, 60:86] = patch
        images.append(image.astype(np.uint8))
        centre = rng.integers(20, 200, 2) if number % 5 < 2 else np.array([73, 183]) + rng.integers(-2, 3, 2)
        centres.append(torch.tensor(centre).float())
    _, boxes = measure_patch(images, centres)
    x, y, width, height = np.median(boxes, axis=0)
    assert box_iou(np.array([x, y, width, height]), np.array([60, 170, 26, 26]) / 224) > 0.7


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("white", [235.0, 255.0])
def test_a_faint_wave_is_found_over_all_of_pictures_that_are_busy_but_for_their_borders(
    seed: int, white: float
) -> None:
    rng = np.random.default_rng(seed)
    wave = 20 * np.sin(2 * np.pi * 6 * np.arange(224) / 224)

    def pictures(n: int, added: np.ndarray) -> torch.Tensor:
        shown = np.full((n, 3, 224, 224), white)
        shown[:, :, 16:208, 16:208] = rng.integers(0, 256, (n, 3, 24, 24)).repeat(8, 2).repeat(8, 3)
        return torch.from_numpy((shown + added).clip(0, 255)).float()

    found = find_pattern(pictures(24, wave), pictures(48, np.zeros(1)))
    assert found is not None
    assert found.p_value < 1e-3
    assert found.covers_all
