"""Batches and token ids: functions of seed, epoch and pair, whoever prepares them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from roclip_audit.core.seeding import derive_seed
from roclip_audit.core.tokens import Tokenize
from roclip_audit.train.data.eda import Eda
from roclip_audit.train.data.loader import CaptionTokens, load_batches, pinned
from roclip_audit.train.data.pairs import PairTable
from roclip_audit.train.data.pictures import Canvases
from tests.train.trainkit import make_table

N_CHARS = 64


def characters(captions: list[str]) -> torch.Tensor:
    """Tokenise to code points, so that a test can read them."""
    return torch.tensor([[ord(c) for c in caption.ljust(N_CHARS)[:N_CHARS]] for caption in captions])


def text(tokens_NL: torch.Tensor) -> list[str]:
    return ["".join(map(chr, row)).rstrip() for row in tokens_NL.tolist()]


class NumberedPictures:
    """Canvases that hold the number of their pair; implements ``Pictures`` and remembers its threads."""

    def __init__(self) -> None:
        self.threads: set[str] = set()

    def load(self, pairs: NDArray[np.int64]) -> Canvases:
        self.threads.add(threading.current_thread().name)
        numbers = torch.from_numpy(pairs).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
        return Canvases(
            pixels_NCHW=numbers, aspect_N=torch.ones(len(pairs)), readable_N=torch.ones(len(pairs), dtype=torch.bool)
        )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PairTable:
    return make_table(tmp_path_factory.mktemp("shards"), 16)


def tokens_of(table: PairTable, seed: int = 0) -> CaptionTokens:
    return CaptionTokens(table.captions, Tokenize(characters, 77), seed=seed)


PAIRS = np.arange(16)


def test_plain_captions_are_the_captions(table: PairTable) -> None:
    assert text(tokens_of(table)(PAIRS[::-1], "plain")) == [table.captions[i] for i in range(15, -1, -1)]


def test_eda_is_drawn_for_every_epoch_view_and_pair_from_the_seed(table: PairTable) -> None:
    found = text(tokens_of(table, seed=4)(PAIRS, "eda", epoch=3, place=1))
    assert found == text(tokens_of(table, seed=4)(PAIRS, "eda", epoch=3, place=1))
    others = [
        text(tokens_of(table, seed=seed)(PAIRS, "eda", epoch=epoch, place=place))
        for seed, epoch, place in ((5, 3, 1), (4, 4, 1), (4, 3, 0))
    ]
    assert all(other != found for other in others)


def test_eda_of_strict_is_drawn_once(table: PairTable) -> None:
    tokens = tokens_of(table)
    first = text(tokens(PAIRS, "eda_once", epoch=1))
    assert all(text(tokens(PAIRS, "eda_once", epoch=epoch)) == first for epoch in (2, 3, 9))
    eda = Eda()
    assert first == [eda(table.captions[i], derive_seed(0, "eda", 0, 0, i)) for i in range(16)]


def test_eda_does_not_depend_on_the_batch(table: PairTable) -> None:
    tokens = tokens_of(table)
    assert text(tokens(PAIRS[6:9], "eda", epoch=2)) == text(tokens(PAIRS, "eda", epoch=2))[6:9]


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_come_in_order_from_a_step_on_and_a_rank_gets_its_part(table: PairTable, workers: int) -> None:
    batches = np.random.default_rng(0).permutation(16).reshape(4, 4)
    pictures = NumberedPictures()
    found = list(
        load_batches(
            batches,
            pictures,
            tokens_of(table),
            ("plain", "eda"),
            epoch=2,
            first_step=1,
            part=slice(2, 4),
            workers=workers,
        )
    )
    assert [batch.step for batch in found] == [1, 2, 3]
    for batch in found:
        expected = batches[batch.step, 2:4]
        assert batch.pair_N.tolist() == expected.tolist()
        assert batch.canvases.pixels_NCHW[:, 0, 0, 0].tolist() == expected.tolist()
        plain, eda = batch.tokens_VNL
        assert text(plain) == [table.captions[i] for i in expected]
        assert torch.equal(eda, tokens_of(table)(expected, "eda", epoch=2, place=1))
    assert threading.current_thread().name not in pictures.threads


def test_two_ranks_together_see_what_one_sees(table: PairTable) -> None:
    batches = np.arange(16).reshape(2, 8)

    def tokens_seen(part: slice) -> list[torch.Tensor]:
        loaded = load_batches(batches, NumberedPictures(), tokens_of(table), ("eda",), epoch=5, part=part)
        return [batch.tokens_VNL[0] for batch in loaded]

    halves = zip(tokens_seen(slice(0, 4)), tokens_seen(slice(4, 8)), strict=True)
    for whole, both in zip(tokens_seen(slice(None)), halves, strict=True):
        assert torch.equal(whole, torch.cat(both))


def test_nothing_is_copied_where_it_lies_right(tmp_path: Path) -> None:
    tensor = torch.ones(3)
    assert pinned(tensor, torch.device("cpu")) is tensor
