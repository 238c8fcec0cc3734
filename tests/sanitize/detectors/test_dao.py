"""DAO against brute force, against its own definition over SLOF and LID, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from roclip_audit.sanitize.detectors.dao import Dao
from roclip_audit.sanitize.detectors.lid import Lid
from roclip_audit.sanitize.detectors.slof import Slof
from tests.sanitize.detectors.pointkit import brute_dao, points, rank_correlation, table_of


@pytest.mark.parametrize("k", [2, 3, 9])
def test_equals_brute_force(k: int) -> None:
    cloud = points(40, 5)
    score = Dao().score(table_of(cloud, k))
    assert score.tolist() == pytest.approx([brute_dao(cloud, x, k) for x in range(40)], rel=1e-4, abs=1e-4)


def test_reads_dimensionality_and_density_of_the_neighbours_from_the_reference_rows() -> None:
    """A reference set in another order than the rows: what the published kernel gets wrong."""
    cloud, rows = points(30, 4), torch.tensor([17, 3, 28, 9, 11, 0, 22, 5, 14, 20])
    table = table_of(cloud, 4, rows)
    lid, far = Lid().score(table), table.row_k_distance
    expected = [
        sum(lid[rows[o]] * math.log(far[x] / far[rows[o]]) for o in table.index_NK[x].tolist()) / 4 for x in range(30)
    ]
    assert Dao().score(table).tolist() == pytest.approx([float(one) for one in expected])


def test_equals_the_formula_on_scikit_learns_neighbours() -> None:
    cloud = points(60, 5)
    distance, index = NearestNeighbors(n_neighbors=12).fit(cloud.numpy()).kneighbors()
    far = distance[:, -1]
    lid = -12 / np.log(distance / far[:, None]).sum(1)
    expected = (lid[index] * np.log(far[:, None] / far[index])).mean(1)
    assert Dao().score(table_of(cloud, 12)).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_by_hand() -> None:
    line = torch.tensor([[0.0], [1.0], [4.0]], dtype=torch.float64)  # d_2 = 4, 3, 4
    lid = [2 / math.log(4), 2 / math.log(3), 2 / math.log(4 / 3)]
    assert Dao().score(table_of(line, 2))[0].item() == pytest.approx(lid[1] * math.log(4 / 3) / 2, rel=1e-6)


def test_one_ratio_says_more_where_the_data_has_more_dimensions() -> None:
    """Two clusters of 3 and 12 dimensions, a stray point at the same SLOF beside each."""
    flat = torch.cat([points(150, 3), torch.zeros(150, 9, dtype=torch.float64)], 1)
    thick = points(150, 12, seed=1)
    score, slof = [], []
    for cluster in (flat, thick):
        radius = table_of(cluster, 10).row_k_distance.median().item()
        stray = cluster.mean(0) + torch.eye(12, dtype=torch.float64)[0] * (cluster.norm(dim=1).max().item() + radius)
        table = table_of(torch.cat([cluster, stray[None]]), 10)
        score.append(Dao().score(table)[-1].item())
        slof.append(math.log(Slof().score(table)[-1].item()))
    assert score[1] / slof[1] > 2 * score[0] / slof[0]


def test_ranks_as_slof_does_where_the_dimension_is_the_same_everywhere() -> None:
    cloud = torch.cat([points(80, 3), 5 * points(8, 3, seed=2)])
    table = table_of(cloud, 12)
    assert rank_correlation(Dao().score(table), Slof().score(table)) > 0.95


def test_beside_a_clump_of_copies_says_nothing() -> None:
    clump = torch.cat([points(40, 3) + 50, torch.zeros(8, 3, dtype=torch.float64), torch.full((1, 3), 2.0)])
    assert Dao().score(table_of(clump, 4))[40:].tolist() == [0.0] * 9
