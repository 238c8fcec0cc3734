"""From the captions to the picture: images of one caption's vicinity, and what they are held against.

What an attack plants may show too little in one image to begin with, and yet be plain in the images of its captions,
of which it takes a large part. Whatever a vicinity has in common is held against two things: images that look like its
own under other captions (*stand-ins*), which share what such pictures share anyway; and itself, each image being left
out of what it is compared with, so that a group which agrees by chance does not vouch for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from roclip_audit.core.groups import one_of_each
from roclip_audit.core.ranktest import signed_rank_p
from roclip_audit.sanitize.stamps.crowd import AGREES, LEAST_FAMILIES, Crowd, below, by_chance

MATES = 96  # images of the nearest captions, one a family
COVERED = 32  # of them that are no seeds any more, with their families
ALMOST_EQUAL = 1e-4  # likenesses of captions, where 1 is equal
LOOK_ALIKE = 0.95  # of random pairs are less alike than look-alikes, by every view
N_STAND_INS = 3
N_FOLDS = 4


def vicinities(crowd: Crowd, most: int) -> list[Tensor]:
    """Return images of similar captions, one a family and enough of them: for up to ``most`` seeds all over.

    The most similar come first; of equal captions those that are in no vicinity yet.
    """
    is_covered_P = torch.zeros(len(crowd.rows), dtype=torch.bool)
    found: list[Tensor] = []
    for seed in _spread_out(len(crowd.rows)):
        if len(found) == most:
            break
        if is_covered_P[seed]:
            continue
        is_covered_P[seed] = True
        agreed_P = crowd.text_PD @ crowd.text_PD[seed]
        near = torch.nonzero(agreed_P > AGREES)[:, 0]
        order_P = agreed_P - ALMOST_EQUAL * is_covered_P
        near = near[order_P[near].argsort(descending=True, stable=True)[: 4 * MATES]]
        mates = one_of_each(near.sort().values, crowd.family_P)
        if len(mates) >= LEAST_FAMILIES:
            mates = mates[order_P[mates].argsort(descending=True, stable=True)[:MATES]]
            is_covered_P |= torch.isin(crowd.family_P, crowd.family_P[mates[:COVERED]])
            found.append(mates)
    return found


def _spread_out(n: int) -> list[int]:
    """Return the numbers up to n so that any first few of them are spread over all: by their reversed bits."""
    bits = max(1, (n - 1).bit_length())
    reversed_ = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(2**bits))
    return [number for number in reversed_ if number < n]


@dataclass(frozen=True, slots=True)
class Beside:
    """Which images may be held against each other.

    Attributes:
        crowd: the searched images.
        alike: likeness from which two are look-alikes, by view.
    """

    crowd: Crowd
    alike: tuple[float, ...]

    @classmethod
    def of(cls, crowd: Crowd) -> Self:
        """Measure how alike random pairs are."""
        return cls(crowd, tuple(by_chance(view, crowd.family_P, LOOK_ALIKE) for view in crowd.views))

    def may_speak(self, ones: Tensor, others: Tensor) -> Tensor:
        """Tell of which others each of some may be held against: other images that are no look-alikes: bool [O, P]."""
        is_unlike_OP = below((view[ones] @ view[others].T for view in self.crowd.views), self.alike)
        return is_unlike_OP & (ones[:, None] != others)

    def stand_ins(self, mates: Tensor, may_be_P: Tensor | None = None) -> Tensor | None:
        """Return the images most like each, of other families and captions: int64 [M, 3]; None if there are few.

        Args:
            mates: int64 [M], images of similar captions.
            may_be_P: bool, those that are taken first: what the mates were chosen for.
        """
        crowd = self.crowd
        alike_MP = crowd.others_alike(mates)
        alike_MP[:, crowd.text_PD @ crowd.text_PD[mates].mean(0) > AGREES] = -torch.inf
        alike_MP[:, mates] = -torch.inf
        if may_be_P is not None:
            alike_MP[:, ~may_be_P] -= 2 * len(crowd.views)  # after all others
        alike_MK, stand_in_MK = alike_MP.topk(min(N_STAND_INS, alike_MP.shape[1]), dim=1)
        return stand_in_MK if bool(alike_MK.isfinite().all()) else None


def held_out_p(apart: Callable[[Tensor, Tensor], Tensor | None], n: int) -> float:
    """Return P(so much more than the stand-ins by chance): Wilcoxon's signed ranks of values fitted without each.

    Images of different folds help to fit what the other is held against, so what they share by chance counts twice: on
    noise 0.05 is reached by 5 to 13 % of the groups.

    Args:
        apart: from some places of n and others, by how much the latter show what the former share more clearly than
            their stand-ins; None if the former share nothing.
        n: images.
    """
    fold_M, apart_M = torch.arange(n) % N_FOLDS, torch.zeros(n)
    for fold in range(N_FOLDS):
        own, other = torch.nonzero(fold_M != fold)[:, 0], torch.nonzero(fold_M == fold)[:, 0]
        found = apart(own, other)
        if found is None:
            return 1.0
        apart_M[other] = found
    return signed_rank_p(apart_M)
