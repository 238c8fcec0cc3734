"""Re-paired controls: another pair of the same stratum, differing wherever it can."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roclip_audit.sanitize.repair import repair


def badness(row: int, partner: int, avoid: tuple[Tensor, ...]) -> list[bool]:
    """Return what clashes, most important first; lists compare as the clashes do."""
    return [bool(number[row] == number[partner]) for number in avoid]


numbers = st.integers(0, 4)


@given(
    st.lists(st.tuples(st.integers(0, 3), numbers, numbers, numbers), max_size=25),
    st.integers(1, 4),
    st.integers(0, 99),
)
@settings(max_examples=60)
def test_every_partner_is_the_best_the_stratum_allows(
    pairs: list[tuple[int, int, int, int]], n_controls: int, seed: int
) -> None:
    stratum, *columns = (
        (torch.tensor(column, dtype=torch.int64) for column in zip(*pairs, strict=True))
        if pairs
        else [torch.empty(0, dtype=torch.int64)] * 4
    )
    avoid = tuple(columns)
    control = repair(stratum, avoid, n_controls, np.random.default_rng(seed))
    assert control.shape == (len(pairs), n_controls)
    assert control.dtype == torch.int64
    for row, partners in enumerate(control.tolist()):
        others = [x for x in range(len(pairs)) if x != row]
        at_home = [x for x in others if stratum[x] == stratum[row]]
        for partner in partners:
            if not others:
                assert partner == row
                continue
            assert partner in (at_home or others)
            assert badness(row, partner, avoid) == min(badness(row, x, avoid) for x in at_home or others)


def test_partners_are_drawn_evenly() -> None:
    control = repair(torch.zeros(20, dtype=torch.int64), (torch.arange(20),), 4_000, np.random.default_rng(0))
    counts = torch.stack([torch.bincount(row, minlength=20) for row in control])
    assert (counts.diagonal() == 0).all()
    expected = 4_000 / 19
    chi = ((counts - expected) ** 2 / expected)[~torch.eye(20, dtype=torch.bool)].sum()
    assert 240 < chi < 450  # 20 rows of 18 degrees of freedom: mean 360, deviation 27


def test_partners_found_at_the_last_resort_are_drawn_evenly_too() -> None:
    """1,000 pairs of one caption, 4 of others: random draws hardly ever find these."""
    caption = torch.zeros(1_004, dtype=torch.int64)
    caption[1_000:] = torch.arange(1, 5)
    control = repair(torch.zeros(1_004, dtype=torch.int64), (caption,), 8, np.random.default_rng(0))
    assert (caption[control] != caption[:, None]).all()
    share = torch.bincount(control[:1_000].flatten(), minlength=1_004)[1_000:] / 8_000
    assert ((share - 0.25).abs() < 0.03).all()


def test_more_than_a_sample_of_candidates() -> None:
    n = 9_000
    caption = torch.zeros(n, dtype=torch.int64)
    caption[::3] = 1
    cluster = torch.zeros(n, dtype=torch.int64)  # cannot be avoided
    rng = np.random.default_rng(0)
    control = repair(torch.zeros(n, dtype=torch.int64), (caption, cluster), 2, rng)
    assert (caption[control] != caption[:, None]).all()


def test_the_generator_decides() -> None:
    stratum, avoid = torch.arange(300) % 3, (torch.arange(300) // 2,)
    one, same, other = (repair(stratum, avoid, 3, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
