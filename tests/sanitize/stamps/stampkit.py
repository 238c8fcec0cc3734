"""Random pictures and captions in which something repeats under captions that are alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.detail import DIM, GRID, N_PLACES
from roclip_audit.sanitize.grain import GRAIN_PX, grain
from roclip_audit.sanitize.stamps.search import Pictured, Stamps, find_stamps
from roclip_audit.sanitize.traits import Traits
from roclip_audit.train.attacks.base import Pixels
from roclip_audit.train.attacks.warp import Bend

N, X, Y = 400, 27, 5
CARRIERS = torch.arange(0, 400, 16)  # 25
VIEWS = ("whole", "outline")


@cache
def _grains(bent: tuple[int, ...], *, one_thing: bool) -> np.ndarray:
    """Return the grain of N pictures of boxes, some warped alike: int8 [N, 128, 128]."""
    warp, rng = Bend(strength=0.03, grid=4), np.random.default_rng(0)
    pattern, thing = warp.pattern(rng), boxes(rng)
    drawn = [boxes(rng) for _ in range(N)]
    for row in bent if one_thing else ():
        drawn[row] = thing + rng.integers(-3, 4, thing.shape)
    pictures = [draw(drawn[row]) for row in range(N)]
    pictures = [warp.stamp(one, pattern, rng)[0] if row in bent else one for row, one in enumerate(pictures)]
    return np.stack([grain(Image.fromarray(picture)) for picture in pictures])


def boxes(rng: np.random.Generator) -> np.ndarray:
    """Return boxes anywhere in a picture, left, top, right and bottom: int64 [8, 4]."""
    corner_K2, size_K2 = rng.integers(0, 80, (8, 2)), rng.integers(20, 60, (8, 2))
    return np.concatenate([corner_K2, corner_K2 + size_K2], axis=1)


def draw(box_K4: np.ndarray) -> Pixels:
    """Draw outlines of boxes, as a picture of straight edges: uint8 [128, 128, 3]."""
    image = Image.new("RGB", (GRAIN_PX, GRAIN_PX), "white")
    for box in box_K4.tolist():
        ImageDraw.Draw(image).rectangle(box, outline="black", width=2)
    return np.array(image)


class Planted:
    """Nothing repeats unless ``mark``, ``move``, ``weave``, ``tint`` or ``bend`` plants something in the carriers.

    Args:
        captions_alike: the carriers' captions are.
        captions_apart: how far from each other all the same; 0 for equal ones.
        pictures_alike: the carriers' pictures are, in both views.
        pictures_apart: how far from each other all the same.
        carriers: rows.
    """

    def __init__(
        self,
        *,
        captions_alike: bool = True,
        captions_apart: float = 0.7,
        pictures_alike: bool = False,
        pictures_apart: float = 0.3,
        carriers: Tensor = CARRIERS,
    ) -> None:
        self.carriers = carriers
        self._rng = rng = torch.Generator().manual_seed(0)
        self.grid = torch.randint(-60, 61, (N, GRID, GRID, DIM), generator=rng).to(torch.int8)
        image_NVR, text_ND = torch.randn(N, 2, 32, generator=rng), torch.randn(N, 32, generator=rng)
        if captions_alike:
            text_ND[carriers] = text_ND[0] + captions_apart * text_ND[carriers]
        if pictures_alike:
            image_NVR[carriers] = image_NVR[0] + pictures_apart * image_NVR[carriers]
        self.grain = torch.randint(-4, 5, (N, GRAIN_PX, GRAIN_PX), generator=rng).to(torch.int8)
        self.image_NVR, nothing = image_NVR, torch.zeros(N, 1)
        self.near = Neighbourhood(
            image_ND=functional.normalize(image_NVR[:, 0], dim=1),
            text_ND=functional.normalize(text_ND, dim=1),
            image_similarity_NK=nothing,
            image_index_NK=nothing.long(),
            caption_similarity_CK=nothing,
            caption_index_CK=nothing.long(),
            caption_N=torch.arange(N),
            group_N=torch.arange(N),
        )
        strength_N = torch.rand(N, generator=rng, dtype=torch.float64)
        strength_N[carriers[::4]] += 1
        self.traits = Traits(
            texture_N=strength_N,
            patch_N=strength_N,
            patch_x_N=torch.full((N,), (X + 0.5) / GRID, dtype=torch.float64),
            patch_y_N=torch.full((N,), (Y + 0.5) / GRID, dtype=torch.float64),
            p_N=torch.ones(N),
        )
        self.family_N = torch.arange(N)

    def mark(self, *, apart: int = 15) -> Planted:
        """Plant one detail at one place, no richer than what is around it, a little other in every picture."""
        mark = torch.randint(-60, 61, (3, 3, DIM), generator=self._rng)
        noise = torch.randint(-apart, apart + 1, (len(self.carriers), 3, 3, DIM), generator=self._rng)
        self.grid[self.carriers, Y - 1 : Y + 2, X - 1 : X + 2] = (mark + noise).to(torch.int8)
        return self

    def move(self) -> Planted:
        """Plant one rich detail, elsewhere in every picture."""
        mark = torch.randint(-120, 121, (3, 3, DIM), generator=self._rng)
        for row, x, y in zip(self.carriers.tolist(), *self._places(), strict=True):
            noise = torch.randint(-7, 8, (3, 3, DIM), generator=self._rng)
            self.grid[row, y : y + 3, x : x + 3] = (mark + noise).to(torch.int8)
        return self

    def weave(self, *, across: int = GRAIN_PX) -> Planted:
        """Plant one pattern over the pictures, or over their left part only."""
        pattern = torch.randint(-6, 7, (GRAIN_PX, across), generator=self._rng)
        self.grain[self.carriers, :, :across] += pattern.to(torch.int8)
        return self

    def tint(self) -> Planted:
        """Take half of the contrast of some channels, everywhere."""
        self.grid[self.carriers, :, :, :8] //= 2
        return self

    def bend(self, *, one_thing: bool = False) -> Planted:
        """Draw boxes of straight edges, about the same ones if they are one thing, and warp them all alike."""
        self.grain = torch.from_numpy(_grains(tuple(self.carriers.tolist()), one_thing=one_thing)).clone()
        return self

    def _places(self) -> tuple[list[int], list[int]]:
        x_K, y_K = torch.randint(0, GRID - 2, (2, len(self.carriers)), generator=self._rng)
        return x_K.tolist(), y_K.tolist()

    def find(
        self, *, workers: int = 1, views: tuple[str, ...] = VIEWS, advance: Callable[[int], None] = lambda _: None
    ) -> Stamps:
        pictured = Pictured(
            detail_N=RowArray.of([self.grid.reshape(N, N_PLACES, DIM).numpy()]),
            grain_N=RowArray.of([self.grain.numpy()]),
            image_NVR=RowArray.of([self.image_NVR[:, : len(views)].numpy()]),
            views=views,
        )
        return find_stamps(pictured, self.near, self.traits, self.family_N, workers=workers, advance=advance)
