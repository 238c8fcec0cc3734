"""The closed-form contest against the sampled one and exact arithmetic; counting against a full sort."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from roclip_audit.core.errors import ConfigError
from roclip_audit.sanitize.contest import (
    ContestConfig,
    count_nearer,
    count_nearer_both_ways,
    never_wins_probability,
    sampled_wins,
    win_probability,
)


def exact_win(k: int, n: int, pool: int) -> Fraction:
    """Multiply the probabilities that each caption drawn is one of those that are not nearer."""
    win = Fraction(1)
    for drawn in range(min(pool, n)):
        win *= Fraction(max(0, n - k - drawn), n - drawn)
    return win


@given(st.data(), st.integers(0, 400), st.integers(1, 500))
def test_equals_exact_arithmetic(data: st.DataObject, n: int, pool: int) -> None:
    k = data.draw(st.integers(0, n))
    win = win_probability(np.array([k]), n, pool)
    assert win.dtype == np.float64
    assert win[0] == pytest.approx(float(exact_win(k, n, pool)), rel=1e-9, abs=1e-12)


def test_edges() -> None:
    n = np.array([10, 10, 10, 10, 1, 0, 0])
    k = np.array([0, 10, 1, 9, 0, 0, 0])
    assert win_probability(k, n, 256).tolist() == pytest.approx([1, 0, 0, 0, 1, 1, 1])  # the pool is all of them
    assert win_probability(k, n, 1).tolist() == pytest.approx([1, 0, 0.9, 0.1, 1, 1, 1])
    assert win_probability(k, n, 10).tolist() == pytest.approx([1, 0, 0, 0, 1, 1, 1])
    assert win_probability(np.array([0, 3]), 3, 3).tolist() == [1.0, 0.0]
    assert win_probability(np.empty(0, dtype=np.int64), 5, 3).shape == (0,)


def test_millions_of_captions_keep_their_digits() -> None:
    n, k, pool = 5_000_000, 20_000, 256
    exact = float(exact_win(k, n, pool))
    assert win_probability(np.array([k]), n, pool)[0] == pytest.approx(exact, rel=1e-6)
    assert exact == pytest.approx((1 - k / n) ** pool, rel=1e-3)


@given(st.integers(50, 100_000), st.floats(0, 1), st.integers(1, 50))
def test_is_about_a_power_of_the_rank_share(n: int, share: float, pool: int) -> None:
    """Drawing without replacement differs from drawing with it by at most P (P - 1) / 2n in all (birthday bound)."""
    k = int(share * n)
    assert win_probability(np.array([k]), n, pool)[0] == pytest.approx(
        (1 - k / n) ** pool, abs=pool * (pool - 1) / 2 / n + 1e-9
    )


@given(st.integers(1, 300), st.integers(1, 100))
def test_falls_with_the_rank_and_with_the_pool(n: int, pool: int) -> None:
    win = win_probability(np.arange(n + 1), n, pool)
    assert (np.diff(win) <= 1e-12).all()
    assert (win_probability(np.arange(n + 1), n, pool + 1) <= win + 1e-12).all()
    assert ((win >= 0) & (win <= 1)).all()


def test_never_wins() -> None:
    assert never_wins_probability(np.array([0.0, 1.0, 0.5]), 3).tolist() == [1.0, 0.0, 0.125]
    assert never_wins_probability(np.array([0.25]), 1).tolist() == [0.75]


def unit(n: int, dim: int, seed: int) -> Tensor:
    return normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize(("n", "pool"), [(40, 5), (40, 60), (200, 30), (7, 6)])
def test_sampled_contests_agree_within_binomial_error(n: int, pool: int) -> None:
    image, caption = unit(n, 6, 0), unit(n, 6, 1)
    own = torch.arange(n)
    score = (image * caption).sum(1)
    nearer = count_nearer(image, caption, score[:, None], own[:, None, None])[:, 0]
    config = ContestConfig(pool_size=pool, rounds=1_000, sampled=True)
    wins = sampled_wins(image, caption, score, own, config, np.random.default_rng(0)).numpy()
    win = win_probability(nearer.numpy(), n - 1, pool)
    deviation = np.sqrt(config.rounds * win * (1 - win))
    assert (np.abs(wins - config.rounds * win) <= 4.5 * deviation + 1e-6).all()
    if pool < n - 1:  # else the pool is everybody and nothing is left to chance
        z = (wins - config.rounds * win)[deviation > 0] / deviation[deviation > 0]
        assert 0.5 < np.sqrt((z**2).mean()) < 1.6  # over all pairs neither too bad nor too good to be true


def test_sampled_never_wins_agree() -> None:
    """How often no pool is won in 4 rounds, over 600 repetitions, against (1 - w)^4."""
    image, caption = unit(30, 5, 2), unit(30, 5, 3)
    own, score = torch.arange(30), (image * caption).sum(1)
    nearer = count_nearer(image, caption, score[:, None], own[:, None, None])[:, 0].numpy()
    never = never_wins_probability(win_probability(nearer, 29, 6), 4)
    rng, config = np.random.default_rng(1), ContestConfig(pool_size=6, rounds=4, sampled=True)
    lost = np.mean([(sampled_wins(image, caption, score, own, config, rng) == 0).numpy() for _ in range(600)], axis=0)
    assert (np.abs(lost - never) <= 4.5 * np.sqrt(never * (1 - never) / 600) + 1e-9).all()


def test_a_caption_never_meets_itself_and_ties_do_not_beat() -> None:
    image, caption = unit(1, 4, 0).repeat(5, 1), unit(1, 4, 1).repeat(5, 1)
    score, own = (image * caption).sum(1), torch.arange(5)
    config = ContestConfig(pool_size=3, rounds=20, sampled=True)
    assert sampled_wins(image, caption, score, own, config, np.random.default_rng(0)).tolist() == [20] * 5
    assert count_nearer(image, caption, score[:, None], own[:, None, None]).tolist() == [[0]] * 5


def test_equal_vectors_tie_whatever_their_place_in_the_block() -> None:
    """The own score and a block's are computed by other kernels; their rounding must not let copies beat each other."""
    n, dim = 700, 256
    image, text = unit(n, dim, 0), unit(1, dim, 1).repeat(9_001, 1)
    own = (image * text[:n]).sum(1)[:, None]
    assert count_nearer(image, text, own, torch.arange(n)[:, None, None]).sum() == 0
    config = ContestConfig(pool_size=500, rounds=1, sampled=True)
    assert sampled_wins(image, text, own[:, 0], torch.arange(n), config, np.random.default_rng(0)).tolist() == [1] * n


def test_one_candidate_alone_wins() -> None:
    one, config = unit(1, 4, 0), ContestConfig(pool_size=8, rounds=3, sampled=True)
    wins = sampled_wins(one, one, torch.ones(1), torch.zeros(1, dtype=torch.int64), config, np.random.default_rng(0))
    assert wins.tolist() == [3]


@given(st.integers(0, 60), st.integers(0, 50), st.integers(1, 4), st.integers(0, 3), st.integers(0, 99))
@settings(max_examples=40)
def test_counts_equal_brute_force(n: int, n_candidates: int, readings: int, skips: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    query, candidate = unit(n, 5, seed), unit(n_candidates, 5, seed + 1)
    own = torch.rand(n, readings, generator=rng) * 2 - 1
    skip = torch.randint(-1, max(1, n_candidates), (n, readings, skips), generator=rng)
    score = query.double() @ candidate.double().T
    expected = torch.zeros(n, readings, dtype=torch.int64)
    for row in range(n):
        for reading in range(readings):
            left_out = set(skip[row, reading].tolist())
            beaten = [c for c in range(n_candidates) if score[row, c] > own[row, reading] and c not in left_out]
            expected[row, reading] = len(beaten)
    assert torch.equal(count_nearer(query, candidate, own, skip), expected)


def test_large_counts_cross_blocks_and_workers_change_nothing() -> None:
    query, candidate = unit(600, 8, 0), unit(20_000, 8, 1)
    own = (query @ candidate[7:9].T).contiguous()
    skip = torch.tensor([[7], [8]]).expand(600, 2, 1)
    one = count_nearer(query, candidate, own, skip)
    exact = (query.double() @ candidate.double().T)[:, :, None] > own.double()[:, None]
    assert (one - exact.sum(1)).abs().max() <= 2  # the two themselves, and rounding
    for workers in (2, 3):
        assert torch.equal(count_nearer(query, candidate, own, skip, workers=workers), one)


@pytest.mark.parametrize(
    ("n", "n_images", "n_texts"), [(0, 0, 0), (1, 1, 1), (60, 60, 1), (60, 7, 40), (700, 300, 650)]
)
def test_both_ways_at_once_equal_one_way_after_the_other(n: int, n_images: int, n_texts: int) -> None:
    rng = torch.Generator().manual_seed(n)
    image, text = unit(n, 7, 0), unit(n, 7, 1)
    own = (image * text).sum(1)
    images, texts = (torch.randperm(n, generator=rng)[:most].sort().values for most in (n_images, n_texts))
    skip_image = torch.randint(-1, max(1, n_images), (n,), generator=rng)
    skip_text = torch.randint(-1, max(1, n_texts), (n,), generator=rng)
    forward = count_nearer(image, text[texts], own[:, None], skip_text[:, None, None])[:, 0]
    back = count_nearer(text, image[images], own[:, None], skip_image[:, None, None])[:, 0]
    for workers in (1, 3):
        got = count_nearer_both_ways(image, text, own, (images, texts), (skip_image, skip_text), workers=workers)
        assert torch.equal(got[0], forward)
        assert torch.equal(got[1], back)


def test_both_ways_cross_the_blocks_of_candidates() -> None:
    n = 8_700
    image, text = unit(n, 4, 0), unit(n, 4, 1)
    own, everybody = (image * text).sum(1), torch.arange(n)
    forward, back = count_nearer_both_ways(image, text, own, (everybody, everybody), (everybody, everybody))
    some = torch.arange(0, n, 97)
    skip = some[:, None, None]
    assert torch.equal(forward[some], count_nearer(image[some], text, own[some, None], skip)[:, 0])
    assert torch.equal(back[some], count_nearer(text[some], image, own[some, None], skip)[:, 0])


@pytest.mark.parametrize("setting", ["pool_size", "rounds", "max_candidates", "max_control_candidates"])
def test_refuses_settings_that_cannot_work(setting: str) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        ContestConfig(**{setting: 0})
