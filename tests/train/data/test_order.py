"""Which pairs make up which batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.data.order import epoch_batches, epoch_order, uid_groups

SHARDS = st.lists(st.integers(1, 20), min_size=1, max_size=8)


def shard_of_each(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


@given(SHARDS, st.integers(0, 5), st.integers(1, 4), st.integers(1, 60))
def test_an_order_is_a_permutation_that_seed_and_epoch_decide(
    sizes: list[int], seed: int, epoch: int, buffer: int
) -> None:
    shard_N = shard_of_each(sizes)
    order = epoch_order(shard_N, seed=seed, epoch=epoch, buffer=buffer)
    assert sorted(order) == list(range(len(shard_N)))
    assert np.array_equal(order, epoch_order(shard_N, seed=seed, epoch=epoch, buffer=buffer))


def test_another_seed_or_epoch_is_another_order() -> None:
    shard_N = shard_of_each([50] * 4)
    orders = {
        epoch_order(shard_N, seed=seed, epoch=epoch, buffer=buffer).tobytes()
        for seed in (0, 1)
        for epoch in (1, 2)
        for buffer in (30, 200)
    }
    assert len(orders) == 8


@given(SHARDS, st.integers(0, 99), st.integers(1, 30))
def test_a_buffer_bounds_how_far_a_pair_moves(sizes: list[int], seed: int, buffer: int) -> None:
    shard_N = shard_of_each(sizes)
    order = epoch_order(shard_N, seed=seed, epoch=1, buffer=buffer)
    if buffer >= len(order):
        return
    dealt = epoch_order(shard_N, seed=seed, epoch=1, buffer=1)  # the same shuffle of the shards, and nothing else
    moved = np.abs(np.argsort(order)[dealt] - np.arange(len(dealt)))
    assert moved.max() < buffer


@given(SHARDS, st.integers(0, 99))
def test_a_buffer_of_one_only_shuffles_the_shards(sizes: list[int], seed: int) -> None:
    shard_N = shard_of_each(sizes)
    order = epoch_order(shard_N, seed=seed, epoch=1, buffer=1)
    for number in range(len(sizes)):
        pairs = np.flatnonzero(shard_N == number)
        place = int(np.flatnonzero(order == pairs[0])[0])
        assert np.array_equal(order[place : place + len(pairs)], pairs)


def test_a_large_buffer_mixes_uniformly() -> None:
    """A pair's place has mean (N - 1) / 2 and variance (N^2 - 1) / 12 over many epochs."""
    shard_N = shard_of_each([6, 6])
    places = np.array([np.argsort(epoch_order(shard_N, seed=0, epoch=e, buffer=12))[0] for e in range(1, 801)])
    assert abs(places.mean() - 5.5) < 4 * np.sqrt(143 / 12 / 800)


def test_equal_uids_are_one_group() -> None:
    uid_N = np.frombuffer(bytes(16) + bytes(15) + b"\1" + bytes(16), dtype="V16")
    groups = uid_groups(uid_N)
    assert groups is not None
    assert groups[0] == groups[2] != groups[1]
    assert uid_groups(uid_N[:2]) is None


GROUPS = st.lists(st.integers(0, 12), min_size=1, max_size=80)


@given(GROUPS, st.integers(2, 7), st.randoms())
def test_no_batch_holds_two_pairs_of_one_uid(groups: list[int], batch_size: int, random: object) -> None:
    group_N = np.array(groups)
    order = np.array(groups).argsort(kind="stable")
    random.shuffle(order)  # type: ignore[attr-defined]
    try:
        batches = epoch_batches(order, group_N, batch_size)
    except ConfigError:
        assert len(set(groups)) < batch_size
        return
    assert batches.shape[1] == batch_size
    assert all(len(set(group_N[batch])) == batch_size for batch in batches)
    used = batches.ravel().tolist()
    assert len(set(used)) == len(used)
    left = [index for index in order.tolist() if index not in set(used)]
    assert len({groups[index] for index in left}) < batch_size  # not one batch more could be filled from the rest


@given(st.integers(1, 90), st.integers(2, 9))
def test_without_copies_nothing_but_the_tail_is_lost(n_pairs: int, batch_size: int) -> None:
    order = np.random.default_rng(n_pairs).permutation(n_pairs)
    expected = order[: n_pairs // batch_size * batch_size]
    if not len(expected):
        with pytest.raises(ConfigError, match="lower --batch-size"):
            epoch_batches(order, None, batch_size)
        return
    assert np.array_equal(epoch_batches(order, None, batch_size).ravel(), expected)
    assert np.array_equal(epoch_batches(order, np.arange(n_pairs), batch_size).ravel(), expected)


def test_a_copy_waits_for_the_next_batch() -> None:
    group_N = np.array([7, 7, 1, 2, 3, 4])
    assert epoch_batches(np.arange(6), group_N, 2).tolist() == [[0, 2], [1, 3], [4, 5]]
