"""Batches of one rank, prepared ahead of the loop by threads: canvases and token ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roclip_audit.core.parallel import map_ordered
from roclip_audit.core.seeding import derive_seed
from roclip_audit.core.tokens import Tokenize
from roclip_audit.train.data.eda import Eda, EdaConfig
from roclip_audit.train.data.order import Order
from roclip_audit.train.data.pairs import Captions
from roclip_audit.train.data.pictures import Canvases, Pictures
from roclip_audit.train.methods.base import TextView

AHEAD: Final = 3
"""Batches that each thread prepares in advance, fewer where there are many threads: a batch may take 100 MB."""
MOST_AHEAD: Final = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One rank's part of a global batch.

    Attributes:
        step: of the epoch, from 0.
        pair_N: numbers of the pairs in the table.
        canvases: their pictures.
        tokens_VNL: one int64 [N, L] a text view.
    """

    step: int
    pair_N: NDArray[np.int64]
    canvases: Canvases
    tokens_VNL: tuple[Tensor, ...]


class CaptionTokens:
    """Token ids of captions, augmented or not.

    Args:
        captions: of all pairs.
        tokenize: the model's.
        seed: of the run; EDA of a caption depends on (seed, epoch, view, pair) and nothing else.
    """

    def __init__(self, captions: Captions, tokenize: Tokenize, *, seed: int) -> None:
        self._captions = captions
        self._tokenize = tokenize
        self._seed = seed
        self._eda = {"eda": Eda(EdaConfig(least_one=False)), "eda_once": Eda()}

    def __call__(self, pairs: NDArray[np.int64], view: TextView, *, epoch: int = 0, place: int = 0) -> Tensor:
        """Return int64 [N, L].

        Args:
            pairs: [N].
            view: how the captions are augmented.
            epoch: from 1.
            place: number of the view among those of the batch.
        """
        texts = [self._captions[int(pair)] for pair in pairs]
        if view != "plain":
            epoch = 0 if view == "eda_once" else epoch
            seeds = (derive_seed(self._seed, "eda", epoch, place, int(pair)) for pair in pairs)
            augment = self._eda[view]
            texts = [augment(text, seed) for text, seed in zip(texts, seeds, strict=True)]
        return self._tokenize(texts)


def load_batches(
    batches: Order,
    pictures: Pictures,
    tokens: CaptionTokens,
    views: tuple[TextView, ...],
    *,
    epoch: int,
    first_step: int = 0,
    part: slice = slice(None),
    workers: int = 2,
) -> Iterator[Batch]:
    """Yield a rank's part of the batches of an epoch in order, from a step on.

    Args:
        batches: [S, batch_size] from ``order.epoch_batches``.
        pictures: where pictures come from.
        tokens: where token ids come from.
        views: text views of every pair.
        epoch: from 1.
        first_step: where to begin.
        part: this rank's columns.
        workers: threads.
    """

    def load(step: int) -> Batch:
        pair_N = batches[step, part]
        tokens_VNL = tuple(tokens(pair_N, view, epoch=epoch, place=place) for place, view in enumerate(views))
        return Batch(step=step, pair_N=pair_N, canvases=pictures.load(pair_N), tokens_VNL=tokens_VNL)

    ahead = max(1, min(AHEAD, MOST_AHEAD // workers))
    yield from map_ordered(load, range(first_step, len(batches)), workers=workers, ahead=ahead, one_thread=False)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on the device, copied while the device goes on computing where that is possible."""
    if tensor.device.type == device.type or device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
