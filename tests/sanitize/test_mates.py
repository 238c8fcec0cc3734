from __future__ import annotations

import torch
from torch import Tensor

from roclip_audit.sanitize.mates import blocks_of, find_mates, stack_together
from tests.sanitize.datakit import near_of


def mates(caption_N: list[int], index_CK: list[list[int]], k: int) -> Tensor:
    return find_mates(near_of(caption_N, index_CK), k)


def test_mates_are_those_of_the_same_caption_then_of_the_nearest() -> None:
    found = mates([0, 1, 0, 2], [[2, 1], [0, -1], [1, 0]], 4)
    assert found.tolist() == [[2, 3, 1, -1], [0, 2, -1, -1], [0, 3, 1, -1], [1, 0, 2, -1]]


def test_a_common_caption_leaves_room_for_others() -> None:
    found = mates([0] * 100 + [1], [[1], [0]], 8)
    assert (found[0] == 100).any()
    assert len(set(found[-1].tolist()) - {-1}) == 8  # evenly spaced pairs of the common caption


def test_blocks_keep_clusters_together_and_miss_none() -> None:
    cluster = torch.tensor([2, 0, 2, 5, 2, 0])
    blocks = [block.tolist() for block in blocks_of(cluster, 2)]
    assert blocks == [[1, 5], [0, 2], [4], [3]]


def test_rows_and_mates_are_stacked_once() -> None:
    rows, mates_BK = torch.tensor([7, 3]), torch.tensor([[3, 9], [5, -1]])
    everyone, own, mate_BK = stack_together(rows, mates_BK)
    assert everyone.unique(return_counts=True)[1].tolist() == [1] * len(everyone)
    assert everyone[own].tolist() == rows.tolist()
    known = mates_BK >= 0
    assert everyone[mate_BK][known].tolist() == mates_BK[known].tolist()
