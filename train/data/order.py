"""Which pairs make up which batch: a function of (seed, epoch, step) alone.

Shards are shuffled, and pairs within a window that slides over them, so that reading stays nearly sequential. Each
global batch is cut over the ranks, every rank has the same number of steps, and no batch holds two pairs of one uid:
the second copy waits for the next batch (a contrastive loss would push the two apart).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.seeding import generator

Order = NDArray[np.int64]


def epoch_order(shard_N: NDArray[np.int32], *, seed: int, epoch: int, buffer: int) -> Order:
    """Return a permutation of the pairs for one epoch.

    Args:
        shard_N: [N] shard of each pair, ascending.
        seed: of the run.
        epoch: from 1.
        buffer: how many pairs the shuffle buffer holds; from N on, the permutation is uniform.

    Returns:
        [N] indices. With a smaller buffer a pair moves by less than ``buffer`` places from where its shard was dealt.
    """
    rng = generator(seed, "order", epoch)
    n_pairs = len(shard_N)
    if buffer >= n_pairs:
        return rng.permutation(n_pairs)
    starts = np.flatnonzero(np.diff(shard_N, prepend=-1))
    pieces = np.split(np.arange(n_pairs), starts[1:])
    dealt = np.concatenate([pieces[place] for place in rng.permutation(len(pieces))])
    return dealt[np.argsort(np.arange(n_pairs) + rng.random(n_pairs) * buffer, kind="stable")]


def uid_groups(uid_N: NDArray[np.void]) -> NDArray[np.int64] | None:
    """Return [N] numbers that are equal where uids are, or None if no uid repeats."""
    unique, group_N = np.unique(uid_N, return_inverse=True)
    return None if len(unique) == len(uid_N) else group_N.astype(np.int64)


def epoch_batches(order: Order, group_N: NDArray[np.int64] | None, batch_size: int) -> Order:
    """Cut an order into global batches without two pairs of one group; what does not fill a batch is left out.

    Args:
        order: [N] indices.
        group_N: from ``uid_groups``.
        batch_size: of all ranks together.

    Returns:
        [S, batch_size] indices, S >= 1.

    Raises:
        ConfigError: not even one batch can be filled.
    """
    batches = order[: len(order) // batch_size * batch_size].reshape(-1, batch_size)
    if group_N is not None:
        batches = _without_copies(order, group_N, batch_size)
    if not len(batches):
        raise ConfigError(f"{len(order):,} pairs do not fill one batch of {batch_size:,}; lower --batch-size")
    return batches


def _without_copies(order: Order, group_N: NDArray[np.int64], batch_size: int) -> Order:
    waiting = np.empty(0, dtype=np.int64)
    batches: list[Order] = []
    position = 0
    while True:
        chosen, waiting = _first_of_each(waiting, group_N, batch_size)
        while len(chosen) < batch_size and position < len(order):
            piece = order[position : position + batch_size - len(chosen)]
            position += len(piece)
            chosen, left = _first_of_each(np.concatenate([chosen, piece]), group_N, batch_size)
            waiting = np.concatenate([waiting, left])
        if len(chosen) < batch_size:
            return np.stack(batches) if batches else np.empty((0, batch_size), dtype=np.int64)
        batches.append(chosen)


def _first_of_each(candidates: Order, group_N: NDArray[np.int64], most: int) -> tuple[Order, Order]:
    """Split candidates into the first of each group, at most ``most``, and the rest, both in order."""
    _, first = np.unique(group_N[candidates], return_index=True)
    taken = np.zeros(len(candidates), dtype=np.bool_)
    taken[np.sort(first)[:most]] = True
    return candidates[taken], candidates[~taken]
