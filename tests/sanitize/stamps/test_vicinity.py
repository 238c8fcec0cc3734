"""Images of similar captions, and what they are held against."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from roclip_audit.sanitize.stamps.crowd import Crowd
from roclip_audit.sanitize.stamps.vicinity import COVERED, MATES, N_STAND_INS, Beside, held_out_p, vicinities


def crowd_of(text_PD: torch.Tensor, family_P: torch.Tensor | None = None) -> Crowd:
    n = len(text_PD)
    image_PD = functional.normalize(torch.randn(n, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    return Crowd(
        rows=torch.arange(n),
        is_ordinary_P=torch.ones(n, dtype=torch.bool),
        family_P=torch.arange(n) if family_P is None else family_P,
        text_PD=text_PD,
        text_unit=1.0,
        views=(image_PD,),
        likeness=(0.0,),
    )


def test_equal_captions_are_looked_at_in_turn() -> None:
    """Half of the data has one caption: ties must not choose the same images again and again."""
    text_PD = functional.normalize(torch.randn(600, 512, generator=torch.Generator().manual_seed(0)), dim=1)
    text_PD[:300] = text_PD[0]
    found = vicinities(crowd_of(text_PD), 1_000)
    of_one = [mates for mates in found if int((mates < 300).sum()) > MATES // 2]
    assert 300 // MATES <= len(of_one) <= 300 // COVERED + 1
    assert len(torch.cat(of_one).unique()) > 280
    assert max(len(mates) for mates in found) == MATES


def test_a_vicinity_has_one_image_a_family_and_enough_of_them() -> None:
    text_PD = functional.normalize(torch.randn(90, 512, generator=torch.Generator().manual_seed(0)), dim=1)
    text_PD[:20], text_PD[20:27] = text_PD[0].clone(), text_PD[20].clone()
    family_P = torch.arange(90)
    family_P[:5] = 0
    (mates,) = vicinities(crowd_of(text_PD, family_P), 1_000)
    assert len(mates) >= 16
    assert int((mates < 5).sum()) == 1
    assert vicinities(crowd_of(text_PD, family_P), 0) == []


def test_stand_ins_look_alike_under_other_captions() -> None:
    text_PD = functional.normalize(torch.randn(60, 512, generator=torch.Generator().manual_seed(0)), dim=1)
    text_PD[:20] = text_PD[0]
    family_P = torch.arange(60)
    family_P[20] = 3
    crowd = crowd_of(text_PD, family_P)
    mates = torch.arange(10)
    stand_in_MK = Beside.of(crowd).stand_ins(mates)
    assert stand_in_MK is not None
    may_be = [row for row in range(60) if float(text_PD[row] @ text_PD[0]) <= 0.3]
    for mate in range(10):
        others = [row for row in may_be if family_P[row] != family_P[mate]]
        nearest = sorted(others, key=lambda row: -float(crowd.views[0][row] @ crowd.views[0][mate]))
        assert stand_in_MK[mate].tolist() == nearest[:N_STAND_INS]
    few_P = torch.zeros(60, dtype=torch.bool)
    few_P[[41, 42]] = True
    first = Beside.of(crowd).stand_ins(mates, few_P)
    assert first is not None
    assert all({41, 42} <= set(row) for row in first.tolist())
    text_PD[:] = text_PD[0]
    assert Beside.of(crowd_of(text_PD)).stand_ins(mates) is None


def test_each_is_held_against_what_was_fitted_without_it() -> None:
    seen: list[tuple[list[int], list[int]]] = []

    def apart(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        seen.append((own.tolist(), other.tolist()))
        return torch.ones(len(other)) + other

    assert held_out_p(apart, 10) == pytest.approx(2.0**-10)
    assert sorted(row for _, other in seen for row in other) == list(range(10))
    assert all(sorted(own + other) == list(range(10)) for own, other in seen)
    assert held_out_p(lambda own, other: None, 10) == 1.0
