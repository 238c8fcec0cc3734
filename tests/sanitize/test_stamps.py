"""Stamps: one detail at one place, pictures unlike, captions alike; nothing less is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.core.run import RunFolder
from roclip_audit.sanitize import stamps
from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.detail import DIM, GRID, N_PLACES
from roclip_audit.sanitize.stamps import LEAST_FAMILIES, Stamps, find_stamps, n_seeds, read_stamps, write_stamps
from roclip_audit.sanitize.traits import Traits

N, X, Y = 400, 27, 5
CARRIERS = torch.arange(0, 400, 16)  # 25


class Planted:
    """Random pictures and captions; some show one detail at one place. Seeds are the carriers, and a few others."""

    def __init__(
        self, *, captions_alike: bool = True, pictures_alike: bool = False, carriers: Tensor = CARRIERS
    ) -> None:
        rng = torch.Generator().manual_seed(0)
        grid = torch.randint(-60, 61, (N, GRID, GRID, DIM), generator=rng)
        mark = torch.randint(-60, 61, (3, 3, DIM), generator=rng)
        noise = torch.randint(-15, 16, (len(carriers), 3, 3, DIM), generator=rng)
        grid[carriers, Y - 1 : Y + 2, X - 1 : X + 2] = mark + noise
        image_ND, text_ND = (torch.randn(N, 32, generator=rng) for _ in range(2))
        if captions_alike:
            text_ND[carriers] = text_ND[0] + 0.7 * text_ND[carriers]
        if pictures_alike:
            image_ND[carriers] = image_ND[0] + 0.3 * image_ND[carriers]
        self.detail_N = RowArray.of([grid.to(torch.int8).reshape(N, N_PLACES, DIM).numpy()])
        nothing = torch.zeros(N, 1)
        self.near = Neighbourhood(
            image_ND=functional.normalize(image_ND, dim=1),
            text_ND=functional.normalize(text_ND, dim=1),
            image_similarity_NK=nothing,
            image_index_NK=nothing.long(),
            caption_similarity_CK=nothing,
            caption_index_CK=nothing.long(),
            caption_N=torch.arange(N),
            group_N=torch.arange(N),
        )
        patch_N = torch.rand(N, generator=rng, dtype=torch.float64)
        patch_N[carriers[::4]] += 1
        self.traits = Traits(
            texture_N=torch.zeros(N),
            patch_N=patch_N,
            patch_x_N=torch.full((N,), (X + 0.5) / GRID, dtype=torch.float64),
            patch_y_N=torch.full((N,), (Y + 0.5) / GRID, dtype=torch.float64),
            p_N=torch.ones(N),
        )
        self.family_N = torch.arange(N)

    def find(self, *, workers: int = 1) -> Stamps:
        return find_stamps(self.detail_N, self.near, self.traits, self.family_N, workers=workers)


def test_its_carriers_are_found_and_no_others() -> None:
    found = Planted().find()
    (stamp,) = found.found
    assert (stamp.x, stamp.y) == (X, Y)
    assert torch.nonzero(found.number_N)[:, 0].tolist() == CARRIERS.tolist()
    assert (found.strength_N[CARRIERS] > 1).all()
    assert found.carriers().unique().tolist() == [0, len(CARRIERS)]
    assert stamp.coherence > 0.5
    assert stamp.p_value * found.n_tested < 0.01


@pytest.mark.parametrize(
    "planted",
    [
        Planted(captions_alike=False),
        Planted(pictures_alike=True),
        Planted(carriers=CARRIERS[: LEAST_FAMILIES - 1]),
    ],
    ids=["captions of anything", "pictures alike", "too few"],
)
def test_less_is_no_stamp(planted: Planted) -> None:
    found = planted.find()
    assert found.found == ()
    assert not found.number_N.any()
    assert found.n_tested > 0


def test_one_odd_picture_in_a_series_makes_it_no_stamp() -> None:
    planted, odd = Planted(pictures_alike=True), int(CARRIERS[3])
    unlike_D = torch.randn(32, generator=torch.Generator().manual_seed(7))
    planted.near.image_ND[odd] = functional.normalize(unlike_D, dim=0)
    assert planted.find().found == ()


def test_a_seventh_of_all_pictures_may_carry_it() -> None:
    many = torch.arange(0, 400, 7)
    found = Planted(carriers=many).find()
    assert torch.nonzero(found.number_N)[:, 0].tolist() == many.tolist()


def test_a_trigger_of_many_places_is_one_stamp() -> None:
    """Seeds speak of other places of it, and each finds carriers."""
    planted = Planted()
    grid = planted.detail_N.parts[0].reshape(N, GRID, GRID, DIM)
    rng = torch.Generator().manual_seed(3)
    mark = torch.randint(-60, 61, (8, 8, DIM), generator=rng).to(torch.int8).numpy()
    grid[CARRIERS.numpy(), 4:12, 20:28] = mark
    x_N, y_N = ((low + torch.randint(0, 6, (N,), generator=rng) + 0.5) / GRID for low in (21, 5))
    planted.traits = replace(planted.traits, patch_x_N=x_N.double(), patch_y_N=y_N.double())
    found = planted.find()
    assert len(found.found) == 1
    assert torch.nonzero(found.number_N)[:, 0].tolist() == CARRIERS.tolist()


def test_a_family_counts_once() -> None:
    planted = Planted()
    planted.family_N[CARRIERS] = 0
    assert planted.find().found == ()


def test_captions_that_look_alikes_have_too_are_no_evidence() -> None:
    """Carriers of two topics that are told apart by sight: their stand-ins carry the same captions."""
    planted = Planted()
    rng = torch.Generator().manual_seed(1)
    twins = CARRIERS + 1  # the picture of a carrier without the detail, under a caption like its own
    noise = 0.02 * torch.randn(len(twins), 32, generator=rng)
    planted.near.image_ND[twins] = functional.normalize(planted.near.image_ND[CARRIERS] + noise, dim=1)
    planted.near.text_ND[twins] = planted.near.text_ND[CARRIERS]
    assert planted.find().found == ()


def test_the_number_of_workers_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "_BLOCK", 64)
    one, two = (Planted().find(workers=workers) for workers in (1, 2))
    assert torch.equal(one.number_N, two.number_N)
    assert torch.equal(one.strength_N, two.strength_N)
    assert [stamp.p_value for stamp in one.found] == [stamp.p_value for stamp in two.found]


def test_carriers_outside_of_the_searched_images_are_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "MOST_POOLED", 200)
    found = Planted().find()
    assert torch.nonzero(found.number_N)[:, 0].tolist() == CARRIERS.tolist()


def test_a_place_at_the_border_and_blank_pictures() -> None:
    planted = Planted()
    edge = torch.full((N,), 1 - 1e-9, dtype=torch.float64)
    blank = RowArray.of([torch.zeros(N, N_PLACES, DIM, dtype=torch.int8).numpy()])
    traits = replace(planted.traits, patch_x_N=edge, patch_y_N=edge)
    found = find_stamps(blank, planted.near, traits, planted.family_N)
    assert found.found == ()
    assert found.n_tested == n_seeds(N)


def test_what_is_kept_of_stamps_is_read_again(tmp_path: Path) -> None:
    found, run = Planted().find(), RunFolder(tmp_path)
    write_stamps(run, found)
    (told,) = read_stamps(run)
    assert (told.x, told.y) == ((X + 0.5) / GRID, (Y + 0.5) / GRID)
    assert told.p_corrected == found.found[0].p_value * found.n_tested
    write_stamps(run, replace(found, found=()))
    assert read_stamps(run) == []
