"""What every density detector promises, whatever its formula."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.neighbours import nearest
from roclip_audit.core.schema import EVIDENCE
from roclip_audit.sanitize.detectors import DETECTORS, build_detector, density_scores
from roclip_audit.sanitize.detectors.neighbour_table import NeighbourTable, table_from_similarity
from tests.sanitize.detectors.pointkit import points, table_of

NEUTRAL = {"k_distance": 0.0, "lid": 0.0, "slof": 1.0, "dao": 0.0}
DEGREE = {"k_distance": 1, "lid": 0, "slof": 0, "dao": 0}  # how the score grows with the scale of the data
every = pytest.mark.parametrize("name", DETECTORS)


@st.composite
def clumpy(draw: st.DrawFn) -> Tensor:
    """Draw points of any spread, some of them copies of each other."""
    n, dim, seed = draw(st.integers(1, 30)), draw(st.integers(1, 6)), draw(st.integers(0, 999))
    spread = 10.0 ** draw(st.integers(-3, 3))
    copy_of = torch.tensor(draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n)))
    is_copy = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    rows = torch.where(is_copy, copy_of, torch.arange(n))
    return points(n, dim, seed)[rows] * spread


def subset(table: NeighbourTable, rows: Tensor) -> NeighbourTable:
    return NeighbourTable(
        distance_NK=table.distance_NK[rows],
        index_NK=table.index_NK[rows],
        reference_distance_MK=table.reference_distance_MK,
        k=table.k,
    )


@every
def test_has_the_name_of_its_column_and_says_what_it_is(name: str) -> None:
    detector = build_detector(name)
    assert detector.name == name
    assert name in {column.name for column in EVIDENCE}
    for part in ("score(x) =", "Neutral score", "Cost:", "Blind spot:", "Source:", "Differs from it:"):
        assert part in (type(detector).__doc__ or ""), part


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of k_distance, lid, slof, dao"):
        build_detector("lof")


def test_all_at_once() -> None:
    table = table_of(points(20, 3), 4)
    scores = density_scores(table)
    assert list(scores) == list(DETECTORS)
    assert all(torch.equal(score, build_detector(name).score(table)) for name, score in scores.items())


def test_the_names_can_be_listed_without_torch() -> None:
    code = "import sys, roclip_audit.sanitize.detectors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@every
@settings(max_examples=40)
@given(points_ND=clumpy(), k=st.integers(1, 8))
def test_finite_float64_and_repeatable(name: str, points_ND: Tensor, k: int) -> None:
    table = table_of(points_ND, k)
    score = build_detector(name).score(table)
    assert score.shape == (len(points_ND),)
    assert score.dtype == torch.float64
    assert score.isfinite().all()
    assert torch.equal(score, build_detector(name).score(table))


@every
@settings(max_examples=40)
@given(points_ND=clumpy(), k=st.integers(1, 8), seed=st.integers(0, 99))
def test_the_order_of_the_pairs_makes_no_difference(name: str, points_ND: Tensor, k: int, seed: int) -> None:
    order = torch.randperm(len(points_ND), generator=torch.Generator().manual_seed(seed))
    score = build_detector(name).score(table_of(points_ND, k))
    shuffled = build_detector(name).score(table_of(points_ND[order], k))
    torch.testing.assert_close(shuffled, score[order], rtol=1e-6, atol=1e-6)


@every
@settings(max_examples=40)
@given(points_ND=clumpy(), k=st.integers(1, 8), power=st.integers(-8, 8))
def test_behaviour_under_scaling(name: str, points_ND: Tensor, k: int, power: int) -> None:
    scale = 2.0**power
    score = build_detector(name).score(table_of(points_ND, k))
    scaled = build_detector(name).score(table_of(points_ND * scale, k))
    torch.testing.assert_close(scaled, score * scale ** DEGREE[name], rtol=1e-9, atol=1e-9)


@every
@settings(max_examples=20)
@given(points_ND=clumpy(), k=st.integers(1, 8), seed=st.integers(0, 99))
def test_a_score_does_not_depend_on_the_batch(name: str, points_ND: Tensor, k: int, seed: int) -> None:
    table = table_of(points_ND, k)
    rows = torch.randperm(len(points_ND), generator=torch.Generator().manual_seed(seed))[: len(points_ND) // 2]
    detector = build_detector(name)
    torch.testing.assert_close(detector.score(subset(table, rows)), detector.score(table)[rows], rtol=1e-12, atol=0)


@every
@pytest.mark.parametrize("n_reference", [220, 100])
def test_isolated_points_rank_first(name: str, n_reference: int) -> None:
    """Twenty stray vectors, each alone, halfway from two caps of a hundred that spread in four directions."""
    centre = normalize(points(2, 256, seed=1), dim=1).repeat_interleave(100, 0)
    spread = points(200, 4, seed=2) @ normalize(points(4, 256, seed=3), dim=1)
    caps = normalize(centre + 0.05 * spread, dim=1)
    strays = normalize(centre[::10] + normalize(points(20, 256, seed=4), dim=1), dim=1)
    vectors = torch.cat([caps, strays]).float()
    rows = torch.randperm(220, generator=torch.Generator().manual_seed(5))[:n_reference]
    table = table_from_similarity(*nearest(vectors, vectors[rows], 11), rows)
    score = build_detector(name).score(table)
    assert score[200:].min() > score[:200].max()


@every
def test_identical_points_are_all_the_same(name: str) -> None:
    vectors = normalize(torch.ones(12, 8), dim=1)
    table = table_from_similarity(*nearest(vectors, vectors, 5), torch.arange(12))
    assert build_detector(name).score(table).tolist() == [NEUTRAL[name]] * 12


@every
@pytest.mark.parametrize("n", [0, 1])
def test_no_neighbour_is_neutral(name: str, n: int) -> None:
    assert build_detector(name).score(table_of(points(n, 3), 4)).tolist() == [NEUTRAL[name]] * n


@every
def test_fewer_rows_than_k_is_the_k_there_is(name: str) -> None:
    few = points(6, 3)
    torch.testing.assert_close(
        build_detector(name).score(table_of(few, 9)), build_detector(name).score(table_of(few, 5))
    )


@every
def test_copies_of_a_stray_point_hide_it(name: str) -> None:
    """The blind spot that ``sanitize.anomaly`` has the duplicate counts for."""
    clump = torch.cat([points(60, 4), torch.full((10, 4), 25.0, dtype=torch.float64)])
    score = build_detector(name).score(table_of(clump, 5))
    assert score[60:].tolist() == [NEUTRAL[name]] * 10
