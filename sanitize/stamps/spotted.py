"""Images that share a detail at one place among those of similar captions.

A patch on pictures of the target itself (label-consistent) is one of many things that such pictures share, so its
carriers are not the ones of the strongest trait; but their strongest trait lies at one place. The images of one
caption's vicinity vote for a place, and what the voters show there is looked for in all of them.

Pictures of one series vote too: frames, folders of one theme, signs. They agree in much of the picture, or their
stand-ins show the same. A patch is local, and no stand-in shows it. And what many people draw at one place, the bar of
a battery, each draws a little differently, while a patch is the same in all its pictures.

Source: own construction, docs/experiments.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.core.ranks import evenly_spaced, median_and_spread
from roclip_audit.sanitize.detail import GRID, UNIT
from roclip_audit.sanitize.stamps.crowd import LEAST_AT_FIRST, LEAST_FAMILIES, LEAST_SPREAD, Crowd
from roclip_audit.sanitize.stamps.layout import Layout
from roclip_audit.sanitize.stamps.place import PlaceLook
from roclip_audit.sanitize.stamps.vicinity import Beside, held_out_p

SAME_PLACE = 2  # votes this near to each other, of 32 places across, are for one place
N_ORDINARY = 256  # images that say what is far
LEAST = 2.5  # spreads above the middle one of those from which an image shows it
ROUNDS = 3
APART, STAND_INS_SHOW = 2.0, 1.0
"""Spreads by which the images of a group show it more clearly than their stand-ins at least, and those at most."""
NEARLY, MOST_PLACES = 1 / 3, 40
"""Places where a group agrees at least this part of what it does there: a patch of a tenth of the side has about 22."""
SAME, LEAST_SAME, SAME_SHARE = 0.8, 2, 0.33
"""Cosine from which two images show the same at the place, with how many others of its group one does, and how many of
the group do so at least. Of patches it is 0.44 to 1, of what is drawn by many 0 to 0.17."""
ALIKE = 0.65
"""How alike a group's images are in where they have edges elsewhere, at most (``Layout.alike``): of patches up to 0.55,
of folders and locks 0.69 to 0.81."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spotted:
    """Images of similar captions that share a detail.

    Attributes:
        rows: int64, those that show it, one a family.
        x, y: place, 0 to 31.
        middle, spread: of what ordinary images show of it.
        p_value: of the rank test, not adjusted; 1 if it cannot be a stamp.
    """

    rows: Tensor
    x: int
    y: int
    middle: float
    spread: float
    p_value: float


class Spots:
    """Looks for details that images of similar captions share.

    Args:
        crowd: the searched images, P of them.
        detail_PSC: int8 [P, 1024, 24].
        place_P2: int64 [P, 2], x and y of the strongest patch of each.
        layout: the same images.
    """

    def __init__(self, crowd: Crowd, detail_PSC: Tensor, place_P2: Tensor, layout: Layout) -> None:
        self._beside, self._detail_PSC, self._place_P2 = Beside.of(crowd), detail_PSC, place_P2
        self._layout = layout
        self._ordinary = evenly_spaced(len(detail_PSC), N_ORDINARY)
        self._ordinary_GG = self._agreed(self._ordinary)

    def test(self, mates: Tensor) -> Spotted | None:
        """Look for a detail that images share, one a family; return the group that was tested, if it came to that."""
        found = self._fit(mates) if len(mates) >= LEAST_FAMILIES else None
        if found is None or len(found.rows) < LEAST_FAMILIES:
            return None
        stand_in_MK = self._beside.stand_ins(mates)
        if stand_in_MK is None:
            return None
        by_stand_in = float(self._shown(found, stand_in_MK[torch.isin(mates, found.rows)].flatten()).mean())
        apart = float(self._shown(found, found.rows).mean()) - by_stand_in
        may_be_planted = (
            by_stand_in <= STAND_INS_SHOW
            and apart >= APART
            and self._is_local(found)
            and self._is_same(found)
            and self._layout.alike(found.rows, (found.x, found.y)) <= ALIKE
        )
        return replace(found, p_value=self._p_value(mates, stand_in_MK)) if may_be_planted else found

    def _fit(self, mates: Tensor) -> Spotted | None:
        """Return who of some images share a detail, if any do: what the voters for a place show, and so on."""
        place_M2 = self._place_P2[mates]
        votes_MM = (place_M2[:, None] - place_M2).abs().amax(2) <= SAME_PLACE
        shows_M = votes_MM[votes_MM.sum(1).argmax()]
        x, y = place_M2[shows_M].double().mean(0).round().long().tolist()
        m, speaks_MM = len(mates), self._beside.may_speak(mates, mates).float()
        alike_XM = PlaceLook(self._detail_PSC[torch.cat([mates, self._ordinary])], x, y).products(m)
        for _ in range(ROUNDS):
            if int(shows_M.sum()) < LEAST_AT_FIRST:
                return None
            weight_M = shows_M.float()
            middle, spread = median_and_spread(alike_XM[m:] @ weight_M / weight_M.sum(), LEAST_SPREAD)
            shown_M = (alike_XM[:m] * speaks_MM) @ weight_M / (speaks_MM @ weight_M).clamp_min(1)
            shows_M = (shown_M - middle) / spread > LEAST
        group = mates[shows_M]
        return Spotted(rows=group, x=x, y=y, middle=float(middle), spread=float(spread), p_value=1.0)

    def _shown(self, found: Spotted, rows: Tensor) -> Tensor:
        """Return how clearly images show what a group shares, look-alikes and the image itself left out: in spreads."""
        look = PlaceLook(self._detail_PSC[torch.cat([found.rows, rows])], found.x, found.y)
        alike_BK = look.products(len(found.rows))[len(found.rows) :]
        speaks_BK = self._beside.may_speak(rows, found.rows)
        return ((alike_BK * speaks_BK).sum(1) / speaks_BK.sum(1).clamp_min(1) - found.middle) / found.spread

    def _p_value(self, mates: Tensor, stand_in_MK: Tensor) -> float:
        def apart(own: Tensor, other: Tensor) -> Tensor | None:
            found = self._fit(mates[own])
            if found is None or not len(found.rows):
                return None
            stand_in_QK = stand_in_MK[other]
            by_stand_in_Q = self._shown(found, stand_in_QK.flatten()).reshape(stand_in_QK.shape).mean(1)
            return self._shown(found, mates[other]) - by_stand_in_Q

        return held_out_p(apart, len(mates))

    def _is_local(self, found: Spotted) -> bool:
        """Tell whether a group agrees in few places nearly as much as at its own, more than ordinary images do."""
        agreed_GG = self._agreed(found.rows) - self._ordinary_GG
        return int((agreed_GG >= NEARLY * agreed_GG[found.y, found.x]).sum()) <= MOST_PLACES

    def _is_same(self, found: Spotted) -> bool:
        """Tell whether enough images of a group show the same as some others, not just something like it."""
        same_KK = PlaceLook(self._detail_PSC[found.rows], found.x, found.y).cosines() > SAME
        return float((same_KK.fill_diagonal_(False).sum(1) >= LEAST_SAME).float().mean()) >= SAME_SHARE

    def _agreed(self, rows: Tensor) -> Tensor:
        """Return the mean product of two images' detail at every place, over 3 x 3 of them: float32 [32, 32]."""
        detail_KSC, n = self._detail_PSC[rows].float() / UNIT, len(rows)
        agreed_S = (detail_KSC.sum(0).square() - detail_KSC.square().sum(0)).sum(1) / max(1, n * (n - 1))
        padded = functional.pad(agreed_S.reshape(1, 1, GRID, GRID), (1, 1, 1, 1), mode="replicate")
        return functional.avg_pool2d(padded, 3, 1)[0, 0]
