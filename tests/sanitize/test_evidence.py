"""From ranks to the numbers of a row: the statistic, the contest read off, rivals, cosines."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.ranks import rank_of
from roclip_audit.sanitize.contest import ContestConfig
from roclip_audit.sanitize.evidence import (
    N_RIVALS,
    EvidenceConfig,
    cosine_z,
    find_rivals,
    read_contest,
    sight,
    statistic,
)
from roclip_audit.sanitize.space import Ranks, Space, contest
from tests.sanitize.datakit import near_of
from tests.sanitize.spacekit import Drawn, draw_space

CONFIG = EvidenceConfig()


def ranks_of(drawn: Drawn) -> Ranks:
    return contest(drawn.space, drawn.caption_N, drawn.group_N, drawn.control_NR, ContestConfig())


@given(st.integers(1, 6), st.integers(1, 2), st.booleans(), st.floats(0.1, 3.0), st.integers(0, 99))
@settings(max_examples=25)
def test_the_statistic_is_a_weighted_power_mean(n: int, n_spaces: int, asked: bool, power: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)

    def shares(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=rng).double()

    counts = {"n_nearer_NV": torch.zeros(n, 3), "n_captions_N": torch.zeros(n)}
    ranks = [Ranks(caption_q_NVR=shares(n, 3, 4), image_q_NVR=shares(n, 3, 4), **counts) for _ in range(n_spaces)]
    agreement = [shares(n, 4), shares(n, 4)] if asked else []
    config = EvidenceConfig(power=power, pass_weights=(1.0, 3.0), neighbour_weight=2.0)
    got = statistic(ranks, agreement, config)
    assert got.shape == (n, 4)
    weights = [1.0, 3.0][2 - n_spaces :] + [2.0] * asked
    for row in range(n):
        for reading in range(4):
            parts = []
            for one in ranks:
                q = [*one.caption_q_NVR[row, :, reading].tolist(), *one.image_q_NVR[row, :, reading].tolist()]
                parts.append(np.mean([x**power for x in q]))
            if asked:
                parts.append(np.mean([float(one[row, reading]) ** power for one in agreement]))
            expected = float(np.average(parts, weights=weights)) ** (1 / power)
            assert float(got[row, reading]) == pytest.approx(expected, rel=1e-9)


def test_the_statistic_rises_with_every_share() -> None:
    drawn = draw_space(30, seed=1)
    ranks = ranks_of(drawn)
    agreement = (torch.rand(30, 3).double(), torch.rand(30, 3).double())
    before = statistic([ranks], agreement, CONFIG)
    assert 0 <= before.min() <= before.max() <= 1
    raised = dataclasses.replace(ranks, image_q_NVR=(ranks.image_q_NVR + 0.1).clamp_max(1))
    assert (statistic([raised], agreement, CONFIG) >= before - 1e-12).all()


@given(st.lists(st.sampled_from([0.0, 0.5, 0.7, 1.0]), max_size=12))
def test_rank_of_counts_smaller_values(values: list[float]) -> None:
    expected = [sum(other < value for other in values) / len(values) for value in values]
    assert rank_of(torch.tensor(values, dtype=torch.float64)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("n_folds", [1, 3])
def test_the_contest_held_agrees_with_the_closed_form(n_folds: int) -> None:
    drawn = draw_space(90, n_folds=n_folds, repeats=0.3, seed=2)
    ranks = ranks_of(drawn)
    rounds = 1_500
    closed, sampled = (
        read_contest(
            drawn.space,
            ranks,
            drawn.caption_N,
            ContestConfig(pool_size=6, rounds=rounds, sampled=sampled),
            np.random.default_rng(0),
        )
        for sampled in (False, True)
    )
    win = closed.win_probability
    assert (np.abs(sampled.wins - rounds * win) <= 4.5 * np.sqrt(rounds * win * (1 - win)) + 1e-6).all()
    np.testing.assert_allclose(closed.wins, rounds * win)
    np.testing.assert_allclose(sampled.win_probability, sampled.wins / rounds)
    assert set(np.unique(sampled.never_wins_probability)) <= {0.0, 1.0}
    for same in ("q", "q_caption", "worst_view", "win_probability_64", "win_probability_1024"):
        np.testing.assert_array_equal(getattr(closed, same), getattr(sampled, same))


def test_the_worst_view_speaks() -> None:
    drawn = draw_space(60, n_views=3, seed=3)
    ranks = ranks_of(drawn)
    outcome = read_contest(drawn.space, ranks, drawn.caption_N, ContestConfig(), np.random.default_rng(0))
    np.testing.assert_array_equal(outcome.q, outcome.q_by_view_NV.max(1))
    np.testing.assert_array_equal(outcome.q, outcome.q_by_view_NV[np.arange(60), outcome.worst_view])
    np.testing.assert_array_equal(outcome.q_caption, ranks.image_q_NVR[:, :, 0].amax(1))
    assert (outcome.win_probability_64 >= outcome.win_probability_1024).all()
    assert (outcome.never_wins == (outcome.never_wins_probability >= 0.5)).all()


@pytest.mark.parametrize("sampled", [False, True])
def test_a_caption_without_rivals_always_wins(sampled: bool) -> None:
    drawn = draw_space(4, n_folds=1, repeats=0.0)
    same = torch.zeros(4, dtype=torch.int64)
    ranks = contest(drawn.space, same, drawn.group_N, drawn.control_NR, ContestConfig())
    config = ContestConfig(rounds=5, sampled=sampled)
    outcome = read_contest(drawn.space, ranks, same, config, np.random.default_rng(0))
    assert outcome.wins.tolist() == [5.0] * 4
    assert not outcome.never_wins.any()


@pytest.mark.parametrize(("n", "n_folds"), [(1, 1), (3, 1), (40, 1), (40, 3)])
def test_rivals_equal_a_full_sort(n: int, n_folds: int) -> None:
    drawn = draw_space(n, n_folds=n_folds, seed=4)
    worst = np.arange(n) % 2
    rivals = find_rivals(drawn.space, worst, drawn.caption_N, workers=1)
    assert rivals.row_NK.shape == rivals.cosine_NK.shape == (n, N_RIVALS)
    image, text = drawn.space.image_NVD.double(), drawn.space.text_ND.double()
    for row in range(n):
        fold = [x for x in range(n) if drawn.space.fold_N[x] == drawn.space.fold_N[row]]
        one_of_each = {int(drawn.caption_N[x]): x for x in reversed(fold)}
        others = [x for number, x in one_of_each.items() if number != drawn.caption_N[row]]
        cosines = sorted((float(image[row, worst[row]] @ text[x]) for x in others), reverse=True)[:N_RIVALS]
        found = [x for x in rivals.row_NK[row].tolist() if x >= 0]
        assert set(found) <= set(others)
        assert len(found) == len(set(found)) == len(cosines)
        assert rivals.cosine_NK[row, : len(cosines)].tolist() == pytest.approx(cosines, abs=1e-6)
        assert rivals.cosine_NK[row, len(cosines) :].isneginf().all()
        assert float(rivals.own_N[row]) == pytest.approx(float(image[row, worst[row]] @ text[row]), abs=1e-6)


def test_the_own_cosine_stands_against_the_pool() -> None:
    drawn = draw_space(50, n_folds=2, seed=5)
    own, z = cosine_z(drawn.space, drawn.caption_N, 1_000, workers=2)
    image, text = drawn.space.image_NVD[:, 0].double(), drawn.space.text_ND.double()
    for row in range(50):
        fold = [x for x in range(50) if drawn.space.fold_N[x] == drawn.space.fold_N[row]]
        pool = {int(drawn.caption_N[x]): float(image[row] @ text[x]) for x in fold}
        scores = np.array(list(pool.values()))
        assert own[row] == pytest.approx(float(image[row] @ text[row]), abs=1e-6)
        assert z[row] == pytest.approx((scores.mean() - own[row]) / scores.std(), abs=1e-3)
    few, _ = cosine_z(drawn.space, drawn.caption_N, 5, workers=1)
    np.testing.assert_array_equal(few, own)


def seen_in(
    n: int,
    blind_N: torch.Tensor,
    *,
    n_folds: int = 2,
    known_N: torch.Tensor | None = None,
    control_NR: torch.Tensor | None = None,
) -> torch.Tensor:
    """Measure a space in which images and captions of eight topics lie together, but for those that are blind.

    Returns the pairs' own sight; with controls, that of all pairings.
    """
    rng = torch.Generator().manual_seed(3)
    topic_N = torch.arange(n) % 8
    centre = torch.randn(8, 12, generator=rng)

    def around(spread: float) -> torch.Tensor:
        return functional.normalize(centre[topic_N] + spread * torch.randn(n, 12, generator=rng), dim=1)

    text_ND, image_ND = around(0.3), around(0.3)
    in_space = torch.where(blind_N[:, None], functional.normalize(torch.randn(n, 12, generator=rng), dim=1), text_ND)
    fold_N = torch.arange(n) // 8 % n_folds
    space = Space(name="x", image_NVD=image_ND[:, None], text_ND=in_space, fold_N=fold_N)
    near = near_of(list(range(n)), [[-1]] * n, image_ND=image_ND, text_ND=text_ND)
    if control_NR is not None:
        return sight(space, near, control_NR, known_N=known_N, workers=2)
    return sight(space, near, torch.empty(n, 0, dtype=torch.int64), known_N=known_N, workers=2)[:, 0]


def test_sight_is_low_where_a_caption_leads_anywhere() -> None:
    blind_N = torch.zeros(400, dtype=torch.bool)
    blind_N[:60] = True
    seen_N = seen_in(400, blind_N)
    assert seen_N.shape == (400,)
    assert float(seen_N[blind_N].mean()) < float(seen_N[~blind_N].quantile(0.25))


def test_sight_is_low_where_a_caption_has_words_of_its_own() -> None:
    nobody_N = torch.zeros(400, dtype=torch.bool)
    known_N = torch.ones(400, dtype=torch.float64)
    known_N[100:160] = 0.2
    added_N = seen_in(400, nobody_N, known_N=known_N) - seen_in(400, nobody_N)
    assert float(added_N[known_N == 1].min()) - float(added_N[known_N < 1].max()) > 0.1


def test_sight_of_a_control_is_that_of_its_caption_and_its_image() -> None:
    blind_N = torch.zeros(400, dtype=torch.bool)
    blind_N[:60] = True
    partner_N = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    known_N = torch.rand(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen_N2 = seen_in(400, blind_N, known_N=known_N, control_NR=partner_N[:, None])
    assert torch.equal(seen_N2[:, 0], seen_in(400, blind_N, known_N=known_N))
    itself_N2 = seen_in(400, blind_N, known_N=known_N, control_NR=torch.arange(400)[:, None])
    assert torch.equal(itself_N2[:, 1], itself_N2[:, 0])
    # Both pairings of two pairs together have each caption's part and each image's once, as the two pairs have.
    swapped_N = partner_N.argsort()
    of_partner_N = seen_in(400, blind_N, known_N=known_N, control_NR=swapped_N[:, None])[partner_N, 1]
    torch.testing.assert_close(seen_N2[:, 1] + of_partner_N, seen_N2[:, 0] + seen_N2[partner_N, 0])
    assert float(seen_N2[blind_N[partner_N], 1].mean()) < float(seen_N2[~blind_N[partner_N], 1].quantile(0.25))


def test_sight_of_very_few_pairs_is_finite() -> None:
    for n in (1, 2, 3):
        assert bool(seen_in(n, torch.zeros(n, dtype=torch.bool), n_folds=1).isfinite().all())


def test_one_pair_alone_has_finite_evidence() -> None:
    drawn = draw_space(1, n_controls=1)
    _, z = cosine_z(drawn.space, drawn.caption_N, 10, workers=1)
    assert np.isfinite(z).all()
    empty = Space(
        name="none", image_NVD=torch.zeros(0, 2, 4), text_ND=torch.zeros(0, 4), fold_N=torch.zeros(0, dtype=torch.int64)
    )
    nobody = torch.zeros(0, dtype=torch.int64)
    assert cosine_z(empty, nobody, 10, workers=1)[1].shape == (0,)
    assert find_rivals(empty, np.zeros(0, dtype=np.int64), nobody, workers=1).row_NK.shape == (0, N_RIVALS)


@pytest.mark.parametrize(
    "wrong", [{"power": 0.0}, {"n_neighbours": 0}, {"neighbour_weight": 0.0}, {"pass_weights": (1.0, -1.0)}]
)
def test_refuses_settings_that_cannot_work(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="evidence"):
        EvidenceConfig(**wrong)  # type: ignore[arg-type]
