"""Ordered work on threads: order, laziness, errors, and results that no number of workers changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import faiss
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roclip_audit.core.parallel import default_workers, map_ordered, one_thread_each
from roclip_audit.core.seeding import derive_seed, generator


@given(st.lists(st.integers(), max_size=30), st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=30)
def test_results_come_in_the_order_of_the_items(items: list[int], workers: int, ahead: int) -> None:
    assert list(map_ordered(lambda x: x * 2, items, workers=workers, ahead=ahead)) == [x * 2 for x in items]


def test_slow_items_do_not_change_the_order() -> None:
    gate = threading.Event()

    def work(x: int) -> int:
        if x == 0:
            assert gate.wait(10)
        else:
            gate.set()
        return x

    assert list(map_ordered(work, range(6), workers=3)) == list(range(6))


def test_items_are_taken_only_as_far_ahead_as_allowed() -> None:
    taken = []

    def items() -> Iterator[int]:
        for x in range(100):
            taken.append(x)
            yield x

    results = map_ordered(lambda x: x, items(), workers=2, ahead=2)
    for x in range(10):
        assert next(results) == x
        assert len(taken) <= x + 1 + 4
    results.close()  # type: ignore[attr-defined]
    assert len(taken) < 20


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_comes_at_the_place_of_its_item(workers: int) -> None:
    def work(x: int) -> int:
        if x == 4:
            raise ValueError("item 4")
        return x

    got = []

    def collect() -> None:
        got.extend(map_ordered(work, range(50), workers=workers))

    with pytest.raises(ValueError, match="item 4"):
        collect()
    assert got == [0, 1, 2, 3]


def test_every_piece_runs_with_one_thread() -> None:
    assert set(map_ordered(lambda _: torch.get_num_threads(), range(8), workers=2)) == {1}
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    with one_thread_each():
        assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == (1, 1)
    assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == before


def test_products_are_the_same_bits_for_every_number_of_workers() -> None:
    matrix = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    blocks = matrix.split(37)
    one = torch.cat(list(map_ordered(lambda block: block @ matrix, blocks, workers=1)))
    assert torch.equal(one, torch.cat(list(map_ordered(lambda block: block @ matrix, blocks, workers=3))))


def test_there_is_at_least_one_worker() -> None:
    assert default_workers() >= 1


def test_seeds_are_the_same_everywhere_and_differ_by_every_part() -> None:
    assert derive_seed(0, "heads", 3) == 8_644_126_993_140_013_346
    seeds = {derive_seed(0), derive_seed(1), derive_seed(0, "a"), derive_seed(0, "b"), derive_seed(0, "a", "b")}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(st.integers(), st.text())
def test_generators_repeat(seed: int, name: str) -> None:
    assert generator(seed, name).integers(2**62) == generator(seed, name).integers(2**62)
