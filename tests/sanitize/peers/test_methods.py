"""Each method against a second way of computing it: loops over the published formulas, scikit-learn, our detectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from roclip_audit.core.seeding import derive_seed
from roclip_audit.sanitize.detectors import build_detector
from roclip_audit.sanitize.peers import PeerInput, build_peer
from roclip_audit.sanitize.peers.batches import deal_batches, score_batches
from tests.sanitize.detectors.pointkit import table_of
from tests.sanitize.peers.peerkit import peer_input

N = 90


def published(name: str, distance: list[list[float]], k: int) -> list[float]:
    """Score as the published code does, row by row: neighbours counted without the row, looked up with it."""
    n = len(distance)
    alone = [[distance[x][o] for o in range(n) if o != x] for x in range(n)]
    own = [sorted(row) for row in alone]
    whole = [sorted(row) for row in distance]
    numbered = [sorted(range(n - 1), key=lambda o, row=row: row[o])[:k] for row in alone]  # type: ignore[misc]

    def lid(row: list[float]) -> float:
        return -k / sum(math.log(d / row[k] + 1e-4) for d in row[:k])

    if name == "k_distance":
        return [row[k] for row in own]
    if name == "lid":
        return [lid(row) for row in own]
    if name == "slof":
        return [sum(own[x][k] / whole[o][k] for o in numbered[x]) / k for x in range(n)]
    return [sum(lid(whole[o]) * math.log(own[x][k] / whole[o][k]) for o in numbered[x]) / k for x in range(n)]


@pytest.mark.parametrize(("name", "k"), [("k_distance", 16), ("slof", 16), ("dao", 16), ("lid", 64)])
def test_one_batch_is_the_published_formula(name: str, k: int) -> None:
    pairs = peer_input(N)
    order = deal_batches(N, pairs.seed, batch=2_048, k=k)[0].tolist()  # the lookup depends on the order in the batch
    points = pairs.trained_ND[order]
    distance = torch.cdist(points, points).tolist()  # fp32: a row's distance to itself is not quite 0, there as here
    expected = dict(zip(order, published(name, distance, k), strict=True))
    score = build_peer(f"{name}_batch").score(pairs)
    assert score.tolist() == pytest.approx([expected[x] for x in range(N)], rel=1e-4, abs=1e-4)


def test_as_published_and_as_mended_differ() -> None:
    """The rows that the published code looks up are not those it means: the mended score is another one."""
    pairs = peer_input(N)
    one, other = (build_peer(name).score(pairs) for name in ("slof_batch", "slof_fixed"))
    assert (one - other).abs().mean() > 0.01


@pytest.mark.parametrize(("name", "k"), [("k_distance", 16), ("slof", 16), ("dao", 16), ("lid", 64)])
def test_mended_is_our_detector_over_all_pairs(name: str, k: int) -> None:
    pairs = peer_input(N)
    expected = build_detector(name).score(table_of(pairs.trained_ND.double(), k))
    torch.testing.assert_close(build_peer(f"{name}_fixed").score(pairs), expected, rtol=1e-3, atol=1e-3)


def test_mended_k_distance_is_scikit_learns() -> None:
    pairs = peer_input(N)
    distance, _ = NearestNeighbors(n_neighbors=16).fit(pairs.trained_ND.numpy()).kneighbors()
    assert build_peer("k_distance_fixed").score(pairs).tolist() == pytest.approx(distance[:, -1], rel=1e-4)


def test_clipscore_is_the_cosine_turned_round() -> None:
    pairs = peer_input(N)
    assert torch.equal(build_peer("clipscore").score(pairs), -pairs.cosine_N.double())


def test_the_mixture_is_scikit_learns_and_low_cosines_are_suspicious() -> None:
    pairs = peer_input(N)
    cosine = pairs.cosine_N.double().numpy()[:, None]
    mixture = GaussianMixture(n_components=2, random_state=0).fit(cosine)
    score = build_peer("gmm").score(pairs)
    assert score.tolist() == pytest.approx(mixture.predict_proba(cosine)[:, int(np.argmin(mixture.means_))])
    assert score[pairs.cosine_N < 0.3].min() > 0.9
    assert score[pairs.cosine_N > 0.6].max() < 0.1


def test_one_cosine_for_all_is_no_mixture() -> None:
    pairs = peer_input(20)
    alike = PeerInput(
        cosine_N=torch.full((20,), 0.5), trained_ND=pairs.trained_ND, image_NF=pairs.image_NF, seed=pairs.seed
    )
    assert build_peer("gmm").score(alike).tolist() == [0.0] * 20


def test_the_forest_is_scikit_learns_with_the_sign_turned() -> None:
    pairs = peer_input(N)
    forest = IsolationForest(n_estimators=100, random_state=derive_seed(0, "peers", "isolation_forest") % 2**32)
    expected = -forest.fit(pairs.image_NF.numpy()).score_samples(pairs.image_NF.numpy())
    assert build_peer("isolation_forest").score(pairs).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("n", "sizes"), [(0, []), (5, [5]), (20, [10, 10]), (23, [10, 13]), (27, [10, 10, 7])])
def test_batches_hold_every_pair_once(n: int, sizes: list[int]) -> None:
    parts = deal_batches(n, 0, batch=10, k=3)
    assert [len(part) for part in parts] == sizes
    assert sorted(row for part in parts for row in part.tolist()) == list(range(n))


def test_batches_are_shuffled_by_the_seed() -> None:
    one, again, other = (deal_batches(50, seed, batch=10, k=3)[0].tolist() for seed in (0, 0, 1))
    assert one == again != other
    assert one != list(range(10))


def test_a_pair_meets_its_batch_alone() -> None:
    """Far pairs outside of the batch change nothing: the sum of distances is that within the batch."""
    pairs = peer_input(40)

    def total(distance_BB: Tensor, k: int) -> Tensor:
        return distance_BB.sum(1)

    score = score_batches(pairs, 2, total, batch=10)
    for rows in deal_batches(40, 0, batch=10, k=2):
        points = pairs.trained_ND[rows]
        torch.testing.assert_close(score[rows], torch.cdist(points, points).sum(1).double(), rtol=1e-4, atol=1e-4)


def test_nan_and_infinity_become_a_thousand() -> None:
    pairs = peer_input(12)

    def broken(distance_BB: Tensor, k: int) -> Tensor:
        score = torch.zeros(len(distance_BB))
        score[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        return score

    assert sorted(score_batches(pairs, 2, broken).tolist()) == [0.0] * 10 + [1000.0] * 2
