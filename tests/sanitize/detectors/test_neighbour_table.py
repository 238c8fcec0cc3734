"""The table is what a full sort gives, without the rows themselves, and refuses what it cannot be."""

from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn.functional import normalize

from roclip_audit.core.neighbours import nearest
from roclip_audit.sanitize.detectors import neighbour_table
from roclip_audit.sanitize.detectors.neighbour_table import NeighbourTable, table_from_similarity
from tests.sanitize.detectors.pointkit import points, table_of

INF = torch.inf


def unit(n: int, dim: int = 16, seed: int = 0) -> Tensor:
    return normalize(points(n, dim, seed), dim=1).float()


def table(distance: list[list[float]], index: list[list[int]], reference: list[list[float]]) -> NeighbourTable:
    return NeighbourTable(
        distance_NK=torch.tensor(distance),
        index_NK=torch.tensor(index),
        reference_distance_MK=torch.tensor(reference),
        k=len(distance[0]),
    )


@pytest.mark.parametrize("n_reference", [60, 25])
def test_equals_scikit_learn_and_a_full_sort(n_reference: int) -> None:
    vectors = unit(60)
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(1))[:n_reference]
    built = table_from_similarity(*nearest(vectors, vectors[rows], 8), rows)
    sorted_ = table_of(vectors.double(), 7, rows)
    assert built.k == 7
    assert torch.equal(built.index_NK, sorted_.index_NK)
    torch.testing.assert_close(built.distance_NK, sorted_.distance_NK, atol=1e-5, rtol=0)
    assert torch.equal(built.reference_distance_MK, built.distance_NK[rows])
    learned = NearestNeighbors(n_neighbors=7, algorithm="brute").fit(vectors[rows].numpy())
    distance, index = learned.kneighbors()  # of the reference points, themselves left out
    assert (built.index_NK[rows].numpy() == index).all()
    assert built.reference_distance_MK.numpy() == pytest.approx(distance, abs=1e-3)


def test_search_that_already_leaves_out_the_row_keeps_every_column() -> None:
    vectors, row = unit(30), torch.arange(30)
    apart = table_from_similarity(*nearest(vectors, vectors, 6, query_group_N=row, base_group_M=row), row)
    assert apart.k == 6
    with_self = table_from_similarity(*nearest(vectors, vectors, 7), row)
    assert torch.equal(apart.index_NK, with_self.index_NK)
    assert torch.equal(apart.distance_NK, with_self.distance_NK)


def test_no_row_is_its_own_neighbour_even_among_more_copies_than_columns() -> None:
    vectors = torch.cat([unit(1).expand(9, -1), unit(12, seed=3)])
    built = table_from_similarity(*nearest(vectors, vectors, 4), torch.arange(21))
    assert not (built.index_NK == torch.arange(21)[:, None]).any()
    assert (built.distance_NK[:9] == 0).all()
    assert (built.distance_NK[9:] > 0).all()


def test_rounding_of_equal_vectors_is_distance_zero() -> None:
    cosine = torch.tensor([[1 + 6e-7, 1 - 6e-7], [1.0, 0.995], [-1 - 6e-7, -1 - 6e-7]])
    built = table_from_similarity(cosine, torch.tensor([[1, 2], [0, 2], [0, 1]]), torch.arange(3))
    torch.testing.assert_close(built.distance_NK, torch.tensor([[0.0, 0.0], [0.0, 0.1], [2.0, 2.0]]), rtol=0, atol=1e-4)


def test_fewer_rows_than_k_end_with_no_neighbour() -> None:
    vectors = unit(3)
    built = table_from_similarity(*nearest(vectors, vectors, 6), torch.arange(3))
    assert built.k == 5
    assert (built.index_NK[:, 2:] == -1).all()
    assert built.distance_NK[:, 2:].isposinf().all()
    assert built.row_k_distance.tolist() == built.distance_NK[:, 1].double().tolist()


@pytest.mark.parametrize("n", [0, 1])
def test_nobody_to_compare_with(n: int) -> None:
    built = table_from_similarity(*nearest(unit(n), unit(n), 3), torch.arange(n))
    assert built.row_k_distance.tolist() == [0.0] * n
    assert built.has_neighbour.tolist() == [False] * n
    assert built.neighbour_mean(torch.ones(n, dtype=torch.float64)).tolist() == [0.0] * n
    assert built.ratio_floor() == 1.0


def test_empty_reference_set() -> None:
    built = table_from_similarity(*nearest(unit(4), unit(0), 3), torch.arange(0))
    assert not built.has_neighbour.any()


def test_a_smaller_k_is_a_prefix() -> None:
    vectors, row = unit(30), torch.arange(30)
    found = nearest(vectors, vectors, 9)
    assert torch.equal(
        table_from_similarity(*found, row, k=3).index_NK, table_from_similarity(*found, row).index_NK[:, :3]
    )


def test_blocks_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, row = unit(50), torch.arange(50)
    found = nearest(vectors, vectors, 9)
    value = points(50, 1)[:, 0]
    whole = table_from_similarity(*found, row)
    mean = whole.neighbour_mean(value)
    monkeypatch.setattr(neighbour_table, "_ROWS", 7)
    blocked = table_from_similarity(*found, row)
    assert torch.equal(whole.distance_NK, blocked.distance_NK)
    assert torch.equal(whole.index_NK, blocked.index_NK)
    assert torch.equal(mean, blocked.neighbour_mean(value))
    assert mean.tolist() == pytest.approx([value[index].mean().item() for index in whole.index_NK])


def test_the_floor_is_a_share_of_the_median_and_leaves_out_copies() -> None:
    built = table([[1.0]], [[0]], [[0.0], [0.0], [0.0], [2.0], [3.0], [7.0]])
    assert built.ratio_floor() == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("distance", "index", "reference", "message"),
    [
        ([[2.0, 1.0]], [[0, 0]], [[1.0, 1.0]], "ascending"),
        ([[1.0, 2.0]], [[0, 0]], [[2.0, 1.0]], "ascending"),
        ([[-1.0, 1.0]], [[0, 0]], [[1.0, 1.0]], "ascending"),
        ([[float("nan"), 1.0]], [[0, 0]], [[1.0, 1.0]], "ascending"),
        ([[1.0, 2.0]], [[0, 1]], [[1.0, 1.0]], "beyond"),
        ([[1.0, 2.0]], [[0, -1]], [[1.0, 1.0]], "missing"),
        ([[1.0, INF]], [[0, 0]], [[1.0, 1.0]], "missing"),
        ([[1.0, 2.0]], [[0]], [[1.0, 1.0]], "index"),
        ([[1.0, 2.0]], [[0, 0]], [[1.0]], "k is 2"),
    ],
)
def test_refuses_a_contradiction(
    distance: list[list[float]], index: list[list[int]], reference: list[list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        table(distance, index, reference)


@pytest.mark.parametrize(
    ("cosine", "index", "rows", "k", "message"),
    [
        (float("nan"), 1, [0, 1], None, "NaN"),
        (0.5, 2, [0, 1], None, "not among"),
        (0.5, -2, [0, 1], None, "not among"),
        (0.5, 1, [0, 2], None, "reference row is not in"),
        (0.5, 1, [1, 1], None, "repeated"),
        (0.5, 1, [0, 1], 2, "k = 2"),
        (1.0, 0, [0, 1], None, "k = 0"),
    ],
)
def test_refuses_what_no_search_returns(
    cosine: float, index: int, rows: list[int], k: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        table_from_similarity(torch.tensor([[cosine], [0.5]]), torch.tensor([[index], [0]]), torch.tensor(rows), k=k)
