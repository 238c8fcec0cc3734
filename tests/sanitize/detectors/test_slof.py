"""SLOF against brute force, against scikit-learn's LOF where the two agree, and by hand."""

from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from roclip_audit.sanitize.detectors.neighbour_table import FLOOR_SHARE
from roclip_audit.sanitize.detectors.slof import Slof
from tests.sanitize.detectors.pointkit import brute_slof, points, rank_correlation, table_of


@pytest.mark.parametrize("k", [1, 2, 9])
def test_equals_brute_force(k: int) -> None:
    cloud = points(40, 5)
    score = Slof().score(table_of(cloud, k))
    assert score.tolist() == pytest.approx([brute_slof(cloud, x, k) for x in range(40)], rel=1e-5)


def test_equals_the_ratios_of_scikit_learns_neighbours() -> None:
    """The published kernel looks neighbours up in the wrong matrix; scikit-learn numbers them as we do."""
    cloud = points(50, 4)
    distance, index = NearestNeighbors(n_neighbors=6).fit(cloud.numpy()).kneighbors()
    k_distance = distance[:, -1]
    expected = (k_distance[:, None] / k_distance[index]).mean(1)
    assert Slof().score(table_of(cloud, 6)).tolist() == pytest.approx(expected, rel=1e-5)


def test_is_lof_for_one_neighbour() -> None:
    """The reachability distance to the nearest neighbour is the distance itself, so LOF and SLOF are one."""
    cloud = points(50, 3)
    lof = -LocalOutlierFactor(n_neighbors=1).fit(cloud.numpy()).negative_outlier_factor_
    assert Slof().score(table_of(cloud, 1)).tolist() == pytest.approx(lof, rel=1e-5)


def test_ranks_much_as_lof_does() -> None:
    cloud = torch.cat([points(60, 3), 0.2 * points(60, 3, seed=1) + 6, 10 * points(8, 3, seed=2)])
    lof = -LocalOutlierFactor(n_neighbors=10).fit(cloud.numpy()).negative_outlier_factor_
    score = Slof().score(table_of(cloud, 10))
    assert rank_correlation(score, torch.from_numpy(lof)) > 0.9
    assert score.argmax().item() == lof.argmax()


def test_by_hand() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [10.0]], dtype=torch.float64)  # d_2 = 3, 2, 3, 9
    expected = [(3 / 2 + 3 / 3) / 2, (2 / 3 + 2 / 3) / 2, (3 / 2 + 3 / 3) / 2, (9 / 3 + 9 / 2) / 2]
    assert Slof().score(table_of(line, 2)).tolist() == pytest.approx(expected)


def test_beside_a_clump_of_copies_is_large_but_bounded() -> None:
    clump = torch.cat([points(40, 3) + 50, torch.zeros(8, 3, dtype=torch.float64), torch.full((1, 3), 2.0)])
    table = table_of(clump, 4)
    score = Slof().score(table)
    k_distance_M = table.reference_k_distance
    floor = FLOOR_SHARE * k_distance_M[k_distance_M > 0].median().item()
    assert score[-1].item() == pytest.approx(table.row_k_distance[-1].item() / floor)
    assert score[40:48].tolist() == [1.0] * 8
