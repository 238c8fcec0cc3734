"""LID against brute force, against surfaces of known dimension, and at the ends of its range."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from roclip_audit.sanitize.detectors import neighbour_table
from roclip_audit.sanitize.detectors.lid import MAX_LID, Lid, lid_mle
from tests.sanitize.detectors.pointkit import brute_lid, points, table_of


@pytest.mark.parametrize("k", [2, 3, 9])
def test_equals_brute_force(k: int) -> None:
    cloud = points(40, 5)
    expected = [brute_lid(cloud, x, k) for x in range(40)]
    assert Lid().score(table_of(cloud, k)).tolist() == pytest.approx(expected, rel=1e-4)


def test_equals_the_formula_on_scikit_learns_distances() -> None:
    cloud = points(60, 5)
    distance, _ = NearestNeighbors(n_neighbors=12).fit(cloud.numpy()).kneighbors()
    expected = -12 / np.log(distance / distance[:, -1:]).sum(1)
    assert Lid().score(table_of(cloud, 12)).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dimension", [1, 2, 5, 20])
def test_recovers_the_dimension_of_a_ball(dimension: int) -> None:
    """Distances from the centre of a uniform m-ball are U^(1/m); the estimate of m is within 3 standard errors."""
    k, n_balls = 100, 50
    rng = torch.Generator().manual_seed(dimension)
    radius = torch.rand(n_balls, 400, generator=rng, dtype=torch.float64).pow(1 / dimension).sort(1).values[:, :k]
    estimate = lid_mle(radius.float())
    assert estimate.mean().item() == pytest.approx(dimension * k / (k - 2), rel=3 / math.sqrt(k * n_balls))


def test_by_hand() -> None:
    line = torch.tensor([[0.0], [1.0], [4.0]], dtype=torch.float64)
    assert Lid().score(table_of(line, 2))[0].item() == pytest.approx(2 / math.log(4), rel=1e-6)


def test_equally_far_neighbours_are_the_most_suspicious_not_the_least() -> None:
    """Where 1e-4 is added to the ratios, as published, this is about -10,000."""
    equal = lid_mle(torch.tensor([[0.7] * 8, [0.7 - 1e-6] * 7 + [0.7], [0.1] + [0.7] * 7]))
    assert equal[:2].tolist() == [MAX_LID] * 2
    assert 0 < equal[2].item() < MAX_LID


def test_copies_among_the_neighbours_count_as_very_near_not_as_infinitely_near() -> None:
    estimate = lid_mle(torch.tensor([[0.0, 0.0, 0.5, 1.0]]))
    assert estimate.item() == pytest.approx(4 / (2 * math.log(1e4) + math.log(2)), rel=1e-6)


def test_one_neighbour_says_nothing_about_growth() -> None:
    assert lid_mle(torch.tensor([[0.5], [0.9]])).tolist() == [0.0, 0.0]
    assert lid_mle(torch.tensor([[0.5, torch.inf], [torch.inf, torch.inf]])).tolist() == [0.0, 0.0]


def test_missing_neighbours_do_not_count() -> None:
    assert torch.equal(lid_mle(torch.tensor([[0.2, 0.5, torch.inf]])), lid_mle(torch.tensor([[0.2, 0.5]])))


def test_blocks_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(points(30, 4), 6)
    whole = Lid().score(table)
    monkeypatch.setattr(neighbour_table, "_ROWS", 7)
    assert torch.equal(Lid().score(table), whole)
