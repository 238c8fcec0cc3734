"""Where images have edges: things that many people draw alike have theirs at the same places.

A stamp says nothing of what else is in the picture. So apart from where it lies, the images that carry it have their
edges where any images have them, and a warp, which moves edges by a little, leaves them about where they were. What a
thing is drawn with, the curve of a bell or the bar of a battery, comes with the rest of the thing.

Source: own construction; numbers in docs/experiments.md.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.core.ranks import evenly_spaced
from roclip_audit.sanitize.detail import GRID
from roclip_audit.sanitize.stamps.bend import PLACES, BendLook
from roclip_audit.sanitize.stamps.crowd import between_families

N_RANDOM = 512  # images whose pairs say how alike two random ones are
AROUND = 4  # places on every side of a stamp's, of 16 across, that it may reach: a patch of a quarter, by its corner


class Layout:
    """Images by where they have edges.

    Args:
        has_edge_PC: bool [P, 512], as ``BendLook`` has leans.
        family_P: int64 [P], equal for look-alikes.
    """

    def __init__(self, has_edge_PC: Tensor, family_P: Tensor) -> None:
        self._has_edge_PC, self._share_C = has_edge_PC, has_edge_PC.float().mean(0)
        self._some = evenly_spaced(len(has_edge_PC), N_RANDOM)
        self._family_S = family_P[self._some]

    @classmethod
    def of(cls, look: BendLook, family_P: Tensor) -> Self:
        """Read where images have edges off their leans."""
        return cls(look.level_PC > 0, family_P)

    def alike(self, rows: Tensor, at: tuple[int, int] | None = None) -> float:
        """Return the share of random pairs that are less alike than two of some images, on average: 0.5 by chance.

        Args:
            rows: int64, two or more.
            at: x and y, 0 to 31, of a place that does not count, nor do those around it.
        """
        counts_GG = torch.ones(PLACES, PLACES, dtype=torch.bool)
        if at is not None:
            x, y = (value * PLACES // GRID for value in at)
            counts_GG[max(0, y - AROUND) : y + AROUND + 1, max(0, x - AROUND) : x + AROUND + 1] = False
        counts_C = counts_GG.flatten().repeat(2)
        share_X = self._share_C[counts_C]

        def where(some: Tensor) -> Tensor:
            edges_SX = self._has_edge_PC[some].float()[:, counts_C]
            expected_SX = edges_SX.sum(1, keepdim=True) * share_X / share_X.sum().clamp_min(1e-6)  # of so many edges
            return functional.normalize(edges_SX - expected_SX, dim=1)

        random = between_families(where(self._some), self._family_S).sort().values
        alike = between_families(where(rows), torch.arange(len(rows)))
        return float(torch.searchsorted(random, alike).float().mean()) / max(1, len(random))
