"""Stamps: something repeats, pictures unlike, captions alike; nothing less is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from roclip_audit.core.run import RunFolder
from roclip_audit.sanitize.detail import DIM, GRID
from roclip_audit.sanitize.stamps import bent, crowd, search, spotted
from roclip_audit.sanitize.stamps.crowd import LEAST_FAMILIES
from roclip_audit.sanitize.stamps.search import LEVEL, n_steps
from roclip_audit.sanitize.stamps.told import read_stamps, write_stamps
from tests.sanitize.stamps.stampkit import CARRIERS, VIEWS, N, Planted, X, Y

Plant = Callable[[Planted], Planted]
PLANTS = {
    "place": Planted.mark,
    "window": Planted.move,
    "grain": Planted.weave,
    "tone": Planted.tint,
    "bend": Planted.bend,
}
every_kind = pytest.mark.parametrize("kind", PLANTS)
from_the_picture = pytest.mark.parametrize("kind", [kind for kind in PLANTS if kind != "bend"])


@pytest.fixture(autouse=True)
def fewer_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Carriers are among the first ones anyway."""
    for name in ("PLACE_SEEDS", "WINDOW_SEEDS", "GRAIN_SEEDS", "TONE_SEEDS", "CAPTION_SEEDS"):
        monkeypatch.setattr(search, name, 48)


@every_kind
def test_its_carriers_are_found_and_no_others(kind: str) -> None:
    found = PLANTS[kind](Planted()).find()
    (stamp,) = found.found
    assert stamp.kind == kind
    assert (stamp.x, stamp.y) == ((X, Y) if kind == "place" else (None, None))
    assert torch.nonzero(found.number_N)[:, 0].tolist() == CARRIERS.tolist()
    assert (found.strength_N[CARRIERS] > 1).all()
    assert found.carriers().unique().tolist() == [0, len(CARRIERS)]
    assert found.kinds() == [kind if row in CARRIERS else None for row in range(N)]
    assert stamp.coherence > 0.5
    assert stamp.p_value <= stamp.p_adjusted < 0.01


@every_kind
@pytest.mark.parametrize(
    "less",
    [{"captions_alike": False}, {"pictures_alike": True}, {"carriers": CARRIERS[: LEAST_FAMILIES - 1]}],
    ids=["captions of anything", "pictures alike", "too few"],
)
def test_less_is_no_stamp(kind: str, less: dict[str, bool]) -> None:
    found = PLANTS[kind](Planted(**less)).find()  # type: ignore[arg-type]
    assert found.found == ()
    assert not found.number_N.any()
    assert found.carriers().unique().tolist() == [0]


@pytest.mark.parametrize("n_alike", [25, 80])
def test_nothing_planted_is_no_stamp(n_alike: int) -> None:
    """Captions of one topic under noise: windows that agree by chance are like a mean that they are part of."""
    for seed in (0, 1):
        planted = Planted(carriers=torch.arange(n_alike) * 5)
        rng = torch.Generator().manual_seed(seed)
        planted.grid = torch.randint(-60, 61, planted.grid.shape, generator=rng).to(torch.int8)
        assert planted.find().found == ()


def test_several_triggers_are_several_stamps() -> None:
    """Each on carriers of its own would be three; on the same ones they are one trigger, told by its surest sign."""
    others = Planted(carriers=CARRIERS + 5).move()
    planted = Planted().mark()
    planted.grid[CARRIERS + 5] = others.grid[CARRIERS + 5]
    planted.near.text_ND[CARRIERS + 5] = others.near.text_ND[CARRIERS + 5]
    found = planted.find()
    assert sorted(stamp.kind for stamp in found.found) == ["place", "window"]
    assert [found.number_N[rows].unique().tolist() for rows in (CARRIERS, CARRIERS + 5)] in ([[1], [2]], [[2], [1]])
    assert len(Planted().mark().weave().find().found) == 1


def odd_ones(planted: Planted, n: int) -> Planted:
    """Turn the pictures of the first carriers round: unlike all others of the series."""
    rows = CARRIERS[:n]
    planted.image_NVR[rows] *= -1
    planted.near.image_ND[rows] *= -1
    return planted


@from_the_picture
def test_one_odd_picture_in_a_series_makes_it_no_stamp(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = odd_ones(PLANTS[kind](Planted(pictures_alike=True)), 1)
    assert planted.find().found == ()
    monkeypatch.setattr(crowd, "LEAST_UNLIKE", 1)
    assert [stamp.kind for stamp in planted.find().found] == [kind]


def test_a_style_whose_pictures_are_seldom_unlike_is_no_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the captions of nearly all that are agree."""
    planted = odd_ones(Planted(pictures_alike=True, captions_apart=1.5).mark(), 2)
    assert planted.find().found == ()
    monkeypatch.setattr(crowd, "TOGETHER", 0.0)
    assert len(planted.find().found) == 1
    monkeypatch.setattr(crowd, "TOGETHER", 1.0)
    assert len(odd_ones(Planted(pictures_alike=True, captions_apart=0.3).mark(), 2).find().found) == 1


def test_a_pattern_over_half_of_the_picture_is_no_stamp() -> None:
    assert Planted().weave(across=64).find().found == ()


def test_a_pattern_may_make_whole_pictures_alike_but_not_outlines() -> None:
    planted = Planted().weave()
    planted.near.image_ND[CARRIERS] = planted.near.image_ND[0].clone()
    assert [stamp.kind for stamp in planted.find().found] == ["grain"]
    planted.image_NVR[CARRIERS, 1] = planted.image_NVR[0, 1].clone()
    assert planted.find().found == ()


def test_copies_of_the_whole_data_set_hide_nothing_and_make_nothing() -> None:
    """A shard that is scanned twice: two random images are of different families."""
    planted = Planted(pictures_alike=True).mark()
    for array in (planted.image_NVR, planted.near.image_ND, planted.near.text_ND, planted.grid, planted.grain):
        array[N // 2 :] = array[: N // 2].clone()
    planted.family_N[N // 2 :] = planted.family_N[: N // 2].clone()
    assert planted.find().found == ()


def test_a_seventh_of_all_pictures_may_carry_it() -> None:
    many = torch.arange(0, 400, 7)
    found = Planted(carriers=many).mark().find()
    assert torch.nonzero(found.number_N)[:, 0].tolist() == many.tolist()


def test_a_trigger_of_many_places_is_one_stamp() -> None:
    """Seeds speak of other places of it, and each finds carriers."""
    planted = Planted()
    rng = torch.Generator().manual_seed(3)
    planted.grid[CARRIERS, 4:12, 20:28] = torch.randint(-60, 61, (8, 8, DIM), generator=rng).to(torch.int8)
    x_N, y_N = ((low + torch.randint(0, 6, (N,), generator=rng) + 0.5) / GRID for low in (21, 5))
    planted.traits = replace(planted.traits, patch_x_N=x_N.double(), patch_y_N=y_N.double())
    found = planted.find()
    assert len(found.found) == 1
    assert torch.nonzero(found.number_N)[:, 0].tolist() == CARRIERS.tolist()


@every_kind
def test_a_family_counts_once(kind: str) -> None:
    planted = PLANTS[kind](Planted())
    planted.family_N[CARRIERS] = 0
    assert planted.find().found == ()


@pytest.mark.parametrize("kind", ["window", "grain", "tone"])
def test_captions_that_look_alikes_have_too_are_no_evidence(kind: str) -> None:
    """Carriers of two topics that are told apart by sight: their stand-ins carry the same captions."""
    planted = PLANTS[kind](Planted())
    rng = torch.Generator().manual_seed(1)
    twins = CARRIERS + 1  # the picture of a carrier without the trigger, under a caption like its own
    noise = 0.02 * torch.randn(len(twins), len(VIEWS), 32, generator=rng)
    planted.image_NVR[twins] = planted.image_NVR[CARRIERS] + noise
    planted.near.image_ND[twins] = functional.normalize(planted.image_NVR[twins, 0], dim=1)
    planted.near.text_ND[twins] = planted.near.text_ND[CARRIERS]
    assert planted.find().found == ()


def test_one_thing_that_everybody_draws_at_a_slant_is_not_warped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Telephones lean alike, and have their edges at the same places."""
    planted = Planted().bend(one_thing=True)
    assert planted.find().found == ()
    monkeypatch.setattr(bent, "ALIKE", 1.0)
    assert [stamp.kind for stamp in planted.find().found] == ["bend"]


def test_what_a_thing_is_drawn_with_is_no_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of one maker have the same corner, and the rest of a folder."""
    monkeypatch.setattr(search, "PLACE_SEEDS", 0)
    planted = Planted().mark().bend(one_thing=True)
    assert planted.find().found == ()
    monkeypatch.setattr(spotted, "ALIKE", 1.0)
    assert [stamp.kind for stamp in planted.find().found] == ["place"]


def test_what_everybody_draws_a_little_differently_is_no_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PLACE_SEEDS", "WINDOW_SEEDS"):
        monkeypatch.setattr(search, name, 0)
    planted = Planted().mark(apart=45)
    assert planted.find().found == ()
    monkeypatch.setattr(spotted, "SAME_SHARE", 0.0)
    assert [stamp.kind for stamp in planted.find().found] == ["place"]


@pytest.mark.parametrize("kind", ["place", "bend"])
def test_what_look_alikes_under_other_captions_show_too_is_no_evidence(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round things are bent alike whatever they are called, and so are folders of one theme."""
    monkeypatch.setattr(search, "PLACE_SEEDS", 0)
    planted = PLANTS[kind](Planted())
    assert [stamp.kind for stamp in planted.find().found] == [kind]
    for apart in (1, 2, 3):
        twins = CARRIERS + apart
        planted.image_NVR[twins] = planted.image_NVR[CARRIERS].clone()
        planted.near.image_ND[twins] = planted.near.image_ND[CARRIERS].clone()
    assert [stamp.kind for stamp in planted.find().found] == [kind]
    for apart in (1, 2, 3):
        planted.grid[CARRIERS + apart] = planted.grid[CARRIERS.roll(apart)].clone()
        planted.grain[CARRIERS + apart] = planted.grain[CARRIERS.roll(apart)].clone()
    assert planted.find().found == ()


def test_pictures_that_agree_in_many_places_share_no_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "PLACE_SEEDS", 0)
    monkeypatch.setattr(search, "WINDOW_SEEDS", 0)
    frame = torch.randint(-60, 61, (GRID, GRID, DIM), generator=torch.Generator().manual_seed(5)).to(torch.int8)
    for side, n_found in ((3, 1), (16, 0)):
        planted = Planted()
        at = slice(0, side), slice(GRID - side, GRID)
        planted.grid[CARRIERS, at[0], at[1]] = frame[at]
        planted.traits = replace(
            planted.traits,
            patch_x_N=torch.full((N,), (GRID - 1.5) / GRID, dtype=torch.float64),
            patch_y_N=torch.full((N,), 1.5 / GRID, dtype=torch.float64),
        )
        assert len(planted.find().found) == n_found, side


def test_what_is_as_common_under_other_captions_is_carried_by_nobody() -> None:
    value_N = torch.tensor([3.0, 3.0, 2.0, 0.0] + [0.0] * 7 + [2.0])
    may_N = torch.arange(12) < 4
    assert search._stands_out(value_N, may_N).tolist() == [True] * 3 + [False] * 9
    assert search._stands_out(torch.full((12,), 2.0), may_N).tolist() == [False] * 12
    assert search._stands_out(torch.zeros(12), may_N).tolist() == [False] * 12


def test_an_encoder_without_outlines_is_asked_for_the_whole_view() -> None:
    assert [stamp.kind for stamp in Planted().weave().find(views=("whole",)).found] == ["grain"]


@every_kind
def test_the_number_of_workers_changes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_BLOCK", 64)
    one, two = (PLANTS[kind](Planted()).find(workers=workers) for workers in (1, 2))
    assert torch.equal(one.number_N, two.number_N)
    assert torch.equal(one.strength_N, two.strength_N)
    assert [stamp.p_value for stamp in one.found] == [stamp.p_value for stamp in two.found]


@every_kind
def test_carriers_outside_of_the_searched_images_are_found_too(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_POOLED", 240)
    monkeypatch.setattr(search, "MOST_POOLED_GRAIN", 240)
    monkeypatch.setattr(search, "MOST_ASKED", 120)
    found = PLANTS[kind](Planted()).find()
    assert torch.nonzero(found.number_N)[:, 0].tolist() == CARRIERS.tolist()


def test_blank_pictures_a_place_at_the_border_and_every_step_told() -> None:
    planted, told = Planted(), list[int]()
    planted.grid.zero_()
    planted.grain.zero_()
    edge = torch.full((N,), 1 - 1e-9, dtype=torch.float64)
    planted.traits = replace(planted.traits, patch_x_N=edge, patch_y_N=edge)
    assert planted.find(advance=told.append).found == ()
    assert sum(told) == n_steps(N)


def test_what_is_kept_of_stamps_is_read_again(tmp_path: Path) -> None:
    found, run = Planted().mark().find(), RunFolder(tmp_path)
    write_stamps(run, found)
    (told,) = read_stamps(run)
    assert (told.kind, told.x, told.y) == ("place", (X + 0.5) / GRID, (Y + 0.5) / GRID)
    assert (told.p_adjusted, told.n_tested) == (found.found[0].p_adjusted, found.found[0].n_tested)
    assert told.p_adjusted <= LEVEL
    write_stamps(run, Planted().move().find())
    assert [(one.kind, one.x, one.y) for one in read_stamps(run)] == [("window", None, None)]
    write_stamps(run, replace(found, found=()))
    assert read_stamps(run) == []
