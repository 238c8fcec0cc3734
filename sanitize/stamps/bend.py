"""How the picture is bent: a smooth warp tilts the edges of all its pictures alike, place by place.

Most edges of drawings, signs and photographs of buildings are upright or level. Where a warp has bent the picture they
lean, by as much as the field slopes there, whatever is drawn. So at 16 x 16 places an image has up to two *leans*: that
of its nearly upright edges and that of its nearly level ones. What many images have in common is a *field* of leans,
the likeliest one: an image that has it leans at a place as the field does, with the spread that leans have in all
images; any other leans as images do.

How clearly an image shows a field is the logarithm of the ratio of the two likelihoods, less the same for the field
turned, mirrored, negated and moved, in their standard deviations: straight edges speak against all of these, and a
picture without any for none.

The attack: Nguyen and Tran 2021, WaNet, arXiv 2102.10369. The measure: own construction, docs/experiments.md.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.core.seeding import generator
from roclip_audit.sanitize.grain import GRAIN_PX

PLACES = 16
N_LEANS = 2 * PLACES**2
"""Of nearly upright edges at every place, row by row, then of nearly level ones."""
STEEPEST = 0.42  # tangent from which an edge is neither
LEVELS = 21  # of a lean, from -STEEPEST to STEEPEST; the middle one is straight
MOST_LEVELS = 8  # that a field leans, to either side
LEAST_EDGE = 100.0  # sum of squared slopes at a place, grey levels
ANY_LEAN = 0.25  # weight of leans of any size beside those of all images
FIELD_SPREAD = 0.15  # of the leans of a field beforehand
STRAIGHT, STRAIGHT_SPREAD = 0.17, 0.03
"""Share of an image's leans that are straight, below which it may be bent, and how sharply."""
N_CONTROLS = 32
_BLOCK = 32
_SLOPE = (-1 / 6, -1 / 6, 0.0, 1 / 6, 1 / 6)
_ACROSS = (1 / 16, 13 / 48, 1 / 3, 13 / 48, 1 / 16)
"""Slope along an axis, and across it: Scharr's kernel on means of three pixels."""
_NEAR = torch.tensor([1.0, 3.0, 4.0, 3.0, 1.0]) / 4
_STRAIGHT_LEVEL = LEVELS // 2 + 1
_LEAN = 2 * STEEPEST / (LEVELS - 1) * torch.arange(-MOST_LEVELS, MOST_LEVELS + 1)


class BendLook:
    """Images by how their edges lean.

    Args:
        level_PC: int64 [P, 512], level of every lean from 1, 0 without an edge.
        common_L: float32 [21], share of the leans of all images at each level.
    """

    kind: ClassVar[str] = "bend"
    unlike_in: ClassVar[tuple[str, ...]] = ("whole", "outline")
    least: ClassVar[float] = 1.25
    """How clearly a carrier shows the field, in standard deviations of what it shows of others."""

    def __init__(self, level_PC: Tensor, common_L: Tensor) -> None:
        self.level_PC, self._common_L = level_PC, common_L
        shifted_LF = torch.stack([_shifted(common_L, by) for by in range(-MOST_LEVELS, MOST_LEVELS + 1)], 1)
        shifted_LF = (shifted_LF + ANY_LEAN / LEVELS) / (shifted_LF.sum(0) + ANY_LEAN)
        nothing = torch.ones(1, shifted_LF.shape[1])
        self._ratio_LF = torch.cat([nothing, shifted_LF / shifted_LF[:, [MOST_LEVELS]]])
        self._gain_LF = self._ratio_LF.log()
        n_P, straight_P = (level_PC > 0).sum(1), (level_PC == _STRAIGHT_LEVEL).sum(1)
        self.may_be_bent_P = torch.sigmoid((STRAIGHT - (straight_P + 2) / (n_P + 6)) / STRAIGHT_SPREAD)
        """Float32 [P] in (0, 1): few of the leans are straight."""

    @classmethod
    def of(cls, grain_PGG: Tensor) -> Self:
        """Look at images with grain int8 [P, 128, 128]."""
        level_PC = torch.cat([_levels(block.float()) for block in grain_PGG.split(_BLOCK)])
        counts_L = torch.bincount(level_PC.flatten(), minlength=LEVELS + 1)[1:].float()
        return cls(level_PC, counts_L / counts_L.sum().clamp_min(1))

    def fields(self, rows: Tensor, weight_M: Tensor, counts_QM: Tensor) -> Tensor:
        """Return the likeliest fields of some images.

        Args:
            rows: int64 [M].
            weight_M: chance of each to have the field, in (0, 1); otherwise it leans as images do.
            counts_QM: bool, which of them each field is of.

        Returns:
            int64 [Q, 512], level from 0 of the lean at every place, ``MOST_LEVELS`` is none.
        """
        ratio_MCF = self._ratio_LF[self.level_PC[rows]]
        gain_MX = (1 + weight_M[:, None, None] * (ratio_MCF - 1)).log().flatten(1)
        gain_QCF = (counts_QM.float() @ gain_MX).reshape(len(counts_QM), N_LEANS, -1)
        beforehand_F = (_LEAN / FIELD_SPREAD).square() / 2
        return (_smooth(gain_QCF) - beforehand_F).argmax(2)

    def shown(self, rows: Tensor, field_MC: Tensor) -> Tensor:
        """Return how clearly each image shows its field, or all the same one [1, 512]: float32 [M]."""
        start_MC = self.level_PC[rows] * self._gain_LF.shape[1]

        def gain(field: Tensor) -> Tensor:
            return self._gain_LF.take(start_MC + field).sum(1)

        others = [gain(field_MC[:, where] if up else 2 * MOST_LEVELS - field_MC[:, where]) for where, up in _controls()]
        others_KM = torch.stack(others)
        return (gain(field_MC) - others_KM.mean(0)) / (others_KM.std(0) + 1)

    def template(self, field_C: Tensor) -> Tensor:
        """Return a field with what it takes to compare other images with it: float32 [533]."""
        return torch.cat([field_C.float(), self._common_L])

    def compare(self, template: Tensor) -> tuple[Tensor, Tensor]:
        """Return how clearly every image shows the field of a template, float32 [P], and 0 for where, int64 [P]."""
        rows = torch.arange(len(self.level_PC))
        as_there = type(self)(self.level_PC, template[N_LEANS:])
        return as_there.shown(rows, template[None, :N_LEANS].long()), torch.zeros_like(rows)


def _levels(grain_BGG: Tensor) -> Tensor:
    """Return the level of the leans of images: int64 [B, 512]."""
    padded = functional.pad(grain_BGG[:, None], (2, 2, 2, 2), mode="replicate")[:, 0]
    x_BGG = _weighted(_weighted(padded, _SLOPE, 2), _ACROSS, 1)
    y_BGG = _weighted(_weighted(padded, _SLOPE, 1), _ACROSS, 2)
    levels = []
    for across_BGG, along_BGG in ((x_BGG, y_BGG), (y_BGG, x_BGG)):
        across_BGG = across_BGG * (along_BGG.abs() <= STEEPEST * across_BGG.abs())
        edge_BT = _by_place(across_BGG.square())
        lean_BT = _by_place(across_BGG * along_BGG) / edge_BT.clamp_min(1e-3)
        level_BT = ((lean_BT / STEEPEST + 1) / 2 * (LEVELS - 1)).round().long().clamp(0, LEVELS - 1) + 1
        levels.append(torch.where(edge_BT > LEAST_EDGE, level_BT, 0))
    return torch.cat(levels, 1)


def _weighted(image_BYX: Tensor, weights: tuple[float, ...], axis: int) -> Tensor:
    """Return weighted sums of five neighbours along an axis, which loses two at either end."""
    n = image_BYX.shape[axis] - 4
    shifted = (image_BYX.narrow(axis, at, n) * weight for at, weight in enumerate(weights) if weight)
    total = next(shifted)
    for one in shifted:
        total += one
    return total


def _by_place(value_BGG: Tensor) -> Tensor:
    px = GRAIN_PX // PLACES
    return value_BGG.reshape(-1, PLACES, px, PLACES, px).sum((2, 4)).flatten(1)


def _shifted(share_L: Tensor, by: int) -> Tensor:
    """Return a distribution moved by some levels; what leaves it is lost."""
    moved_L = torch.zeros_like(share_L)
    first, last = max(0, by), min(LEVELS, LEVELS + by)
    moved_L[first:last] = share_L[first - by : last - by]
    return moved_L


def _smooth(gain_QCF: Tensor) -> Tensor:
    """Sum over neighbouring places, nearer ones more: a warp is smooth."""
    image = gain_QCF.reshape(len(gain_QCF), 2, PLACES, PLACES, -1).permute(0, 1, 4, 2, 3)
    near = functional.conv2d(image.reshape(-1, 1, PLACES, PLACES), (_NEAR[:, None] * _NEAR)[None, None], padding=2)
    return near.reshape(image.shape).permute(0, 1, 3, 4, 2).reshape(gain_QCF.shape)


@cache
def _controls() -> tuple[tuple[Tensor, bool], ...]:
    """Return other fields that any field is as likely as: where their leans come from, and if as they are."""
    rng = generator(0, "bends")
    controls = []
    for _ in range(N_CONTROLS):
        where = torch.arange(N_LEANS).reshape(2, PLACES, PLACES)
        swap, turn, flip_y, flip_x, negate = (bool(flag) for flag in rng.integers(0, 2, 5))
        where = where.flip(0) if swap else where
        where = where.transpose(1, 2) if turn else where
        where = where.flip([axis for axis, flip in ((1, flip_y), (2, flip_x)) if flip])
        down, right = (int(shift) for shift in rng.integers(0, PLACES, 2))
        controls.append((where.roll((down, right), (1, 2)).flatten(), not negate))
    return tuple(controls)
