"""The detail of a salient window, wherever it lies: for triggers that move.

The windows of an image are the ``PER_IMAGE`` places with the most detail within 3 x 3 places, at least 3 places apart.
Patches are nearly always among them, and then two images are compared window by window instead of place by place.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.sanitize.detail import DIM, GRID, UNIT
from roclip_audit.sanitize.stamps.look import Look

PER_IMAGE, SIDE, APART = 8, 3, 5
WINDOW = SIDE * SIDE * DIM
FLOOR = 0.3  # added to a window's length when windows are compared: a faint one stays short


class WindowLook(Look):
    """Images by their windows. A template is one window: float32 [9 * C]."""

    kind: ClassVar[str] = "window"
    unlike_in: ClassVar[tuple[str, ...]] = ("whole",)
    least: ClassVar[float] = 4.0
    share: ClassVar[float] = 0.7

    def __init__(self, detail_PSC: Tensor) -> None:
        """Cut the windows out of images with detail int8 [P, 1024, 24]."""
        self.window_PKW = torch.cat([_windows(block) for block in detail_PSC.split(256)])
        self.unit_PKW = self.window_PKW / (self.window_PKW.norm(dim=2, keepdim=True) + FLOOR)

    def mean(self, rows: Tensor, where_P: Tensor) -> Tensor:
        """Return the mean window, of unit length."""
        return functional.normalize(self.window_PKW[rows, where_P[rows]].mean(0), dim=0)

    def compare(self, template: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosine of the window of every image that is most like a template, and which that is."""
        score_P, where_P = (self.unit_PKW @ template).max(1)
        return score_P, where_P

    def among(self, rows: Tensor, where_P: Tensor) -> Tensor:
        """Return the cosine of each one's window that is most like the mean of the others'."""
        own_KW = self.window_PKW[rows, where_P[rows]]
        rest_KW = functional.normalize(own_KW.sum(0) - own_KW, dim=1)
        alike_KK: Tensor = torch.einsum("rkw,rw->rk", self.unit_PKW[rows], rest_KW)
        return alike_KK.amax(1)

    def alike(self, rows: Tensor) -> Tensor:
        """Return how alike every window of some images is to the most alike one of all: float32 [B, K, P]."""
        alike_RQ = self.unit_PKW[rows].flatten(0, 1) @ self.unit_PKW.flatten(0, 1).T
        alike_BKP: Tensor = alike_RQ.reshape(len(rows), PER_IMAGE, -1, PER_IMAGE).amax(3)
        return alike_BKP

    def where(self, rows: Tensor, part: int, others: Tensor) -> Tensor:
        """Return the window of others that is most alike to one window of an image."""
        alike_MK: Tensor = self.unit_PKW[others] @ self.unit_PKW[rows[0], part]
        return alike_MK.argmax(1)


def _windows(detail_BSC: Tensor) -> Tensor:
    grid_BCGG = detail_BSC.unflatten(1, (GRID, GRID)).permute(0, 3, 1, 2).float() / UNIT
    amount_B1HH = functional.avg_pool2d(grid_BCGG.square().sum(1, keepdim=True), SIDE, stride=1)
    highest_B1HH = functional.max_pool2d(amount_B1HH, APART, stride=1, padding=APART // 2)
    peak_BS = torch.where(amount_B1HH >= highest_B1HH, amount_B1HH, -1.0).flatten(1)
    place_BK = peak_BS.topk(PER_IMAGE, dim=1).indices
    # The window at a place is the column of that number of the unfolded grid.
    column_BWS = functional.unfold(grid_BCGG, SIDE)
    return column_BWS.gather(2, place_BK[:, None].expand(-1, WINDOW, -1)).transpose(1, 2).contiguous()
