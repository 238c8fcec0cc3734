"""Embed pictures and texts with a CLIP-like model: unit vectors, in float32.

    embed_images(loaded, images, "cuda")                  # a model that core.checkpoint loaded, or one in training
    Embedder(model=loaded, device="cuda", workers=8).pictures(stored, stage="test pictures")

The model is left as it was: modules in training mode are switched to evaluation and back. Pieces of work have
``batch_size`` items whatever the number of workers, so that the result does not depend on it.
Letters: N items, D dimensions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional as F

from roclip_audit.core.errors import EncoderError, ShardError
from roclip_audit.core.images import ImageProblem, cut_to_aspect
from roclip_audit.core.parallel import map_ordered
from roclip_audit.core.progress import Reporter, SilentReporter
from roclip_audit.core.tokens import Tokenize
from roclip_audit.train.attacks import Pixels
from roclip_audit.train.evaluation.pictures import Pictures, PicturesInMemory, Unread

Features = NDArray[np.float32]
Indices = NDArray[np.intp]
Stamp = Callable[[int, Pixels], Pixels]


class ClipModel(Protocol):
    """What is needed of a model; `core.checkpoint.LoadedModel` has it."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def model(self) -> nn.Module:
        """Has ``encode_image`` and ``encode_text``."""

    @property
    def preprocess(self) -> Any:  # noqa: ANN401 - torchvision's transforms have no common type
        """From a PIL image to a tensor [3, H, W]."""

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401 - open_clip's tokenisers have no common type
        """From a list of texts to token ids [N, L]."""

    @property
    def context_length(self) -> int:
        """Tokens that the text tower reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Pictures as vectors.

    Args:
        features_ND: unit vectors of the pictures that could be read.
        rows_N: their positions among all pictures, ascending.
        unread: the others.
    """

    features_ND: Features
    rows_N: Indices
    unread: tuple[Unread, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedder:
    """A model and how it is run.

    Args:
        model: its parameters lie on ``device``.
        device: of torch.
        batch_size: items at once.
        workers: threads that decode, and on the CPU embed; memory grows with workers times batch.
        reporter: told about progress.
    """

    model: ClipModel
    device: str = "cpu"
    batch_size: int = 64
    workers: int = 1
    reporter: Reporter = field(default_factory=SilentReporter)
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def pictures(
        self, pictures: Pictures, *, stage: str = "pictures", chosen: Indices | None = None, stamp: Stamp | None = None
    ) -> Embedded:
        """Embed pictures.

        Args:
            pictures: decoded here.
            stage: what progress calls it.
            chosen: positions to embed, ascending; all by default.
            stamp: changes the pixels of the picture at a position, before the model's preprocessing.

        Raises:
            ShardError: not one of them can be read.
            EncoderError: a feature is not finite.
        """
        rows = np.arange(len(pictures), dtype=np.intp) if chosen is None else chosen
        batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        done = []
        with evaluating(self.model.model), self.reporter.stage(stage, len(rows), unit="pictures") as progress:
            for one in map_ordered(lambda batch: self._batch(pictures, batch, stamp), batches, workers=self.workers):
                done.append(one)
                progress.advance(len(one.rows_N) + len(one.unread), n_errors=len(one.unread))
        unread = tuple(one for part in done for one in part.unread)
        if len(unread) == len(rows):
            first = f"; the first: {unread[0].where}, {unread[0].reason}" if unread else ""
            raise ShardError(f"{stage}: none of {len(rows):,} pictures can be read{first}")
        return Embedded(
            features_ND=np.concatenate([part.features_ND for part in done if len(part.rows_N)]),
            rows_N=np.concatenate([part.rows_N for part in done]),
            unread=unread,
        )

    def texts(self, texts: Sequence[str], *, stage: str = "texts") -> Features:
        """Embed texts as unit vectors, float32 [N, D].

        Raises:
            EncoderError: a feature is not finite.
        """
        tokenize = Tokenize(self.model.tokenizer, self.model.context_length)
        tokens = (tokenize(texts[i : i + self.batch_size]) for i in range(0, len(texts), self.batch_size))
        encode = cast(Any, self.model.model).encode_text
        done = []
        with evaluating(self.model.model), self.reporter.stage(stage, len(texts), unit="texts") as progress:
            for part in map_ordered(lambda batch: self._encode(encode, batch), tokens, workers=self.workers):
                done.append(part)
                progress.advance(len(part))
        return np.concatenate(done)

    def _batch(self, pictures: Pictures, rows: Indices, stamp: Stamp | None) -> Embedded:
        prepared, read, unread = [], [], []
        for row in rows.tolist():
            try:
                pixels = pictures.pixels(row)
            except ImageProblem as problem:
                unread.append(Unread(where=pictures.where(row), reason=problem.reason))
                continue
            image = Image.fromarray(pixels if stamp is None else stamp(row, pixels))
            prepared.append(self.model.preprocess(cut_to_aspect(image)))
            read.append(row)
        features_ND = np.empty((0, 0), dtype=np.float32)
        if prepared:
            pixels_N = torch.stack(prepared).to(_float_type(self.model.model))
            features_ND = self._encode(cast(Any, self.model.model).encode_image, pixels_N)
        return Embedded(features_ND=features_ND, rows_N=np.asarray(read, dtype=np.intp), unread=tuple(unread))

    def _encode(self, encode: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> Features:
        alone = nullcontext() if self.device == "cpu" else self._one_at_a_time
        with torch.inference_mode(), alone:
            features_ND = F.normalize(encode(batch.to(self.device)).float(), dim=-1).cpu()
        if not bool(torch.isfinite(features_ND).all()):
            raise EncoderError(f"{self.model.name}: features that are not finite; the training diverged")
        return cast(Features, features_ND.numpy())


def embed_images(
    model: ClipModel,
    images: Sequence[Image.Image | Pixels],
    device: str = "cpu",
    *,
    batch_size: int = 64,
    workers: int = 1,
) -> Features:
    """Embed pictures in memory as unit vectors, float32 [N, D].

    Args:
        model: on ``device``.
        images: PIL images or uint8 [H, W, 3], at least one.
        device: of torch.
        batch_size: pictures at once.
        workers: threads.
    """
    embedder = Embedder(model=model, device=device, batch_size=batch_size, workers=workers)
    return embedder.pictures(PicturesInMemory(images)).features_ND


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation mode; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _float_type(model: nn.Module) -> torch.dtype:
    """Return the type of the model's weights, so that one in half precision gets what it multiplies."""
    return next((p.dtype for p in model.parameters() if p.dtype.is_floating_point), torch.float32)
