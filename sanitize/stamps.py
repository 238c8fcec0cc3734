"""Stamps: the same detail at the same place of pictures that are otherwise unlike, under captions that are alike.

That is what a patch backdoor is, whether its captions were changed or not: pictures of anything (or of the target
itself), one trigger at one place, one target. ``shared_patch`` compares an image with the images of its own caption's
vicinity and sees the first pairs of an attack; honest families of logos and frames stand beside them. From each of
these *seeds* the search goes the other way, from the picture to the captions:

1. What lies at the seed's place (``sanitize.detail``: 3 x 3 places, less 13 x 13 around) is looked for at that place of
   every image. The *carriers* have it more than ``FROM`` spreads above the middle of all images; a family of look-alike
   images counts once. The mean over them is the next template, ``ROUNDS`` times, and then a carrier has it at least
   half as clearly as the middle one of the round before.
2. Honest carriers are alike as a whole: cards of one deck, keys of one keyboard. So only pairs of carriers count whose
   images are less alike than two random ones (the median of random pairs). Their captions' mean likeness is the
   *coherence*: 0 for random captions, about 1 for equal ones. A stamp has ``COHERENCE`` at least.
3. By chance? Every carrier has a *stand-in*, the image most like it of another family that carries nothing. If the
   detail meant nothing, the captions of the stand-ins would agree as much with those of the carriers as theirs do:
   Wilcoxon's signed ranks, corrected for the number of seeds.

Blind spots: what repeats at other places or in another shape, fewer than about a dozen carriers (the correction), more
than a seventh of the data (the spread), a target whose pictures are all alike. A watermark on the pictures of one shop
is a stamp.

Source: own construction; numbers in docs/experiments.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Self

import torch
from torch import Tensor

from roclip_audit.core.groups import one_of_each
from roclip_audit.core.parallel import map_ordered
from roclip_audit.core.ranks import evenly_spaced, median_and_spread
from roclip_audit.core.ranktest import signed_rank_p
from roclip_audit.core.run import RunFolder, write_json
from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.detail import DIM, GRID, UNIT
from roclip_audit.sanitize.mates import centred_views
from roclip_audit.sanitize.traits import Traits

MOST_POOLED = 8_192
"""Images among which stamps are looked for: half of them those of the strongest patches."""
MOST_SEEDS = 192
AT, AROUND, AROUND_STEP = 3, 13, 2
FROM = 5.0
LEAST_SPREAD = 1e-6  # of scores: where all are equal, nothing is far from them
ROUNDS = 2
LEAST_FAMILIES = 8
LEAST_UNLIKE = 2
"""Other carriers that a carrier has to be unlike to count: one odd picture in a series says nothing of the others."""
COHERENCE = 0.2
LEVEL = 0.05
FILE = "stamps.json"
_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """One detail that repeats.

    Attributes:
        x, y: its place, 0 to 31 from the left and from the top.
        at_AC, around_BC: float32, mean detail of its carriers at the place and around it.
        middle, spread: of the scores of all images.
        least: strength from which an image is a carrier, in spreads.
        coherence: likeness of its carriers' captions, of unlike images only; about 1 if they are equal.
        p_value: of the rank test, not corrected.
    """

    x: int
    y: int
    at_AC: Tensor
    around_BC: Tensor
    middle: float
    spread: float
    least: float
    coherence: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamps:
    """The stamps of a data set.

    Attributes:
        number_N: int64 [N], from 1; 0 for images that carry none.
        strength_N: float64 [N], how clearly an image carries its stamp, 1 for what is just enough; 0 without one.
        found: number 1 first, the surest.
        n_tested: seeds that were tested.
    """

    number_N: Tensor
    strength_N: Tensor
    found: tuple[Stamp, ...]
    n_tested: int

    def carriers(self) -> Tensor:
        """Count the images that carry the same stamp, this one too; 0 without one: int64 [N]."""
        return torch.bincount(self.number_N)[self.number_N] * (self.number_N > 0)


def n_seeds(n: int) -> int:
    """Return how many seeds are looked at among n images."""
    return min(n, MOST_SEEDS)


def find_stamps(
    detail_N: RowArray,
    near: Neighbourhood,
    traits: Traits,
    family_N: Tensor,
    *,
    workers: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> Stamps:
    """Find stamps, and who carries them.

    Args:
        detail_N: int8 rows [1024, 24].
        near: the whole view and the captions.
        traits: the strongest patches are the seeds.
        family_N: int64 [N], equal for look-alikes.
        workers: threads; the result is the same for every value.
        advance: called with the number of seeds finished, of ``n_seeds``.
    """
    pool, is_ordinary_P = _pool(traits.patch_N)
    search = _Search.of(pool, is_ordinary_P, detail_N, near, family_N)
    x_P, y_P = ((share_N[pool] * GRID).long().clamp(max=GRID - 1) for share_N in (traits.patch_x_N, traits.patch_y_N))
    is_done_P = torch.zeros(len(pool), dtype=torch.bool)
    grown: list[tuple[Stamp, Tensor]] = []
    n_tested = 0
    for seed in torch.argsort(traits.patch_N[pool], descending=True, stable=True)[: n_seeds(len(pool))].tolist():
        advance(1)
        if is_done_P[seed]:
            continue
        x, y = int(x_P[seed]), int(y_P[seed])
        stamp, is_carrier_P = search.grow(seed, x, y)
        # An image of a series may carry a trigger as well, at another place: that is another seed.
        is_done_P |= is_carrier_P & ((x_P - x).abs() <= AT // 2) & ((y_P - y).abs() <= AT // 2)
        n_tested += 1
        if stamp is not None:
            grown.append((stamp, is_carrier_P))
    found = _distinct([(stamp, carriers) for stamp, carriers in grown if stamp.p_value * n_tested <= LEVEL])
    number_N, strength_N = _carried(found, detail_N, workers=workers)
    return Stamps(number_N=number_N, strength_N=strength_N, found=tuple(found), n_tested=n_tested)


def _distinct(grown: list[tuple[Stamp, Tensor]]) -> list[Stamp]:
    """Return stamps, the surest first; one whose carriers mostly carry a surer one is the same trigger, elsewhere."""
    found: list[Stamp] = []
    is_told_P = torch.zeros(len(grown[0][1]), dtype=torch.bool) if grown else torch.empty(0)
    for stamp, is_carrier_P in sorted(grown, key=lambda one: (one[0].p_value, -one[0].coherence)):
        if 2 * int((is_carrier_P & is_told_P).sum()) <= int(is_carrier_P.sum()):
            found.append(stamp)
            is_told_P |= is_carrier_P
    return found


def _pool(patch_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows that are searched, rising, and which of them were not picked for their patch: bool [P]."""
    n = len(patch_N)
    if n <= MOST_POOLED:
        return torch.arange(n), torch.ones(n, dtype=torch.bool)
    strongest = torch.argsort(patch_N, descending=True, stable=True)[: MOST_POOLED // 2]
    is_left_N = torch.ones(n, dtype=torch.bool)
    is_left_N[strongest] = False
    others = torch.nonzero(is_left_N)[:, 0]
    pool = torch.cat([strongest, others[evenly_spaced(len(others), MOST_POOLED - len(strongest))]]).sort().values
    return pool, is_left_N[pool]


def _cut(grid_PGGC: Tensor, x: int, y: int) -> tuple[Tensor, Tensor]:
    """Return the detail at a place and around it: float32 [P, A, C] and [P, B, C]."""
    parts = []
    for side, step in ((AT, 1), (AROUND, AROUND_STEP)):
        down, across = (slice(max(0, middle - side // 2), middle + side // 2 + 1, step) for middle in (y, x))
        parts.append(grid_PGGC[:, down, across].flatten(1, 2).float() / UNIT)
    return parts[0], parts[1]


def _scores(at_PAC: Tensor, around_PBC: Tensor, at_AC: Tensor, around_BC: Tensor) -> Tensor:
    """Return how much more alike images are to a template at the place than around it: float32 [P]."""
    here_P = torch.einsum("pac,ac->p", at_PAC, at_AC) / len(at_AC)
    return here_P - torch.einsum("pac,ac->p", around_PBC, around_BC) / len(around_BC)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """What is needed of the pooled images: detail, family, centred unit vectors of the image, captions."""

    is_ordinary_P: Tensor
    grid_PGGC: Tensor
    family_P: Tensor
    image_PD: Tensor
    text_PD: Tensor
    likeness: float

    @classmethod
    def of(cls, pool: Tensor, is_ordinary_P: Tensor, detail_N: RowArray, near: Neighbourhood, family_N: Tensor) -> Self:
        image_PD = centred_views(near, near.image_ND.mean(0), pool)
        text_PD = near.text_ND[pool] - near.text_ND.mean(0)
        text_PD = text_PD / text_PD.square().sum(1).mean().sqrt().clamp_min(1e-6)
        by_chance_P = (image_PD * image_PD.roll(len(pool) // 2, 0)).sum(1)
        return cls(
            is_ordinary_P=is_ordinary_P,
            grid_PGGC=detail_N.as_stored(pool).reshape(len(pool), GRID, GRID, DIM),
            family_P=family_N[pool],
            image_PD=image_PD,
            text_PD=text_PD,
            likeness=float(by_chance_P.median()),
        )

    def grow(self, seed: int, x: int, y: int) -> tuple[Stamp | None, Tensor]:
        """Look for what an image has at a place; return the stamp if it is one, and who carries it: bool [P]."""
        at_PAC, around_PBC = _cut(self.grid_PGGC, x, y)
        is_other_P = self.family_P != self.family_P[seed]
        is_other_P[seed] = True
        counted = torch.tensor([seed])
        for turn in range(ROUNDS + 1):
            at_AC, around_BC = at_PAC[counted].mean(0), around_PBC[counted].mean(0)
            score_P = _scores(at_PAC, around_PBC, at_AC, around_BC)
            middle, spread = (float(one) for one in median_and_spread(score_P[self.is_ordinary_P], LEAST_SPREAD))
            strength_P = (score_P - middle) / spread
            least = max(FROM, float(strength_P[counted].median()) / 2) if turn else FROM
            is_carrier_P = strength_P > least
            counted = one_of_each(torch.nonzero(is_carrier_P & is_other_P)[:, 0], self.family_P)
            if len(counted) < LEAST_FAMILIES:
                return None, torch.zeros_like(is_carrier_P)
        tested = self._test(counted, is_carrier_P)
        if tested is None:
            return None, is_carrier_P
        coherence, p_value = tested
        stamp = Stamp(
            x=x,
            y=y,
            at_AC=at_AC,
            around_BC=around_BC,
            middle=middle,
            spread=spread,
            least=least,
            coherence=coherence,
            p_value=p_value,
        )
        return stamp, is_carrier_P

    def _test(self, counted: Tensor, is_carrier_P: Tensor) -> tuple[float, float] | None:
        """Return coherence and p-value of carriers, one a family; None if their captions are not alike."""
        image_KD, text_KD = self.image_PD[counted], self.text_PD[counted]
        is_unlike_KK = (image_KD @ image_KD.T <= self.likeness).fill_diagonal_(False)
        n_unlike_K = is_unlike_KK.sum(1)
        counts_K = n_unlike_K >= LEAST_UNLIKE
        if int(counts_K.sum()) < LEAST_FAMILIES:
            return None
        agreed_K = ((text_KD @ text_KD.T) * is_unlike_KK).sum(1)
        coherence = float(agreed_K[counts_K].sum() / n_unlike_K[counts_K].sum())
        if coherence < COHERENCE:
            return None
        alike_KP = image_KD @ self.image_PD.T
        alike_KP[:, is_carrier_P] = -torch.inf
        alike_KP[self.family_P[counted][:, None] == self.family_P[None]] = -torch.inf
        by_stand_in_K = ((self.text_PD[alike_KP.argmax(1)] @ text_KD.T) * is_unlike_KK).sum(1)
        return coherence, signed_rank_p(((agreed_K - by_stand_in_K) / n_unlike_K)[counts_K])


def _carried(found: list[Stamp], detail_N: RowArray, *, workers: int) -> tuple[Tensor, Tensor]:
    """Return the number of the stamp that every image carries most clearly (0: none), and how clearly."""
    number_N = torch.zeros(len(detail_N), dtype=torch.int64)
    strength_N = torch.zeros(len(detail_N), dtype=torch.float64)
    if not found:
        return number_N, strength_N

    def look(rows: Tensor) -> Tensor:
        grid_BGGC = detail_N.as_stored(rows).reshape(len(rows), GRID, GRID, DIM)
        strength_SB = torch.zeros(len(found), len(rows))
        for own_B, one in zip(strength_SB, found, strict=True):
            score_B = _scores(*_cut(grid_BGGC, one.x, one.y), one.at_AC, one.around_BC)
            strength_B = (score_B - one.middle) / one.spread
            own_B[:] = torch.where(strength_B > one.least, strength_B / one.least, 0.0)
        return strength_SB

    blocks = torch.arange(len(detail_N)).split(_BLOCK)
    for rows, strength_SB in zip(blocks, map_ordered(look, blocks, workers=workers), strict=True):
        best_B, which_B = strength_SB.double().max(0)
        number_N[rows] = torch.where(best_B > 0, which_B + 1, 0)
        strength_N[rows] = best_B
    return number_N, strength_N


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is kept of a stamp beside who carries it.

    Attributes:
        x, y: middle of its place, shares of the image's width and height.
        coherence: see ``Stamp``.
        p_value: of the rank test, not corrected.
        n_tested: seeds that were tested.
    """

    x: float
    y: float
    coherence: float
    p_value: float
    n_tested: int

    @property
    def p_corrected(self) -> float:
        """Corrected for the seeds (Bonferroni)."""
        return min(1.0, self.p_value * self.n_tested)


def write_stamps(run: RunFolder, stamps: Stamps) -> None:
    """Write evidence/stamps.json, number 1 first."""
    told = [
        Told(
            x=(stamp.x + 0.5) / GRID,
            y=(stamp.y + 0.5) / GRID,
            coherence=stamp.coherence,
            p_value=stamp.p_value,
            n_tested=stamps.n_tested,
        )
        for stamp in stamps.found
    ]
    write_json(run.file("evidence", FILE), [asdict(one) for one in told])


def read_stamps(run: RunFolder) -> list[Told]:
    """Read what ``write_stamps`` wrote."""
    return [Told(**one) for one in json.loads(run.file("evidence", FILE).read_text(encoding="utf-8"))]
