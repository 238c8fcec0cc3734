"""The detail at one place of the picture (``sanitize.detail``): 3 x 3 places, less 13 x 13 around."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.sanitize.detail import DIM, GRID, UNIT
from roclip_audit.sanitize.stamps.look import Look

AT, AROUND, AROUND_STEP = 3, 13, 2


class PlaceLook(Look):
    """Images at one place. A template is the detail at the place, then that around it: float32 [(A + B) * C]."""

    kind: ClassVar[str] = "place"
    unlike_in: ClassVar[tuple[str, ...]] = ("whole",)
    least: ClassVar[float] = 5.0
    share: ClassVar[float] = 0.5

    def __init__(self, detail_PSC: Tensor, x: int, y: int) -> None:
        """Look at place (x, y), 0 to 31, of images with detail int8 [P, 1024, 24]."""
        grid_PGGC = detail_PSC.unflatten(1, (GRID, GRID))
        self._at_PAC, self._around_PBC = _cut(grid_PGGC, x, y, AT, 1), _cut(grid_PGGC, x, y, AROUND, AROUND_STEP)

    def mean(self, rows: Tensor, where_P: Tensor) -> Tensor:
        """Return the mean detail at the place and around it."""
        return torch.cat([part[rows].mean(0).flatten() for part in (self._at_PAC, self._around_PBC)])

    def compare(self, template: Tensor) -> tuple[Tensor, Tensor]:
        """Return how much more alike every image is to a template at the place than around it."""
        score_P = torch.zeros(len(self._at_PAC))
        for sign, part in ((1, self._at_PAC), (-1, self._around_PBC)):
            own, template = template[: part[0].numel()], template[part[0].numel() :]
            score_P += sign * (part.flatten(1) @ own) / part.shape[1]
        return score_P, torch.zeros(len(score_P), dtype=torch.int64)

    def among(self, rows: Tensor, where_P: Tensor) -> Tensor:
        """Return how much more alike each is to the mean of the others at the place than around it."""
        score_K = torch.zeros(len(rows))
        for sign, part in ((1, self._at_PAC), (-1, self._around_PBC)):
            own_KX = part[rows].flatten(1)
            rest_KX = (own_KX.sum(0) - own_KX) / (len(rows) - 1)
            score_K += sign * (own_KX * rest_KX).sum(1) / part.shape[1]
        return score_K

    def products(self, n: int) -> Tensor:
        """Return how much more alike every image is to each of the first ones at the place than around: [P, n]."""
        product_PK = torch.zeros(len(self._at_PAC), n)
        for sign, part in ((1, self._at_PAC), (-1, self._around_PBC)):
            own_PX = part.flatten(1)
            product_PK += sign * (own_PX @ own_PX[:n].T) / part.shape[1]
        return product_PK

    def cosines(self) -> Tensor:
        """Return how alike any two images are at the place, whatever is around it: float32 [P, P] up to 1."""
        at_PX = functional.normalize(self._at_PAC.flatten(1), dim=1)
        return at_PX @ at_PX.T


def _cut(grid_PGGC: Tensor, x: int, y: int, side: int, step: int) -> Tensor:
    """Return every ``step``-th place of a square around a place, as far as it lies in the grid: float32 [P, A, C]."""
    down, across = (slice(max(0, middle - side // 2), middle + side // 2 + 1, step) for middle in (y, x))
    return grid_PGGC[:, down, across].reshape(len(grid_PGGC), -1, DIM).float() / UNIT
