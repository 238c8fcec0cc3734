"""The contrastive loss, against open_clip's own and against a case small enough for a pencil."""

from __future__ import annotations

import math

import pytest
import torch

from roclip_audit.core.checkpoint import import_open_clip
from roclip_audit.train.losses import info_nce, same_off_diagonal
from tests.train.trainkit import unit


@pytest.mark.parametrize("n_pairs", [1, 2, 7, 32])
def test_equals_open_clips_loss_and_gradients(n_pairs: int) -> None:
    open_clip = import_open_clip()
    ours = [unit(n_pairs, 5, seed=1), unit(n_pairs, 5, seed=2), torch.tensor(13.0)]
    theirs = [tensor.clone() for tensor in ours]
    for tensor in (*ours, *theirs):
        tensor.requires_grad_(True)
    info_nce(*ours).backward()
    open_clip.ClipLoss()(*theirs).backward()
    torch.testing.assert_close(info_nce(*ours), open_clip.ClipLoss()(*theirs))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_ignored_pairs_are_no_negatives() -> None:
    """Rows 0 and 1 share a neighbour: each is left with row 2 as its only negative."""
    left = torch.eye(3)
    right = torch.tensor([[0.8, 0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.6, 0.8]])
    ignored = same_off_diagonal(torch.tensor([4, 4, 9]))
    assert ignored.tolist() == [[False, True, False], [True, False, False], [False, False, False]]

    def row(positive: float, *negatives: float) -> float:
        return -math.log(math.exp(2 * positive) / sum(math.exp(2 * x) for x in (positive, *negatives)))

    # cosines of left i and right j: [[.8, .6, 0], [.6, .8, .6], [0, 0, .8]]
    across = row(0.8, 0.0) + row(0.8, 0.6) + row(0.8, 0.0, 0.0)
    down = row(0.8, 0.0) + row(0.8, 0.0) + row(0.8, 0.0, 0.6)
    assert float(info_nce(left, right, 2.0, ignored)) == pytest.approx((across / 3 + down / 3) / 2, rel=1e-6)


def test_ignored_pairs_get_no_gradient_from_each_other() -> None:
    left, right = unit(2, 4, seed=1).requires_grad_(True), unit(2, 4, seed=2)
    loss = info_nce(left, right, 10.0, same_off_diagonal(torch.tensor([3, 3])))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert left.grad is not None
    assert not left.grad.any()


def test_rows_that_are_not_trained_are_negatives_of_the_others_and_nothing_more() -> None:
    """Row 1 is drawn to nothing, and what it says of itself does not count."""
    right = torch.tensor([[0.8, 0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.6, 0.8]], requires_grad=True)
    loss = info_nce(torch.eye(3), right, 2.0, trained_N=torch.tensor([True, False, True]))

    def row(positive: float, *negatives: float) -> float:
        return -math.log(math.exp(2 * positive) / sum(math.exp(2 * x) for x in (positive, *negatives)))

    # cosines of left i and right j: [[.8, .6, 0], [.6, .8, .6], [0, 0, .8]]
    across = row(0.8, 0.6, 0.0) + row(0.8, 0.0, 0.0)
    down = row(0.8, 0.6, 0.0) + row(0.8, 0.0, 0.6)
    assert float(loss.detach()) == pytest.approx((across / 2 + down / 2) / 2, rel=1e-6)
    loss.backward()
    assert right.grad is not None
    by_cosine = right.grad.T  # left is the identity: entry i, j of the cosines is entry j, i of right
    assert float(by_cosine[1, 1]) == 0.0
    assert (by_cosine[[0, 2], [0, 2]] < 0).all()
    assert (by_cosine[[1, 0, 1, 2], [0, 1, 2, 1]] > 0).all()
    everything = torch.ones(3, dtype=torch.bool)
    plain = info_nce(torch.eye(3), right.detach(), 2.0)
    assert float(info_nce(torch.eye(3), right.detach(), 2.0, trained_N=everything)) == float(plain)


def test_the_scale_may_be_a_tensor_or_a_number() -> None:
    left, right = unit(4, 3, seed=1), unit(4, 3, seed=2)
    assert float(info_nce(left, right, 7.0)) == float(info_nce(left, right, torch.tensor(7.0)))
