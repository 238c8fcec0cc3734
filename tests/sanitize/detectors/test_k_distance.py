"""k-distance against brute force, scikit-learn and a case done by hand."""

from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from roclip_audit.sanitize.detectors.k_distance import KDistance
from tests.sanitize.detectors.pointkit import brute_k_distance, points, table_of


@pytest.mark.parametrize("k", [1, 2, 9])
def test_equals_brute_force_and_scikit_learn(k: int) -> None:
    cloud = points(40, 5)
    score = KDistance().score(table_of(cloud, k))
    assert score.tolist() == pytest.approx([brute_k_distance(cloud, x, k) for x in range(40)], rel=1e-6)
    distance, _ = NearestNeighbors(n_neighbors=k).fit(cloud.numpy()).kneighbors()
    assert score.tolist() == pytest.approx(distance[:, -1], rel=1e-6)


def test_by_hand() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [10.0]], dtype=torch.float64)
    assert KDistance().score(table_of(line, 2)).tolist() == [3.0, 2.0, 3.0, 9.0]


def test_counts_the_kth_reference_point_only() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [10.0]], dtype=torch.float64)
    assert KDistance().score(table_of(line, 1, torch.tensor([0, 3]))).tolist() == [10.0, 1.0, 3.0, 10.0]
