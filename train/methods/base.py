"""What a training method decides: which views of a pair it sees, what the loss is, what has to survive a restart.

A method sees features of the global batch and numbers of pairs, never models, loaders or devices, so that every method
runs in the same loop on one process or many. V views, N pairs of the global batch, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ImageView = Literal["whole", "light", "strong", "glimpse"]
"""``whole``: the central square, as evaluation sees it; ``light``: a crop of 90 to 100 %; ``strong``: RoCLIP's;
``glimpse``: a crop of a quarter to three fifths, in which what was planted near a corner is out of sight more often
than not."""
TextView = Literal["plain", "eda", "eda_once"]
"""``eda`` is drawn anew for every epoch and changes a tenth of the words; ``eda_once`` is drawn once for the whole run
and changes at least one word of every caption, as RoCLIP's code does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """How often, and how augmented, a method wants to see each pair; at least one view of either side.

    Attributes:
        image, text: views with gradient.
        judge: one more view of the image, embedded as evaluation would; None if the method asks for none.
    """

    image: tuple[ImageView, ...]
    text: tuple[TextView, ...]
    judge: ImageView | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What the towers say about a global batch.

    Attributes:
        image_VND: one [N, D] a view, unit vectors.
        text_VND: one [N, D] a view, unit vectors.
        scale: exp of the logit scale, scalar.
        pair_N: [N] numbers of the pairs in the data set.
        judge_ND: [N, D] unit vectors of the judge's view, without gradient.
    """

    image_VND: tuple[Tensor, ...]
    text_VND: tuple[Tensor, ...]
    scale: Tensor
    pair_N: Tensor
    judge_ND: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The loss to minimise, and the parts that a log wants to see."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSettings:
    """What a method may depend on.

    Attributes:
        n_pairs: of the data set.
        batch_size: of all ranks together.
        n_epochs: of the run.
        dim: D.
        seed: of the run.
        device: of the features.
        strict: behave as the published code, its defects included.
        match_every: RoCLIP matches in every epoch that this divides.
        match_after: share of the run before the first of them (not strict).
        contest: largest share of the pool that may beat a caption that is trained on (RoCLIP fixed); 0 asks nothing.
        pool_share: size of the caption pool, share of the data set.
        augment: image and text augmentation in every epoch.
    """

    n_pairs: int
    batch_size: int
    n_epochs: int
    dim: int
    seed: int
    device: torch.device
    strict: bool = False
    match_every: int = 2
    match_after: float = 0.0
    contest: float = 0.0
    pool_share: float = 0.02
    augment: bool = True


class Embedder(Protocol):
    """What a method may ask of any pairs of the data set, without gradient; the same on every rank."""

    def texts(self, pairs: NDArray[np.int64]) -> Tensor:
        """Return unit vectors [n, D] of these pairs' captions."""
        ...

    def cosines(self) -> Tensor:
        """Return [N_all] the cosine of image and caption of every pair of the data set, on the CPU."""
        ...

    def picture_numbers(self) -> NDArray[np.int64]:
        """Return [N_all] numbers that are equal where pairs show the same picture (see ``data.repeats``)."""
        ...


class Method(Protocol):
    """A way to train on pairs that may be poisoned."""

    name: ClassVar[str]

    @classmethod
    def build(cls, settings: MethodSettings) -> Method:
        """Make the method for a run.

        Raises:
            ConfigError: the settings cannot work.
        """
        ...

    def views(self, epoch: int) -> Views:
        """Return what the method wants to see in an epoch, counted from 1."""
        ...

    def begin_epoch(self, epoch: int, embedder: Embedder) -> None:
        """Prepare for an epoch; all ranks call it."""
        ...

    def trains_text(self, epoch: int) -> bool:
        """Tell whether the text tower gets a gradient; if not, it is neither moved nor decayed in this epoch."""
        ...

    def rate(self, epoch: int) -> float:
        """Return the factor on the learning rate."""
        ...

    def is_matched(self, epoch: int) -> bool:
        """Tell whether pairs are matched anew in this epoch; its loss is on another scale, and plots mark it."""
        ...

    def loss(self, features: Features, epoch: int) -> Loss:
        """Return the loss of one global batch, and update whatever the method remembers."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what has to survive a restart."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` returned."""
        ...
