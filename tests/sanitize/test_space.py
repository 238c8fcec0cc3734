"""The contest held in a space, against brute force."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roclip_audit.sanitize.contest import ContestConfig
from roclip_audit.sanitize.space import Space, contest
from tests.sanitize.spacekit import Drawn, brute_ranks, draw_space, unit

CONFIG = ContestConfig()


def check(drawn: Drawn) -> None:
    got = contest(drawn.space, drawn.caption_N, drawn.group_N, drawn.control_NR, CONFIG)
    caption_q, image_q, n_nearer, n_captions = brute_ranks(drawn)
    torch.testing.assert_close(got.caption_q_NVR, caption_q)
    torch.testing.assert_close(got.image_q_NVR, image_q)
    assert torch.equal(got.n_nearer_NV, n_nearer)
    assert torch.equal(got.n_captions_N, n_captions)


@given(
    st.integers(0, 25), st.integers(1, 3), st.integers(1, 4), st.sampled_from([0.0, 0.4, 1.0]), st.integers(1, 3),
    st.integers(0, 999),
)  # fmt: skip
@settings(max_examples=20)
def test_equals_brute_force(n: int, n_views: int, n_folds: int, repeats: float, n_controls: int, seed: int) -> None:
    check(draw_space(n, n_views=n_views, n_folds=n_folds, repeats=repeats, n_controls=n_controls, seed=seed))


def test_a_fold_may_be_empty_or_hold_one_pair() -> None:
    drawn = draw_space(12, n_folds=1, seed=3)
    drawn.space.fold_N[:] = torch.tensor([3] * 11 + [1])
    drawn.control_NR[:11] = drawn.control_NR[:11].clamp_max(10)
    drawn.control_NR[11] = 11
    check(drawn)
    got = contest(drawn.space, drawn.caption_N, drawn.group_N, drawn.control_NR, CONFIG)
    assert got.n_captions_N[11] == 0
    assert got.caption_q_NVR[11].tolist() == got.image_q_NVR[11].tolist() == [[0.0] * 3] * 2


def test_repeated_captions_and_groups_count_once() -> None:
    """One rival caption a hundred times over, and one rival image a hundred times over, are one rival each."""
    far, near = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    text = torch.stack([far, *[near] * 100, far])
    image = torch.stack([near, *[far] * 100, near])[:, None]
    space = Space(name="two", image_NVD=image, text_ND=text, fold_N=torch.zeros(102, dtype=torch.int64))
    number = torch.tensor([0, *[1] * 100, 2])
    control = torch.zeros(102, 1, dtype=torch.int64)
    got = contest(space, number, number, control, CONFIG)
    assert got.n_captions_N.tolist() == [2] * 102
    assert got.n_nearer_NV[0, 0] == 1
    assert got.caption_q_NVR[0, 0, 0] == got.image_q_NVR[0, 0, 0] == 0.5
    assert got.caption_q_NVR[1, 0, 0] == 1.0  # both far captions are nearer to a far image than the near one


def test_ties_do_not_beat() -> None:
    rng = torch.Generator().manual_seed(0)
    image, text = unit(300, 1, 64, rng=rng), unit(1, 64, rng=rng).repeat(300, 1)
    space = Space(name="tied", image_NVD=image, text_ND=text, fold_N=torch.zeros(300, dtype=torch.int64))
    number = torch.arange(300)
    got = contest(space, number, number, (number[:, None] + 1) % 300, CONFIG)
    assert got.caption_q_NVR.max() == 0


def test_unrelated_pairs_have_uniform_ranks() -> None:
    drawn = draw_space(800, n_views=1, dim=32, repeats=0.0, n_controls=1, seed=5)
    got = contest(drawn.space, drawn.caption_N, drawn.group_N, drawn.control_NR, CONFIG)
    for q_NVR in (got.caption_q_NVR, got.image_q_NVR):
        for reading in range(2):
            q = q_NVR[:, 0, reading].sort().values
            assert (q - torch.linspace(0, 1, 800)).abs().max() < 1.63 / 800**0.5  # Kolmogorov-Smirnov at 1 %


def test_a_cut_of_the_candidates_estimates_the_same_share() -> None:
    drawn = draw_space(600, n_views=1, dim=8, seed=2)
    full = contest(drawn.space, drawn.caption_N, drawn.group_N, drawn.control_NR, CONFIG)
    few = ContestConfig(max_candidates=150, max_control_candidates=100)
    cut = contest(drawn.space, drawn.caption_N, drawn.group_N, drawn.control_NR, few)
    assert cut.n_captions_N.max() == 150
    assert cut.n_captions_N.min() == 149  # the own one, where it is among them, does not compete
    for one, other in ((full.caption_q_NVR, cut.caption_q_NVR), (full.image_q_NVR, cut.image_q_NVR)):
        difference = (one - other).abs()
        assert difference.max() < 5 * 0.5 / 100**0.5
        assert difference[:, :, 0].mean() < 0.5 / 150**0.5
        assert 0 <= other.min() <= other.max() <= 1


def test_a_cut_of_the_controls_leaves_the_observed_ranks_exact() -> None:
    drawn = draw_space(120, seed=4)
    full = contest(drawn.space, drawn.caption_N, drawn.group_N, drawn.control_NR, CONFIG)
    few = ContestConfig(max_control_candidates=10)
    cut = contest(drawn.space, drawn.caption_N, drawn.group_N, drawn.control_NR, few)
    assert torch.equal(full.caption_q_NVR[:, :, 0], cut.caption_q_NVR[:, :, 0])
    assert torch.equal(full.n_nearer_NV, cut.n_nearer_NV)
    assert not torch.equal(full.caption_q_NVR[:, :, 1:], cut.caption_q_NVR[:, :, 1:])


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_changes_no_bit(workers: int) -> None:
    drawn = draw_space(900, n_views=2, dim=16, n_folds=2, seed=6)
    one = contest(drawn.space, drawn.caption_N, drawn.group_N, drawn.control_NR, CONFIG)
    other = contest(drawn.space, drawn.caption_N, drawn.group_N, drawn.control_NR, CONFIG, workers=workers)
    for name in ("caption_q_NVR", "image_q_NVR", "n_nearer_NV", "n_captions_N"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_progress_counts_every_pair_once() -> None:
    drawn = draw_space(50, n_folds=3)
    told: list[int] = []
    contest(drawn.space, drawn.caption_N, drawn.group_N, drawn.control_NR, CONFIG, advance=told.append)
    assert sum(told) == 50
