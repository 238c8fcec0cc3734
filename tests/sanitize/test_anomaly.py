"""Anomaly is the largest of three rank shares, computed here a second way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from roclip_audit.sanitize.anomaly import anomaly

NONE = torch.empty(0, dtype=torch.int64)


@st.composite
def runs(draw: st.DrawFn) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Draw coarse scores, so that ties are common, and duplicate counts."""
    n = draw(st.integers(1, 25))

    def column(low: int, high: int) -> Tensor:
        return torch.tensor(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)))

    scores = {name: column(-3, 3).double() for name in draw(st.sets(st.sampled_from(["k_distance", "lid", "dao"])))}
    copies = column(1, 5)
    return scores, copies, torch.minimum(copies, column(1, 5))


def share_less(values: list[float], x: int) -> float:
    return sum(value < values[x] for value in values) / max(1, len(values) - 1)


def brute(scores: dict[str, Tensor], copies: Tensor, captions: Tensor) -> list[float]:
    n = len(copies)
    density = [round(sum(share_less(one.tolist(), x) for one in scores.values()) * (n - 1), 6) for x in range(n)]
    return [max(share_less(respect, x) for respect in (density, copies.tolist(), captions.tolist())) for x in range(n)]


@given(run=runs())
def test_equals_brute_force_and_lies_between_0_and_1(run: tuple[dict[str, Tensor], Tensor, Tensor]) -> None:
    got = anomaly(*run)
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx(brute(*run))
    assert 0 <= got.min() <= got.max() <= 1


@given(run=runs(), seed=st.integers(0, 99))
def test_order_and_scale_make_no_difference(run: tuple[dict[str, Tensor], Tensor, Tensor], seed: int) -> None:
    scores, copies, captions = run
    order = torch.randperm(len(copies), generator=torch.Generator().manual_seed(seed))
    stretched = {name: score[order].exp() * 1e3 for name, score in reversed(scores.items())}
    assert torch.equal(anomaly(stretched, copies[order], captions[order]), anomaly(scores, copies, captions)[order])


def test_a_lonely_image_a_picture_of_many_captions_and_a_crowd_of_copies_all_stand_out() -> None:
    n = 1_000
    scores = {name: torch.arange(n).double() for name in ("k_distance", "slof")}
    copies, captions = torch.ones(n, dtype=torch.int64), torch.ones(n, dtype=torch.int64)
    copies[:60] = 60  # one picture, one caption, sixty times
    copies[60:80], captions[60:80] = 20, 20  # one picture, twenty captions
    got = anomaly(scores, copies, captions)
    assert got[-1].item() == 1.0
    assert (got[:60] > 0.93).all()
    assert (got[60:80] > 0.97).all()
    assert got[80:900].max().item() < 0.91


def test_without_copies_density_decides() -> None:
    single = torch.ones(11, dtype=torch.int64)
    got = anomaly({"lid": torch.arange(11).double()}, single, single)
    assert got.tolist() == pytest.approx([x / 10 for x in range(11)])


def test_a_run_of_alike_pairs_has_nothing_unusual() -> None:
    five = torch.full((5,), 5)
    assert anomaly({"dao": torch.zeros(5, dtype=torch.float64)}, five, five).tolist() == [0.0] * 5


@pytest.mark.parametrize("n", [0, 1])
def test_tiny_runs(n: int) -> None:
    one = torch.ones(n, dtype=torch.int64)
    assert anomaly({"dao": torch.ones(n, dtype=torch.float64)}, one, one).tolist() == [0.0] * n
    assert anomaly({}, one, one).tolist() == [0.0] * n


def test_refuses_other_lengths_and_what_is_not_finite() -> None:
    two = torch.ones(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="not as many"):
        anomaly({"dao": torch.zeros(3)}, two, two)
    with pytest.raises(ValueError, match="not as many"):
        anomaly({}, two, NONE)
    with pytest.raises(ValueError, match="scores of dao are not finite"):
        anomaly({"dao": torch.tensor([0.0, torch.nan])}, two, two)
