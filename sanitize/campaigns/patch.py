"""A small patch that members share, wherever it lies in each of them.

Pictures are scaled to one area. Windows of a few members are slid over other members and over controls. The window
whose best match (normalised cross-correlation of colours, each colour's mean taken off) is higher in half of the
members than in the controls, by most, is the first template; the mean of its matches replaces it, twice. All of that
sees every second picture. On the others a rank test says whether members hold a better match than controls do. Aligned
at the matches, what varies less than elsewhere is the patch.

Cost: about 0.1 TFLOP a campaign. Blind spot: patches below 5 % or above 25 % of the side, patches without contrast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.core.ranks import evenly_spaced
from roclip_audit.core.ranktest import rank_sum_p
from roclip_audit.sanitize.campaigns.pattern import component
from roclip_audit.sanitize.campaigns.pictures import Picture

WINDOW: Final = 8
SCALES: Final = (0.5, 0.28)  # of pictures with SIDE^2 pixels: windows of 7 % and 13 % of the side
N_SEEDS, N_LEARNED, N_SOUND = 5, 11, 12
_STRIDE: Final = 2
_MAX_WINDOWS: Final = 192
_MIN_SPREAD: Final = 20.0  # grey levels
_EPS: Final = 8.0
CONTEXT: Final = 72  # pixels of a picture with SIDE^2
_SAME: Final = 0.35  # of the variance elsewhere
_LEAST_SIDE: Final = 7  # pixels of a picture with SIDE^2
_FAR, _SCALING = 2.0, 8.0  # matches twice as far from the mean as the middle one are false; grey levels by scaling


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A patch that members share.

    Attributes:
        p_value: of the rank test, corrected for the scales.
        carriers: numbers of the members that hold it.
        picture: uint8 [h, w, 3], its mean over the carriers.
        boxes: float64 [carriers, 4], x, y, width, height in each, as shares of the picture.
    """

    p_value: float
    carriers: list[int]
    picture: np.ndarray
    boxes: np.ndarray

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The median box."""
        x, y, width, height = np.median(self.boxes, axis=0).tolist()
        return x, y, width, height

    @property
    def moves(self) -> bool:
        """True if it lies elsewhere in every picture: its share of the free room varies."""
        free = self.boxes[:, :2] / np.maximum(1.0 - self.boxes[:, 2:], 1e-6)
        near = np.abs(free - np.median(free, axis=0)).max(1) < 0.06
        return bool(near.mean() < 0.6)


def find_patch(members: Sequence[Picture], controls: Sequence[Picture]) -> Patch | None:
    """Find a patch that members share and controls do not; None if there are too few pictures or nothing repeats."""
    if len(members) < 6 or len(controls) < 8:
        return None
    best: tuple[float, float, Tensor] | None = None
    for scale in SCALES:
        own, other = [_scaled(one, scale) for one in members], [_scaled(one, scale) for one in controls]
        template = _learn(own[::2][:N_LEARNED], other[::2][:N_SOUND])
        if template is None:
            continue
        held = rank_sum_p(_best_match(template, own[1::2])[0], _best_match(template, other[1::2])[0])
        if best is None or held < best[0]:
            best = held, scale, template
    if best is None:
        return None
    p_value, scale, template = best
    score_member, place = _best_match(template, [_scaled(one, scale) for one in members])
    score_control, _ = _best_match(template, [_scaled(one, scale) for one in controls])
    carriers = torch.nonzero(score_member > score_control.quantile(0.95))[:, 0].tolist()
    if len(carriers) < 3:
        return None
    centres = [(place[i] + WINDOW / 2) / scale for i in carriers]
    picture, boxes = measure_patch([members[i].scaled for i in carriers], centres)
    return Patch(p_value=min(1.0, p_value * len(SCALES)), carriers=carriers, picture=picture, boxes=boxes)


def _scaled(picture: Picture, scale: float) -> Tensor:
    image = torch.from_numpy(picture.scaled.copy()).float().permute(2, 0, 1)[None]
    size = [max(WINDOW + 2, round(side * scale)) for side in image.shape[-2:]]
    return functional.interpolate(image, size=size, mode="area")


def _windows(image: Tensor) -> Tensor:
    """Return the windows of an image that have contrast: float32 [F, 3, WINDOW, WINDOW]."""
    flat = functional.unfold(image, WINDOW, stride=_STRIDE)[0].T.reshape(-1, 3, WINDOW, WINDOW)
    spread = flat.flatten(2).std(2).mean(1)
    chosen = torch.nonzero(spread > _MIN_SPREAD)[:, 0]
    return flat[chosen[evenly_spaced(len(chosen), _MAX_WINDOWS)]]


def _correlation(windows: Tensor, image: Tensor) -> Tensor:
    """Return the correlation of windows [F, C, w, w] with every place of an image: float32 [F, h', w']."""
    centred = windows - windows.mean((2, 3), keepdim=True)
    centred = centred / centred.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(_EPS)
    n = WINDOW * WINDOW
    mean, square = (functional.avg_pool2d(one, WINDOW, stride=1) for one in (image, image.square()))
    norm = ((square - mean.square()).clamp_min(0).sum(1) * n).sqrt().clamp_min(_EPS * (image.shape[1] * n) ** 0.5)
    found: Tensor = functional.conv2d(image, centred)[0] / norm
    return found


def _best_match(template: Tensor, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return score [n] and place (x, y) [n, 2] of a template's best match in every image."""
    scores, places = [], []
    for image in images:
        response = _correlation(template, image)[0]
        at = int(response.argmax())
        scores.append(response.flatten()[at])
        places.append([at % response.shape[1], at // response.shape[1]])
    return torch.stack(scores), torch.tensor(places)


def _learn(members: Sequence[Tensor], controls: Sequence[Tensor]) -> Tensor | None:
    """Return the window that most of the members repeat and controls do not, averaged over its matches."""
    best: tuple[float, Tensor] | None = None
    for seed in range(min(N_SEEDS, len(members))):
        windows = _windows(members[seed])
        if not len(windows):
            continue
        # Grey is enough to find it, at a third of the cost.
        grey, others = windows.mean(1, keepdim=True), [image for i, image in enumerate(members) if i != seed]
        own, sound = (
            torch.stack([_correlation(grey, one.mean(1, keepdim=True)).flatten(1).amax(1) for one in images], 1)
            for images in (others, controls)
        )
        gain = _upper_half(own) - _upper_half(sound)
        at = int(gain.argmax())
        if best is None or float(gain[at]) > best[0]:
            best = float(gain[at]), windows[at : at + 1]
    if best is None:
        return None
    template = best[1]
    for _ in range(2):
        score, place = _best_match(template, members)
        sound, _ = _best_match(template, controls)
        hits = [i for i in range(len(members)) if score[i] >= max(0.5, float(sound.quantile(0.9)))]
        if len(hits) < 2:
            return template
        template = torch.stack([_cut(members[i], place[i]) for i in hits]).mean(0, keepdim=True)
    return template


def _cut(image: Tensor, place: Tensor) -> Tensor:
    x, y = place.tolist()
    return image[0, :, y : y + WINDOW, x : x + WINDOW]


def _upper_half(score_FI: Tensor) -> Tensor:
    n = max(1, (score_FI.shape[1] + 1) // 2)
    return score_FI.topk(n, dim=1).values.mean(1)


def measure_patch(images: Sequence[np.ndarray], centres: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Cut the patch out of every image.

    Args:
        images: uint8 [h, w, 3] each, of about SIDE^2 pixels.
        centres: x, y of the matches' middles in each; up to two fifths may be false.

    Returns:
        What it looks like, uint8 [h, w, 3], and float64 [n, 4], x, y, width, height in each, as shares of the image.
    """
    half = CONTEXT // 2
    padded = [np.pad(image.astype(np.float32), ((half, half), (half, half), (0, 0)), mode="edge") for image in images]
    inside = [np.pad(np.ones(image.shape[:2], np.float32), half) for image in images]
    places, closest = [(round(float(x)), round(float(y))) for x, y in centres], np.arange(len(images))
    for _ in range(3):
        mean = np.mean([_around(padded[i], places[i], half) for i in closest], axis=0)
        found = [_aligned(*one, mean, half) for one in zip(padded, places, strict=True)]
        places, apart = [place for place, _ in found], np.array([far for _, far in found])
        closest = np.argsort(apart, kind="stable")[: max(3, len(apart) // 2)]
    # Not the closest half alone: they are those on one background, which then would seem to be of the patch.
    held = np.nonzero(apart <= _FAR * max(_SCALING, float(np.median(apart))))[0]
    crops = np.stack([_around(padded[i], places[i], half) for i in held])
    within = np.mean([_around(inside[i], places[i], half) for i in held], axis=0)
    elsewhere = float(np.median([image.var(axis=(0, 1)).sum() for image in images]))
    middle = np.median(crops, axis=0)
    # Some of what is held may be false matches: a robust spread, and smoothed over the patch's own cells.
    spread = np.median(np.abs(crops - middle), axis=0).sum(2) ** 2
    around = functional.avg_pool2d(torch.from_numpy(spread)[None, None], 3, 1, 1, count_include_pad=False)[0, 0].numpy()
    contrast = functional.avg_pool2d(
        torch.from_numpy(np.abs(middle - np.median(middle, axis=(0, 1))).sum(2))[None, None], 3, 1, 1
    )[0, 0].numpy()
    same = (around < _SAME * max(elsewhere, 1.0)) & (within > 0.5) & (contrast > 40)
    start = _nearest_true(same, half)
    rows, columns = component(same, start) if start is not None else (np.array([half]),) * 2
    if max(np.ptp(rows), np.ptp(columns)) < _LEAST_SIDE:  # a speck says nothing: as large as the smaller window
        rows = columns = np.arange(half - 8, half + 8)
    left, top, width, height = columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1
    boxes = [
        (
            (x - half + left) / image.shape[1],
            (y - half + top) / image.shape[0],
            width / image.shape[1],
            height / image.shape[0],
        )
        for (x, y), image in zip(places, images, strict=True)
    ]
    shown = middle[top : top + height, left : left + width].clip(0, 255).round().astype(np.uint8)
    grow = max(1, 96 // max(shown.shape[:2]))
    return shown.repeat(grow, 0).repeat(grow, 1), np.array(boxes)


def _around(image: np.ndarray, place: tuple[int, int], half: int) -> np.ndarray:
    x, y = place
    return image[y : y + 2 * half, x : x + 2 * half]


def _aligned(image: np.ndarray, place: tuple[int, int], mean: np.ndarray, half: int) -> tuple[tuple[int, int], float]:
    """Move a place by up to 3 pixels to where the middle of the crop resembles the mean most; say how far it is."""
    inner = slice(half - 10, half + 10)
    target = mean[inner, inner]

    def distance(step: tuple[int, int]) -> tuple[float, int]:
        x, y = place[0] + step[0], place[1] + step[1]
        if not (0 <= x <= image.shape[1] - 2 * half and 0 <= y <= image.shape[0] - 2 * half):
            return np.inf, 0
        apart = float(np.abs(_around(image, (x, y), half)[inner, inner] - target).mean())
        return apart, abs(step[0]) + abs(step[1])

    step = min(((x, y) for x in range(-3, 4) for y in range(-3, 4)), key=distance)
    return (place[0] + step[0], place[1] + step[1]), distance(step)[0]


def _nearest_true(mask: np.ndarray, half: int) -> tuple[int, int] | None:
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    nearest = int(np.argmin((rows - half) ** 2 + (columns - half) ** 2))
    return int(rows[nearest]), int(columns[nearest])
