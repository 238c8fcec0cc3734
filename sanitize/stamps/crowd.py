"""From a seed to its carriers, and whether those are a stamp: the same for every way of looking."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.core.groups import one_of_each
from roclip_audit.core.ranks import evenly_spaced, median_and_spread
from roclip_audit.core.ranktest import signed_rank_p
from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.mates import centred_views
from roclip_audit.sanitize.stamps.look import Look

LEAST_SPREAD = 1e-6  # of scores: where all are equal, nothing is far from them
ROUNDS = 3
N_BY_CHANCE = 1_024  # images whose pairs say how alike two random ones are
LEAST_FAMILIES, LEAST_AT_FIRST = 8, 4
LEAST_UNLIKE = 2
"""Other carriers that a carrier has to be unlike to count: one odd picture in a series says nothing of the others."""
COHERENCE = 0.25
TOGETHER = 0.06
"""The same mean over all pairs of carriers, like ones counting 0: pictures of one style are seldom unlike."""
ALL_AGREE, AGREES = 0.8, 0.3
"""Or at least this share of the unlike pairs has captions of a likeness above that: one target may look alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """Where a search begins: searched images, the one it is about first, and where in them (int64 each)."""

    rows: Tensor
    where: Tensor

    @classmethod
    def of(cls, row: int) -> Self:
        """Begin with one image as a whole."""
        return cls(rows=torch.tensor([row]), where=torch.zeros(1, dtype=torch.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """What a seed has grown to.

    Attributes:
        template: as its look makes it.
        middle, spread: of the scores of all images.
        least: strength from which an image is a carrier, in spreads.
        counted: int64, one carrier a family.
    """

    template: Tensor
    middle: float
    spread: float
    least: float
    counted: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """The searched images, P of them.

    Attributes:
        rows: int64 [P] of the data set, rising.
        is_ordinary_P: bool [P], those that say what is far: not picked for a trait.
        family_P: int64 [P], equal for look-alikes.
        text_PD: captions, centred and of mean square length 1.
        text_unit: what they were divided by for that.
        views: float32 [P, D] each, centred unit vectors of the images.
        likeness: of two random images, by view (the median).
    """

    rows: Tensor
    is_ordinary_P: Tensor
    family_P: Tensor
    text_PD: Tensor
    text_unit: float
    views: tuple[Tensor, ...]
    likeness: tuple[float, ...]

    @classmethod
    def of(
        cls,
        rows: Tensor,
        is_ordinary_P: Tensor,
        near: Neighbourhood,
        image_NVR: RowArray,
        views: Sequence[int],
        family_N: Tensor,
    ) -> Self:
        """Gather what is needed of some rows; ``views`` are numbers of views of ``image_NVR``, 0 the whole one."""
        text_PD = near.text_ND[rows] - near.text_ND.mean(0)
        text_unit = max(1e-6, float(text_PD.square().sum(1).mean().sqrt()))
        seen = tuple(
            _centred(image_NVR, view, rows) if view else centred_views(near, near.image_ND.mean(0), rows)
            for view in views
        )
        return cls(
            rows=rows,
            is_ordinary_P=is_ordinary_P,
            family_P=family_N[rows],
            text_PD=text_PD / text_unit,
            text_unit=text_unit,
            views=seen,
            likeness=tuple(by_chance(one, family_N[rows], 0.5) for one in seen),
        )

    def are_unlike(self, ones: Tensor, others: Tensor) -> Tensor:
        """Tell whether images are less alike than two random ones by every view: bool, of the broadcast shape."""
        return below(((view[ones] * view[others]).sum(-1) for view in self.views), self.likeness)

    def others_alike(self, rows: Tensor) -> Tensor:
        """Return how alike all images are to some, summed over the views; -inf in a family: float32 [rows, P]."""
        alike_KP = torch.stack([view[rows] @ view.T for view in self.views]).sum(0)
        return alike_KP.masked_fill_(self.family_P[rows][:, None] == self.family_P, -torch.inf)

    def agree(self, ones: Tensor, others: Tensor) -> Tensor:
        """Return the likeness of captions: float32, of the broadcast shape."""
        return (self.text_PD[ones] * self.text_PD[others]).sum(-1)

    def grow(self, look: Look, seed: Seed) -> tuple[Grown | None, Tensor]:
        """Look for what images show; return what that grows to, if anything, and who carries it: bool [P]."""
        first = seed.rows[0]
        is_other_P = self.family_P != self.family_P[first]
        is_other_P[first] = True
        counted, where_P = seed.rows, torch.zeros(len(self.rows), dtype=torch.int64)
        where_P[seed.rows] = seed.where
        for turn in range(ROUNDS + 1):
            template, is_group = look.mean(counted, where_P), len(counted) > 1
            score_P, found_P = look.compare(template)
            if is_group:  # what is in a template is like it
                score_P[counted] = look.among(counted, where_P)
            where_P = found_P
            middle, spread = (float(one) for one in median_and_spread(score_P[self.is_ordinary_P], LEAST_SPREAD))
            strength_P = (score_P - middle) / spread
            least = max(look.least, look.share * float(strength_P[counted].median())) if is_group else look.least
            is_carrier_P = strength_P > least
            counted = one_of_each(torch.nonzero(is_carrier_P & is_other_P)[:, 0], self.family_P)
            if len(counted) < (LEAST_AT_FIRST if turn < ROUNDS else LEAST_FAMILIES):
                return None, torch.zeros_like(is_carrier_P)
        grown = Grown(
            template=template,
            middle=middle,
            spread=spread,
            least=least,
            counted=counted,
        )
        return grown, is_carrier_P

    def agreement(self, grown: Grown, is_carrier_P: Tensor) -> tuple[float, float]:
        """Return coherence and p-value of carriers, one a family; the latter is 1 if they cannot be a stamp."""
        counted = grown.counted
        is_unlike_KK = below((view[counted] @ view[counted].T for view in self.views), self.likeness)
        is_unlike_KK.fill_diagonal_(False)
        n_unlike_K = is_unlike_KK.sum(1)
        counts_K = n_unlike_K >= LEAST_UNLIKE
        if int(counts_K.sum()) < LEAST_FAMILIES:
            return 0.0, 1.0
        text_KD = self.text_PD[counted]
        likeness_KK = text_KD @ text_KD.T
        agreed_K = (likeness_KK * is_unlike_KK).sum(1)
        coherence = float(agreed_K[counts_K].sum() / n_unlike_K[counts_K].sum())
        together = float(agreed_K.sum()) / (len(counted) * (len(counted) - 1))
        all_agree = float((likeness_KK[is_unlike_KK] > AGREES).float().mean()) >= ALL_AGREE
        if coherence < COHERENCE or not (together >= TOGETHER or all_agree):
            return coherence, 1.0
        alike_KP = self.others_alike(counted)
        alike_KP[:, is_carrier_P] = -torch.inf
        by_stand_in_K = ((self.text_PD[alike_KP.argmax(1)] @ text_KD.T) * is_unlike_KK).sum(1)
        return coherence, signed_rank_p(((agreed_K - by_stand_in_K) / n_unlike_K)[counts_K])


def below(alike: Iterable[Tensor], likeness: Sequence[float]) -> Tensor:
    """Tell what is no more alike than a likeness, by every view; ``alike`` has a tensor for each: bool."""
    return torch.stack([one <= most for one, most in zip(alike, likeness, strict=True)]).all(0)


def by_chance(view_PD: Tensor, family_P: Tensor, share: float) -> float:
    """Return the likeness that a share of the pairs of images stay below: of evenly spaced ones, of two families."""
    some = evenly_spaced(len(view_PD), N_BY_CHANCE)
    alike = between_families(view_PD[some], family_P[some])
    return float(np.quantile(alike.numpy(), share)) if len(alike) else 1.0


def between_families(view_SD: Tensor, family_S: Tensor) -> Tensor:
    """Return how alike any two images of two families are, each pair twice: float32, one-dimensional."""
    return (view_SD @ view_SD.T)[family_S[:, None] != family_S]


def _centred(image_NVR: RowArray, view: int, rows: Tensor) -> Tensor:
    image_PR = functional.normalize(image_NVR[rows][:, view], dim=1)
    return functional.normalize(image_PR - image_PR.mean(0), dim=1)
