"""Exact neighbours against a full sort in float64, on the exact path and on the rough one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from roclip_audit.core import neighbours
from roclip_audit.core.neighbours import nearest

ROUGH_BASE = 2_500  # above this many base vectors the rough path is taken, where the processor has it


def unit(n: int, dim: int = 24, *, seed: int = 0) -> Tensor:
    return normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def full_sort(query: Tensor, base: Tensor, k: int, group: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return the k highest cosines, float64 [N, k], -inf where there are fewer."""
    score = query.double() @ base.double().T
    if group is not None:
        score[group[0][:, None] == group[1][None]] = -torch.inf
    padding = score.new_full((len(query), k), -torch.inf)
    return torch.cat([score, padding], 1).sort(dim=1, descending=True).values[:, :k]


def check(query: Tensor, base: Tensor, k: int, group: tuple[Tensor, Tensor] | None = None, *, workers: int = 1) -> None:
    """The similarities are those of a full sort, the rows have them, and no row is named twice."""
    grouped = {} if group is None else {"query_group_N": group[0], "base_group_M": group[1]}
    similarity, index = nearest(query, base, k, workers=workers, **grouped)
    assert similarity.shape == index.shape == (len(query), k)
    assert similarity.dtype == torch.float32
    assert index.dtype == torch.int64
    torch.testing.assert_close(similarity.double(), full_sort(query, base, k, group), rtol=0, atol=2e-6)
    assert torch.equal(index < 0, similarity.isneginf())
    if not len(base):
        return
    named = (query.double()[:, None] * base.double()[index.clamp_min(0)]).sum(2)
    torch.testing.assert_close(named[index >= 0], similarity[index >= 0].double(), rtol=0, atol=2e-6)
    assert all(len(set(row)) == len(row) for row in ([x for x in row if x >= 0] for row in index.tolist()))
    if group is not None:
        assert not ((group[1][index.clamp_min(0)] == group[0][:, None]) & (index >= 0)).any()


@given(st.integers(0, 40), st.integers(0, 80), st.integers(1, 90), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=20)
def test_equals_a_full_sort(n: int, m: int, k: int, dim: int, seed: int) -> None:
    check(unit(n, dim, seed=seed), unit(m, dim, seed=seed + 1), k)


@given(st.integers(0, 30), st.integers(0, 60), st.integers(1, 20), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=20)
def test_leaves_out_the_own_group(n: int, m: int, k: int, n_groups: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    group = torch.randint(n_groups, (n,), generator=rng), torch.randint(n_groups, (m,), generator=rng)
    check(unit(n, seed=seed), unit(m, seed=seed + 1), k, group)


@pytest.mark.parametrize("k", [1, 7, 200])
def test_large_bases_go_through_chunks_blocks_and_the_rough_path(k: int) -> None:
    base = unit(20_003, 12)  # more than one block of the base, no multiple of a chunk
    check(unit(40, 12, seed=1), base, k)


def test_more_queries_than_a_block() -> None:
    check(unit(1_100, 8), unit(300, 8, seed=1), 4)


@pytest.mark.parametrize("m", [50, ROUGH_BASE])
def test_the_number_of_workers_changes_no_bit(m: int) -> None:
    query, base = unit(1_200, 16), unit(m, 16, seed=1)
    one = nearest(query, base, 5)
    for workers in (2, 3):
        other = nearest(query, base, 5, workers=workers)
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("m", [100, ROUGH_BASE])
def test_identical_vectors_tie_in_ascending_order(m: int) -> None:
    base = unit(1, 16).repeat(m, 1)
    similarity, index = nearest(base[:20], base, 6)
    torch.testing.assert_close(similarity, torch.ones(20, 6))
    assert (index.diff(dim=1) > 0).all()
    base = torch.cat([unit(m, 16, seed=3)] * 2)  # everything twice
    check(base[:50], base, 9)


@pytest.mark.parametrize("m", [0, 1, 30, ROUGH_BASE])
def test_no_queries(m: int) -> None:
    similarity, index = nearest(unit(0), unit(m), 3)
    assert similarity.shape == index.shape == (0, 3)
    assert index.dtype == torch.int64


def test_no_base() -> None:
    similarity, index = nearest(unit(4), unit(0), 3)
    assert similarity.isneginf().all()
    assert (index == -1).all()


@pytest.mark.parametrize("n_others", [0, 1, 5])
def test_one_huge_group_leaves_hardly_anybody(n_others: int) -> None:
    m = 2 * ROUGH_BASE + 3
    base = unit(m)
    group = torch.zeros(m, dtype=torch.int64)
    group[m - n_others :] = torch.arange(1, n_others + 1)
    check(base[:600], base, 4, (group[:600], group))


def test_near_duplicates_in_the_hundreds_are_told_apart() -> None:
    """Crowded neighbourhoods: hundreds of candidates within the rounding of the rough products."""
    near = normalize(unit(1, 64) + 1e-3 * unit(400, 64, seed=1), dim=1)
    base = torch.cat([near, unit(ROUGH_BASE, 64, seed=2)])
    check(near[:100], base, 20)


def adversarial() -> tuple[Tensor, Tensor]:
    """One query, itself hidden in the base where rounding to bfloat16 loses most of its cosine, and near misses.

    All entries of the query lie just below the middle of two bfloat16 numbers and round down: its cosine with itself
    falls from 1 to about 1 - 2**-7. The near misses lose half of that; one of them has an exact cosine of 1 - 2**-8.
    """
    dim = 254
    query = torch.full((1, dim), 1 + 2.0**-8 - 2.0**-14) / 16  # of length 0.9999
    sign = torch.randn(200, dim, generator=torch.Generator().manual_seed(0)).sign()
    spread = torch.linspace(0.05, 0.125, 200)[:, None]  # cosines of about 1 - spread**2 / 2
    misses = normalize(query * (1 + spread * sign), dim=1)
    return query, torch.cat([misses, query, unit(ROUGH_BASE, dim, seed=5)])


def test_rounding_really_hides_the_nearest_of_the_adversarial_base() -> None:
    query, base = adversarial()
    exact, rough = (query @ base.T)[0], (query.bfloat16().float() @ base.bfloat16().float().T)[0]
    assert exact.argmax() == 200
    assert (rough > rough[200]).sum() > 49
    assert exact[200] - rough[200] > 2.0**-8  # more than one rounding of one factor


def rough_search(query: Tensor, base: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Search as on a processor that multiplies bfloat16 in hardware."""
    return neighbours._search_block(query, base, k, None, None, base.bfloat16(), neighbours._rounding_error(base))


def test_the_certificate_catches_it() -> None:
    query, base = adversarial()
    check(query, base, 1)
    _, index, unsure = rough_search(query, base, 1)
    assert index[0, 0] == 200 or unsure[0]


@given(
    st.integers(0, 10_000),
    st.sampled_from([4, 32, 254]),
    st.sampled_from([1e-3, 1e-2, 0.1, 1.0]),
    st.sampled_from([1, 3, 16]),
    st.booleans(),
)
@settings(max_examples=30)
def test_a_row_that_is_sure_has_missed_nothing(seed: int, dim: int, spread: float, k: int, on_a_grid: bool) -> None:
    """The rough search, on any processor: where it does not ask to be repeated it equals the full sort."""
    centre = unit(3, dim, seed=seed)
    base = centre.repeat(80, 1) + spread * unit(240, dim, seed=seed + 1)
    if on_a_grid:  # entries of equal size, which rounding moves all in the same direction
        base = base.sign() * (1 + 2.0**-8 * (1 + spread * unit(240, dim, seed=seed + 2)))
    base = normalize(base, dim=1)
    query = base[:25]
    similarity, index, unsure = rough_search(query, base, k)
    expected = full_sort(query, base, k)
    torch.testing.assert_close(similarity.double()[~unsure], expected[~unsure], rtol=0, atol=2e-6)
    assert (index >= 0).all()
