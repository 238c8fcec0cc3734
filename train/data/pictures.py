"""Decode pictures to square canvases: streamed from the shards, or all of them once and kept on a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from roclip_audit.core.images import ImageProblem, cut_to_aspect, decode_image
from roclip_audit.core.parallel import map_ordered
from roclip_audit.core.progress import Reporter, SilentReporter
from roclip_audit.train.data.pairs import OpenShards, PairTable

MAX_PIXELS: Final = 50_000_000
_CHUNK: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvases:
    """N pictures, each squashed to a square.

    Attributes:
        pixels_NCHW: uint8 [N, 3, S, S].
        aspect_N: float32 [N] width over height before.
        readable_N: bool [N]; false where the picture could not be decoded: its pixels are zero and must not be used.
    """

    pixels_NCHW: Tensor
    aspect_N: Tensor
    readable_N: Tensor


class Pictures(Protocol):
    """Where the pictures of a batch come from. Methods may be called from several threads."""

    def load(self, pairs: NDArray[np.int64]) -> Canvases:
        """Return the canvases of these pairs, in this order."""
        ...


def to_canvas(encoded: bytes, side_px: int) -> tuple[NDArray[np.uint8], float] | None:
    """Decode one picture and squash it to uint8 [S, S, 3]; None if it cannot be used.

    A picture longer than MAX_ASPECT : 1 is cut to its middle, as ``scan`` does.

    Returns:
        Pixels, and width over height before.
    """
    try:
        image = cut_to_aspect(decode_image(encoded, MAX_PIXELS))
    except ImageProblem:
        return None
    aspect = image.width / image.height
    if image.size != (side_px, side_px):
        image = image.resize((side_px, side_px), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(image), aspect


class StreamedPictures:
    """Reads and decodes the pictures of a batch when it is asked for; implements ``Pictures``."""

    def __init__(self, table: PairTable, side_px: int) -> None:
        self._table = table
        self._side_px = side_px
        self._shards = OpenShards(table.shards)

    def load(self, pairs: NDArray[np.int64]) -> Canvases:
        """Return the canvases of these pairs, decoded in the calling thread."""
        return _stack([self.decode(int(pair)) for pair in pairs], self._side_px)

    def decode(self, pair: int) -> tuple[NDArray[np.uint8], float] | None:
        """Return one canvas and its aspect ratio, or None."""
        table = self._table
        place = (int(table.shard_N[pair]), int(table.offset_N[pair]), int(table.n_bytes_N[pair]))
        return to_canvas(self._shards.read(*place), self._side_px)

    def close(self) -> None:
        """Close the shards."""
        self._shards.close()


class ResidentPictures:
    """All pictures of a table, decoded once and kept; implements ``Pictures``. Takes 3 S^2 bytes a pair."""

    def __init__(self, canvases: Canvases) -> None:
        self._all = canvases

    @classmethod
    def decoded(
        cls, table: PairTable, side_px: int, *, device: torch.device, workers: int, reporter: Reporter | None = None
    ) -> ResidentPictures:
        """Decode the whole table and put it on a device."""
        streamed = StreamedPictures(table, side_px)
        pixels_NCHW = torch.zeros(len(table), 3, side_px, side_px, dtype=torch.uint8)
        aspect_N, readable_N = torch.ones(len(table)), torch.zeros(len(table), dtype=torch.bool)
        stage = (reporter or SilentReporter()).stage("decode", total=len(table))
        with closing(streamed), stage as progress:
            for start, part in _in_chunks(streamed, len(table), workers):
                rows = slice(start, start + len(part.aspect_N))
                pixels_NCHW[rows], aspect_N[rows], readable_N[rows] = part.pixels_NCHW, part.aspect_N, part.readable_N
                progress.advance(len(part.aspect_N), n_errors=int((~part.readable_N).sum()))
        return cls(
            Canvases(pixels_NCHW=pixels_NCHW.to(device), aspect_N=aspect_N.to(device), readable_N=readable_N.to(device))
        )

    @property
    def all_readable(self) -> bool:
        """True if every picture was decoded."""
        return bool(self._all.readable_N.all())

    def load(self, pairs: NDArray[np.int64]) -> Canvases:
        """Return the canvases of these pairs, on the device."""
        rows = torch.from_numpy(pairs).to(self._all.aspect_N.device)
        return Canvases(
            pixels_NCHW=self._all.pixels_NCHW[rows],
            aspect_N=self._all.aspect_N[rows],
            readable_N=self._all.readable_N[rows],
        )


def _in_chunks(streamed: StreamedPictures, n_pairs: int, workers: int) -> Iterator[tuple[int, Canvases]]:
    starts: Iterable[int] = range(0, n_pairs, _CHUNK)
    loaded = map_ordered(
        lambda start: (start, streamed.load(np.arange(start, min(start + _CHUNK, n_pairs)))),
        starts,
        workers=workers,
        one_thread=False,
    )
    yield from loaded


def _stack(decoded: Sequence[tuple[NDArray[np.uint8], float] | None], side_px: int) -> Canvases:
    pixels = np.zeros((len(decoded), side_px, side_px, 3), dtype=np.uint8)
    aspect_N = np.ones(len(decoded), dtype=np.float32)
    for place, one in enumerate(decoded):
        if one is not None:
            pixels[place], aspect_N[place] = one
    return Canvases(
        pixels_NCHW=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        aspect_N=torch.from_numpy(aspect_N),
        readable_N=torch.tensor([one is not None for one in decoded]),
    )
