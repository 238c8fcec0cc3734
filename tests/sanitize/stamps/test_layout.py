"""Where images have edges, held against random pairs."""

from __future__ import annotations

import pytest
import torch

from roclip_audit.sanitize.stamps.bend import N_LEANS, PLACES
from roclip_audit.sanitize.stamps.layout import Layout

P = 300


def random_edges() -> torch.Tensor:
    return torch.rand(P, N_LEANS, generator=torch.Generator().manual_seed(0)) < 0.3


def test_random_images_are_as_alike_as_random_pairs() -> None:
    layout = Layout(random_edges(), torch.arange(P))
    shares = [layout.alike(torch.arange(first, P, 10)) for first in range(10)]
    assert sum(shares) / 10 == pytest.approx(0.5, abs=0.02)


def test_images_with_edges_at_the_same_places_are_alike_unless_those_do_not_count() -> None:
    edges_PC = random_edges()
    grid_P2YX = edges_PC.reshape(P, 2, PLACES, PLACES)
    grid_P2YX[:20, :, 2:7, 9:14] = grid_P2YX[0, :, 2:7, 9:14].clone()
    layout, rows = Layout(edges_PC, torch.arange(P)), torch.arange(20)
    assert layout.alike(rows) > 0.8
    assert layout.alike(rows, (23, 8)) == pytest.approx(0.5, abs=0.08)
    assert layout.alike(rows, (2, 29)) > 0.8


def test_a_family_says_nothing_of_random_pairs() -> None:
    """Half of the images are one picture: against other families they are more alike than any two."""
    edges_PC = random_edges()
    edges_PC[::2] = edges_PC[0].clone()
    family_P = torch.arange(P)
    family_P[::2] = 0
    assert Layout(edges_PC, family_P).alike(torch.arange(0, 40, 2)) == 1.0


def test_how_many_edges_images_have_does_not_matter() -> None:
    """Drawings of few lines are not alike by that, nor are busy ones, nor blank ones."""
    often_P = torch.linspace(0.02, 0.6, P)
    edges_PC = torch.rand(P, N_LEANS, generator=torch.Generator().manual_seed(1)) < often_P[:, None]
    edges_PC[-10:] = False
    layout = Layout(edges_PC, torch.arange(P))
    for rows in (torch.arange(30), torch.arange(250, 280)):
        assert layout.alike(rows) == pytest.approx(0.5, abs=0.06)
    assert layout.alike(torch.arange(P - 10, P)) == pytest.approx(0.5, abs=0.1)


def test_a_patch_of_a_quarter_does_not_count_even_by_its_corner() -> None:
    edges_PC = random_edges()
    grid_P2YX = edges_PC.reshape(P, 2, PLACES, PLACES)
    grid_P2YX[:30, :, 8:12, 8:12] = True
    layout, rows = Layout(edges_PC, torch.arange(P)), torch.arange(30)
    for corner in ((16, 16), (23, 16), (16, 23), (23, 23)):
        assert layout.alike(rows, corner) == pytest.approx(0.5, abs=0.08)


def test_a_data_set_of_blank_images_has_no_pair_less_alike() -> None:
    assert Layout(torch.zeros(P, N_LEANS, dtype=torch.bool), torch.arange(P)).alike(torch.arange(9)) == 0.0
    assert Layout(torch.zeros(4, N_LEANS, dtype=torch.bool), torch.zeros(4)).alike(torch.arange(2)) == 0.0
