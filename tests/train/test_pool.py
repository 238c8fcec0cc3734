"""The caption pool: a ring, checked against a list."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from roclip_audit.train.pool import NOBODY, CaptionPool
from tests.train.trainkit import unit

PUTS = st.lists(st.integers(1, 9), max_size=8)


def rows(*numbers: int) -> Tensor:
    """Return unit vectors in the plane, a degree for every number, so that a row tells where it came from."""
    angle = torch.tensor(numbers, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=1).float()


def put(pool: CaptionPool, first: int, n: int) -> None:
    numbers = range(first, first + n)
    pool.put(rows(*numbers), torch.tensor(list(numbers)))


@given(PUTS, st.integers(1, 12))
def test_fixed_is_a_queue_that_forgets_the_oldest(sizes: list[int], size: int) -> None:
    pool, queue, number = CaptionPool(size, 2), deque[int](maxlen=size), 0
    for n in sizes:
        put(pool, number, n)
        queue.extend(range(number, number + n))
        number += n
    by_age = pool.owner_P.roll(-pool.cursor).tolist()
    assert by_age == [NOBODY] * (size - len(queue)) + list(queue)
    assert pool.n_valid == len(queue)
    assert torch.equal(pool.rows_PD[pool.owner_P != NOBODY], rows(*(x for x in pool.owner_P.tolist() if x != NOBODY)))


@given(PUTS, st.integers(1, 12))
def test_strict_is_the_ring_of_the_released_code(sizes: list[int], size: int) -> None:
    """As lightly 1.2.39 has it, on a list."""
    pool = CaptionPool(size, 2, strict=True, generator=torch.Generator().manual_seed(0))
    noise = pool.rows_PD.clone()
    bank, pointer, number = [NOBODY] * size, 0, 0
    for n in sizes:
        put(pool, number, n)
        batch = list(range(number, number + n))
        if pointer + n >= size:
            bank[pointer:] = batch[: size - pointer]
            pointer = 0
        else:
            bank[pointer : pointer + n] = batch
            pointer += n
        number += n
    assert (pool.owner_P.tolist(), pool.cursor, pool.n_valid) == (bank, pointer, size)
    for place, owner in enumerate(bank):
        assert torch.equal(pool.rows_PD[place], noise[place] if owner == NOBODY else rows(owner)[0])


def test_the_oldest_go_first_and_a_batch_wraps_around() -> None:
    pool = CaptionPool(5, 2)
    put(pool, 0, 3)
    put(pool, 3, 4)
    assert pool.owner_P.tolist() == [5, 6, 2, 3, 4]
    assert pool.cursor == 2


def test_strict_drops_the_tail_of_a_batch_that_does_not_fit_and_begins_anew() -> None:
    pool = CaptionPool(5, 2, strict=True)
    put(pool, 0, 3)
    put(pool, 3, 4)
    assert pool.owner_P.tolist() == [0, 1, 2, 3, 4]  # 5 and 6 are lost
    assert pool.cursor == 0
    put(pool, 7, 5)
    assert pool.owner_P.tolist() == [7, 8, 9, 10, 11]
    assert pool.cursor == 0


def test_noise_wins_in_strict_and_empty_rows_never_win_in_fixed() -> None:
    strict = CaptionPool(3, 2, strict=True)
    strict.rows_PD.copy_(torch.tensor([[0.0, 32.0], [1.0, 0.0], [0.0, -1.0]]))
    assert strict.nearest(rows(80)).tolist() == [0]  # by cosine: its length of 32 does not matter here,
    assert float(strict.rows_PD[0].norm()) == 32.0  # but it is what the loss sees
    assert 2 < float(CaptionPool(100, 64, strict=True).rows_PD.norm(dim=1).mean()) < 12

    fixed = CaptionPool(3, 2)
    put(fixed, 180, 1)
    assert fixed.nearest(rows(0, 90)).tolist() == [0, 0]  # cosine -1 and 0: still better than an empty row


def test_the_nearest_is_that_of_a_full_sort() -> None:
    pool = CaptionPool(40, 8)
    pool.put(unit(33, 8, seed=1), torch.arange(33))
    images = unit(20, 8, seed=2)
    cosines = images @ pool.rows_PD[:33].T
    assert pool.nearest(images).tolist() == cosines.sort(dim=1, descending=True).indices[:, 0].tolist()


def test_the_own_caption_cannot_win() -> None:
    pool = CaptionPool(4, 2)
    put(pool, 10, 3)
    assert pool.nearest(rows(11, 30), torch.tensor([11, 11])).tolist() != [1, 2]
    assert pool.nearest(rows(12), torch.tensor([12])).tolist() == [1]
    assert pool.nearest(rows(12), torch.tensor([99])).tolist() == [2]
    assert pool.nearest(rows(12)).tolist() == [2]


def test_centred_asks_which_image_a_row_is_nearest_to_beyond_its_mean() -> None:
    """A hub, near to every image, wins all by its cosine and none by what it says of one image more than of others."""
    pool = CaptionPool(3, 2)
    put(pool, 45, 1)  # the hub: 15 degrees from either image
    put(pool, 0, 1)
    put(pool, 90, 1)
    images = rows(30, 60)
    assert pool.nearest(images).tolist() == [0, 0]
    assert pool.nearest(images, centred=True).tolist() == [1, 2]
    cosines = images @ pool.rows_PD.T
    assert pool.nearest(images, centred=True).tolist() == (cosines - cosines.mean(dim=0)).argmax(dim=1).tolist()
    assert pool.nearest(images[:1], centred=True).tolist() == [0]  # of one image there is no mean


def test_an_own_caption_is_still_better_than_an_empty_row() -> None:
    pool = CaptionPool(3, 2)
    put(pool, 5, 1)
    assert pool.nearest(rows(5), torch.tensor([5])).tolist() == [0]


def test_an_empty_pool_cannot_be_asked() -> None:
    with pytest.raises(RuntimeError, match="empty"):
        CaptionPool(3, 2).nearest(rows(1))


def test_what_is_stored_carries_no_gradient() -> None:
    pool = CaptionPool(3, 2)
    pool.put(rows(1, 2).requires_grad_(True), torch.tensor([1, 2]))
    assert not pool.rows_PD.requires_grad


@given(PUTS, st.booleans())
def test_state_and_back_and_it_goes_on_alike(sizes: list[int], strict: bool) -> None:
    one = CaptionPool(5, 2, strict=strict, generator=torch.Generator().manual_seed(1))
    for n in sizes:
        put(one, 10, n)
    other = CaptionPool(5, 2, strict=strict, generator=torch.Generator().manual_seed(2))
    other.restore(one.state())
    put(one, 50, 3)
    put(other, 50, 3)
    assert all(torch.equal(one.state()[name], other.state()[name]) for name in one.state())


def test_noise_depends_on_the_generator_only() -> None:
    drawn = [
        CaptionPool(6, 3, strict=True, generator=torch.Generator().manual_seed(seed)).rows_PD for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_rank_share_counts_what_beats_the_own_caption_beyond_its_mean() -> None:
    pool = CaptionPool(6, 4)
    pool.put(unit(5, 4, seed=1), torch.tensor([10, 11, 2, 13, 14]))  # the third row is pair 2's own, the sixth is empty
    images, texts, owners = unit(3, 4, seed=2), unit(3, 4, seed=3), torch.tensor([0, 1, 2])
    shares = []
    for i in range(3):
        own = float(images[i] @ texts[i]) - sum(float(image @ texts[i]) for image in images) / 3
        rivals = [row for row, owner in zip(pool.rows_PD, pool.owner_P.tolist(), strict=True) if owner not in (-1, i)]
        beaten = [float(images[i] @ row) - sum(float(image @ row) for image in images) / 3 > own for row in rivals]
        shares.append(sum(beaten) / len(rivals))
    assert pool.rank_share(images, texts, owners).tolist() == pytest.approx(shares)


def test_a_caption_does_not_beat_itself() -> None:
    pool = CaptionPool(4, 5)
    texts = unit(4, 5, seed=5)
    pool.put(texts, torch.tensor([20, 21, 22, 23]))  # the same captions, of other pairs
    assert pool.rank_share(texts, texts, torch.arange(4)).tolist() == [0.0] * 4
