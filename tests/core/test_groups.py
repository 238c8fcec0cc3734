"""Components against a simple search, and first rows."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roclip_audit.core.groups import connected_groups, first_of_each, one_of_each
from roclip_audit.core.neighbours import nearest


def simple_components(n: int, edges: list[tuple[int, int]]) -> list[int]:
    """Spread the smallest number along the edges until nothing changes."""
    label = list(range(n))
    while True:
        before = list(label)
        for one, other in edges:
            label[one] = label[other] = min(label[one], label[other])
        if label == before:
            break
    order = {value: number for number, value in enumerate(dict.fromkeys(label))}
    return [order[value] for value in label]


@given(st.data(), st.integers(0, 25), st.integers(1, 4), st.floats(0.2, 0.95))
@settings(max_examples=60)
def test_components_equal_a_simple_search(data: st.DataObject, n: int, k: int, threshold: float) -> None:
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    similarity = torch.rand(n, k, generator=rng)
    index = torch.randint(-1, max(n, 1), (n, k), generator=rng) if n else torch.empty(0, k, dtype=torch.int64)
    edges = [
        (row, int(index[row, slot]))
        for row in range(n)
        for slot in range(k)
        if similarity[row, slot] >= threshold and index[row, slot] >= 0
    ]
    got = connected_groups(similarity, index, threshold)
    assert got.dtype == torch.int64
    assert got.tolist() == simple_components(n, edges)


def test_a_long_chain_is_one_group() -> None:
    n = 5_000
    index = torch.arange(1, n + 1).clamp_max(n - 1)[:, None]
    assert connected_groups(torch.ones(n, 1), index, 0.5).max() == 0
    backward = torch.arange(-1, n - 1).clamp_min(0)[:, None]
    assert connected_groups(torch.ones(n, 1), backward, 0.5).max() == 0


def test_hundreds_of_copies_are_one_group_though_only_a_few_neighbours_are_looked_up() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(50, 16, generator=rng), dim=1)
    copies = torch.cat([images, images[:1].repeat(300, 1)])
    group = connected_groups(*nearest(copies, copies, 8), 0.98)
    assert (group[50:] == group[0]).all()
    assert group[:50].tolist() == list(range(50))


@given(st.lists(st.integers(0, 9), max_size=30))
def test_first_of_each(numbers: list[int]) -> None:
    first = first_of_each(torch.tensor(numbers, dtype=torch.int64))
    expected = [numbers.index(x) if x in numbers else -1 for x in range(max(numbers, default=-1) + 1)]
    assert first.tolist() == expected


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.data())
def test_one_of_each(numbers: list[int], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(numbers) - 1), max_size=30, unique=True))
    found = one_of_each(torch.tensor(rows, dtype=torch.int64), torch.tensor(numbers, dtype=torch.int64))
    held = [numbers[row] for row in rows]
    assert found.tolist() == [rows[held.index(number)] for number in sorted(set(held))]
