"""A pattern that lies at one place of the frame: blended noise, a wave, a patch in a corner.

Pictures are squeezed into one square and cut into frequency bands (a Laplacian pyramid). Per band and pixel, what half
of the members have on average and half of the controls have not is the template, weighted by the inverse variance of
the controls: what all pictures have (white backgrounds) counts for nothing. The other halves are scored by their
correlation with the template; a rank test says whether the members score higher.

Source: the template is a linear discriminant with a diagonal covariance (Fisher 1936); the pyramid is Burt and Adelson
1983. Differs from them: the test is on pictures that the template was not made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.core.ranktest import rank_sum_p

N_BANDS: Final = 5
_FLOOR: Final = 4.0  # grey levels; finer differences between controls are JPEG's
KEEP_ABOVE: Final = 0.9  # quantile of the controls' scores above which a member carries the pattern
_CELL: Final = 4
_LOCAL: Final = 40.0  # energy of a patch over that of the frame: 200 and more; of blended noise and waves 2 to 10
_SURE: Final = 8.0  # the same over what is there by chance: of patches 17 and more, of faint waves where it is busy 6
_WIDE: Final = 0.3  # share of the frame from which a pattern counts as lying over all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """What members have at one place of the frame.

    Attributes:
        p_value: of the rank test, corrected for the bands.
        carriers: numbers of the members that carry it.
        picture: uint8 [S, S, 3], the mean difference to controls, amplified around grey.
        box: x, y, width, height as shares of the frame.
    """

    p_value: float
    carriers: list[int]
    picture: np.ndarray
    box: tuple[float, float, float, float]

    @property
    def covers_all(self) -> bool:
        """True if the pattern lies over the whole frame."""
        return self.box == (0.0, 0.0, 1.0, 1.0)


def find_pattern(members: Tensor, controls: Tensor) -> Pattern | None:
    """Find what members share at one place of the frame.

    Args:
        members: float32 [n, 3, S, S], 0 to 255, S a multiple of 16.
        controls: float32 [m, 3, S, S].

    Returns:
        The pattern with its p-value, whatever that is; None if there are fewer than 4 members or 8 controls.
    """
    if len(members) < 4 or len(controls) < 8:
        return None
    p_values, scores, levels = [], [], []
    for member, control in zip(_bands(members), _bands(controls), strict=True):
        score_member, score_control = _scores(member, control)
        p_values.append(rank_sum_p(score_member[1::2], score_control[1::2]))
        scores.append((score_member, score_control))
        levels.append((member, control))
    best = int(np.argmin(p_values))
    score_member, score_control = scores[best]
    carries = score_member > score_control.quantile(KEEP_ABOVE)
    if int(carries.sum()) < 3:
        return None
    shown = [i for i, p in enumerate(p_values) if i == best or p * len(p_values) < 1e-3]
    difference = torch.zeros(members.shape[1:])
    for i in shown:
        member, control = levels[i]
        difference += _resized(member[carries].mean(0) - control.mean(0), members.shape[-1])
    gain = 110.0 / max(float(difference.abs().flatten()[::7].quantile(0.98)), 1e-3)
    picture = (128.0 + gain * difference).clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
    return Pattern(
        p_value=min(1.0, min(p_values) * len(p_values)),
        carriers=torch.nonzero(carries)[:, 0].tolist(),
        picture=picture,
        box=_place([(levels[i][0][carries], levels[i][1]) for i in shown], members.shape[-1]),
    )


def _resized(image: Tensor, side: int) -> Tensor:
    return functional.interpolate(image[None], size=(side, side), mode="bilinear", align_corners=False)[0]


def _bands(images: Tensor) -> list[Tensor]:
    """Cut images into bands from fine to coarse; the mean colour of each image is left out."""
    bands = []
    for _ in range(N_BANDS - 1):
        low = functional.avg_pool2d(images, 2)
        up = functional.interpolate(low, size=images.shape[-2:], mode="bilinear", align_corners=False)
        bands.append(images - up)
        images = low
    return [*bands, images - images.mean((2, 3), keepdim=True)]


def _scores(member: Tensor, control: Tensor) -> tuple[Tensor, Tensor]:
    """Score all images by a template made of every second one."""
    learned, sound = member[::2], control[::2]
    centre, spread = sound.mean(0), sound.var(0, correction=0) + _FLOOR**2
    template = (learned.mean(0) - centre) / spread.sqrt()

    def score(images: Tensor) -> Tensor:
        white = (images - centre) / spread.sqrt()
        return (white * template).sum((1, 2, 3)) / white.square().sum((1, 2, 3)).sqrt().clamp_min(1e-6)

    return score(member), score(control)


def _place(levels: Sequence[tuple[Tensor, Tensor]], side: int) -> tuple[float, float, float, float]:
    """Return the box of what carriers share, from the bands (carriers, controls) that show it, fine to coarse.

    Per pixel and colour, the square of the difference of means less what it is by chance: 0 where nothing is shared,
    and on average the same everywhere under a blend or a wave. Averaged over colours and cells of the frame; a peak
    that is hardly higher than chance is one of chance. The box is of the three finest bands: coarse ones blur.
    """

    def spread_out(of_pixels: Tensor) -> Tensor:
        cells = functional.adaptive_avg_pool2d(of_pixels.mean(0)[None, None], (side // _CELL, side // _CELL))
        return functional.avg_pool2d(cells, 3, stride=1, padding=1, count_include_pad=False)[0, 0]

    energy = by_chance = torch.zeros(side // _CELL, side // _CELL)
    for carrier, control in levels[:3]:
        chance = carrier.var(0) / len(carrier) + control.var(0) / len(control)
        energy = energy + spread_out((carrier.mean(0) - control.mean(0)).square() - chance)
        by_chance = by_chance + spread_out(chance)
    peak = divmod(int(energy.argmax()), energy.shape[1])
    if float(energy[peak]) < max(_LOCAL * float(energy.median()), _SURE * float(by_chance[peak])):
        return 0.0, 0.0, 1.0, 1.0
    is_high = (energy > 0.3 * float(energy.max())).numpy()
    rows, columns = component(is_high, peak)
    box = bounds(rows, columns, *is_high.shape)
    return (0.0, 0.0, 1.0, 1.0) if box[2] * box[3] > _WIDE else box


def component(mask: np.ndarray, start: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the true cells connected with a cell."""
    seen, waiting = {start}, [start]
    while waiting:
        row, column = waiting.pop()
        for one in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if one not in seen and 0 <= one[0] < mask.shape[0] and 0 <= one[1] < mask.shape[1] and mask[one]:
                seen.add(one)
                waiting.append(one)
    found = np.array(sorted(seen))
    return found[:, 0], found[:, 1]


def bounds(rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> tuple[float, float, float, float]:
    """Return x, y, width, height of cells as shares of the frame."""
    x, y = int(columns.min()), int(rows.min())
    return x / width, y / height, (int(columns.max()) + 1 - x) / width, (int(rows.max()) + 1 - y) / height
