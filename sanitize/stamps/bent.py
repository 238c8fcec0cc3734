"""Images that are bent alike among those of similar captions.

The leans of two warped images agree hardly more than those of two others, so no image is a seed. But if a warp is
planted under the captions of a vicinity, many of its images have one field: fields and the chances of images to have
them are fitted in turn, each image being held against the field of the others. Round things share a field as well, and
pictures of one series; so do their stand-ins, and none shows a planted warp.

Source: own construction after expectation-maximisation (Dempster, Laird and Rubin 1977); numbers in
docs/experiments.md. Differs from it: chances follow how clearly an image shows a field, not its likelihood, and a
field is smoothed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roclip_audit.sanitize.stamps.bend import BendLook
from roclip_audit.sanitize.stamps.crowd import LEAST_FAMILIES, Crowd
from roclip_audit.sanitize.stamps.layout import Layout
from roclip_audit.sanitize.stamps.vicinity import Beside, held_out_p

MAY_BE_BENT = 0.3
LIKELY, ASKED, SLOWLY = 0.6, 1.0, 2.0
"""Chance of an image that may be bent to have the field, beforehand; how clearly it shows it where that is open; and
how fast the chance grows with that."""
ROUNDS = 4
APART, STAND_INS_SHOW = 1.0, 0.8
"""How much more clearly than their stand-ins the images of a group show its field at least, and how clearly those do at
most, on average. The group is those that show it, so the second is the stricter one: of planted warps it is -0.33 to
0.75."""
ALIKE = 0.63
"""How alike a group's images are in where they have edges, at most (``Layout.alike``): what is drawn at a slant or with
a curve shares a field because it is one thing. Of warped images it is 0.48 to 0.60, of bells 0.72 to 0.81, of carts
0.67 to 0.80."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bent:
    """Images of similar captions that have a field in common.

    Attributes:
        rows: int64, those that have it, one a family.
        field_C: int64 [512], see ``BendLook.fields``.
        p_value: of the rank test, not adjusted; 1 if it cannot be a stamp.
    """

    rows: Tensor
    field_C: Tensor
    p_value: float


class Bends:
    """Looks for fields that images of similar captions share.

    Args:
        look: the searched images.
        crowd: the same images.
        layout: the same images.
    """

    def __init__(self, look: BendLook, crowd: Crowd, layout: Layout) -> None:
        self._look, self._beside, self._layout = look, Beside.of(crowd), layout
        self._may_be_P = look.may_be_bent_P > MAY_BE_BENT

    def test(self, mates: Tensor) -> Bent | None:
        """Look for a field among images, one a family; return the group that was tested, if it came to that."""
        mates = mates[self._may_be_P[mates]]
        if len(mates) < LEAST_FAMILIES:
            return None
        weight_M, shown_M, field_MC = self._fit(mates)
        has_it_M = weight_M > 0.5
        if int(has_it_M.sum()) < LEAST_FAMILIES:
            return None
        stand_in_MK = self._beside.stand_ins(mates, self._may_be_P)
        if stand_in_MK is None:
            return None
        by_stand_in = float(self._shown(stand_in_MK[has_it_M], field_MC[has_it_M]).mean())
        may_be_planted = (
            by_stand_in <= STAND_INS_SHOW
            and float(shown_M[has_it_M].mean()) - by_stand_in >= APART
            and self._layout.alike(mates[has_it_M]) <= ALIKE
        )
        all_of_them = torch.ones(1, len(mates), dtype=torch.bool)
        return Bent(
            rows=mates[has_it_M],
            field_C=self._look.fields(mates, weight_M * has_it_M, all_of_them)[0],
            p_value=self._p_value(mates, stand_in_MK) if may_be_planted else 1.0,
        )

    def _fit(self, mates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return chances to have a common field, how clearly each shows that of the others, and those fields."""
        look, speaks_MM = self._look, self._beside.may_speak(mates, mates)
        may_be_M = look.may_be_bent_P[mates]
        weight_M = LIKELY * may_be_M
        for _ in range(ROUNDS):
            field_MC = look.fields(mates, weight_M, speaks_MM)
            shown_M = look.shown(mates, field_MC)
            weight_M = torch.sigmoid(SLOWLY * (shown_M - ASKED)) * (MAY_BE_BENT + (1 - MAY_BE_BENT) * may_be_M)
        return weight_M, shown_M, field_MC

    def _p_value(self, mates: Tensor, stand_in_MK: Tensor) -> float:
        def apart(own: Tensor, other: Tensor) -> Tensor:
            weight, _, _ = self._fit(mates[own])
            field_QC = self._look.fields(mates[own], weight, self._beside.may_speak(mates[other], mates[own]))
            return self._look.shown(mates[other], field_QC) - self._shown(stand_in_MK[other], field_QC)

        return held_out_p(apart, len(mates))

    def _shown(self, rows_MK: Tensor, field_MC: Tensor) -> Tensor:
        """Return how clearly some images show fields, on average: float32 [M]."""
        k = rows_MK.shape[1]
        return self._look.shown(rows_MK.flatten(), field_MC.repeat_interleave(k, 0)).reshape(-1, k).mean(1)
