"""The step of the scan that finds stamps: seeds of four kinds, what they grow to, and who carries it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from roclip_audit.core.parallel import map_ordered
from roclip_audit.core.ranks import evenly_spaced
from roclip_audit.core.significance import benjamini_hochberg
from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.detail import GRID
from roclip_audit.sanitize.stamps.crowd import Crowd, Grown, Seed
from roclip_audit.sanitize.stamps.grain import GrainLook
from roclip_audit.sanitize.stamps.look import Look
from roclip_audit.sanitize.stamps.place import AT, PlaceLook
from roclip_audit.sanitize.stamps.recurring import recurring
from roclip_audit.sanitize.stamps.tone import ToneLook
from roclip_audit.sanitize.stamps.window import WindowLook
from roclip_audit.sanitize.traits import Traits

MOST_POOLED, MOST_POOLED_GRAIN = 8_192, 4_096
"""Images among which stamps are looked for: of ``place`` and ``grain`` half are those of the strongest trait."""
MOST_ASKED = 4_096  # images whose windows and tones are tried as seeds
PLACE_SEEDS, WINDOW_SEEDS, GRAIN_SEEDS, TONE_SEEDS = 192, 512, 384, 384
LEVEL = 0.05
_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """One thing that repeats, tested or found to be no chance.

    Attributes:
        kind: ``place``, ``window``, ``grain`` or ``tone``.
        x, y: of a place, 0 to 31 from the left and from the top; None of the others.
        grown: its template, and from what score an image carries it.
        coherence: likeness of its carriers' captions, of unlike images only; about 1 if they are equal.
        p_value: of the rank test, not adjusted; 1 if it cannot be a stamp.
        p_adjusted: for all groups that were tested.
    """

    kind: str
    x: int | None
    y: int | None
    grown: Grown
    coherence: float
    p_value: float
    p_adjusted: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamps:
    """The stamps of a data set.

    Attributes:
        number_N: int64 [N], from 1; 0 for images that carry none.
        strength_N: float64 [N], how clearly an image carries its stamp, 1 for what is just enough; 0 without one.
        found: number 1 first, the surest.
        n_tested: groups that were tested.
    """

    number_N: Tensor
    strength_N: Tensor
    found: tuple[Stamp, ...]
    n_tested: int

    def carriers(self) -> Tensor:
        """Count the images that carry the same stamp, this one too; 0 without one: int64 [N]."""
        return torch.bincount(self.number_N)[self.number_N] * (self.number_N > 0)

    def kinds(self) -> list[str | None]:
        """Return the kind of every image's stamp, None without one."""
        return [self.found[number - 1].kind if number else None for number in self.number_N.tolist()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictured:
    """What is seen of the images.

    Attributes:
        detail_N: int8 rows [1024, 24].
        grain_N: int8 rows [128, 128].
        image_NVR: features of every view.
        views: their names.
    """

    detail_N: RowArray
    grain_N: RowArray
    image_NVR: RowArray
    views: tuple[str, ...]


def n_steps(n: int) -> int:
    """Return how many steps a search among n images has: seeds, and images that are tried as such."""
    seeds = (PLACE_SEEDS, WINDOW_SEEDS, GRAIN_SEEDS, TONE_SEEDS)
    return sum(min(n, most) for most in (*seeds, MOST_ASKED, MOST_ASKED))


def find_stamps(
    pictured: Pictured,
    near: Neighbourhood,
    traits: Traits,
    family_N: Tensor,
    *,
    workers: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> Stamps:
    """Find stamps, and who carries them.

    Args:
        pictured: what is seen of the images.
        near: the whole view and the captions.
        traits: the strongest patches and textures are seeds.
        family_N: int64 [N], equal for look-alikes.
        workers: threads; the result is the same for every value.
        advance: called with the number of steps finished, of ``n_steps``.
    """
    search = _Search(pictured, near, traits, family_N, workers, advance)
    tested = [*search.by_place(), *search.by_window(), *search.by_grain(), *search.by_tone()]
    maybe = sorted((one for one in tested if one.p_value <= LEVEL), key=lambda one: (one.p_value, -one.coherence))
    found, strength_SN = _sure(maybe, _strengths(maybe, pictured, workers=workers), len(tested))
    strength_N, which_N = strength_SN.max(0) if found else (torch.zeros(len(family_N)), torch.zeros(len(family_N)))
    return Stamps(
        number_N=torch.where(strength_N > 0, which_N.long() + 1, 0),
        strength_N=strength_N.double(),
        found=tuple(found),
        n_tested=len(tested),
    )


@dataclass(frozen=True, slots=True)
class _Search:
    pictured: Pictured
    near: Neighbourhood
    traits: Traits
    family_N: Tensor
    workers: int
    advance: Callable[[int], None]

    def by_place(self) -> Iterator[Stamp]:
        """Test what the images of the strongest patches show at that place; an image is done with there only."""
        crowd = self._crowd(PlaceLook, *_pool(self.traits.patch_N, MOST_POOLED))
        detail_PSC = self.pictured.detail_N.as_stored(crowd.rows)
        places = (self.traits.patch_x_N, self.traits.patch_y_N)
        x_P, y_P = ((share_N[crowd.rows] * GRID).long().clamp(max=GRID - 1) for share_N in places)
        is_done_P = torch.zeros(len(crowd.rows), dtype=torch.bool)
        for seed in _strongest(self.traits.patch_N[crowd.rows], PLACE_SEEDS):
            self.advance(1)
            if is_done_P[seed]:
                continue
            x, y = int(x_P[seed]), int(y_P[seed])
            tested, is_carrier_P = _test(crowd, PlaceLook(detail_PSC, x, y), Seed.of(seed), x=x, y=y)
            is_done_P |= is_carrier_P & ((x_P - x).abs() <= AT // 2) & ((y_P - y).abs() <= AT // 2)
            yield from tested

    def by_window(self) -> Iterator[Stamp]:
        """Test the windows that recur under like captions."""
        yield from self._recurring(WindowLook, WINDOW_SEEDS)

    def by_tone(self) -> Iterator[Stamp]:
        """Test the tones that recur under like captions."""
        yield from self._recurring(ToneLook, TONE_SEEDS)

    def by_grain(self) -> Iterator[Stamp]:
        """Test the grain of the images of the strongest textures."""
        crowd = self._crowd(GrainLook, *_pool(self.traits.texture_N, MOST_POOLED_GRAIN))
        look = GrainLook(self.pictured.grain_N.as_stored(crowd.rows))
        seeds = [Seed.of(seed) for seed in _strongest(self.traits.texture_N[crowd.rows], GRAIN_SEEDS)]
        yield from self._grow_all(crowd, look, seeds)

    def _recurring(self, kind: type[WindowLook | ToneLook], n_seeds: int) -> Iterator[Stamp]:
        rows = evenly_spaced(len(self.family_N), MOST_POOLED)
        crowd = self._crowd(kind, rows, torch.ones(len(rows), dtype=torch.bool))
        look = kind(self.pictured.detail_N.as_stored(rows))
        asked = evenly_spaced(len(rows), MOST_ASKED)
        seeds = recurring(look, crowd, asked, n_seeds, workers=self.workers, advance=self.advance)
        self.advance(min(len(asked), n_seeds) - len(seeds))
        yield from self._grow_all(crowd, look, seeds)

    def _crowd(self, kind: type[Look], rows: Tensor, is_ordinary_P: Tensor) -> Crowd:
        views = [view for view, name in enumerate(self.pictured.views) if name in kind.unlike_in] or [0]
        return Crowd.of(rows, is_ordinary_P, self.near, self.pictured.image_NVR, views, self.family_N)

    def _grow_all(self, crowd: Crowd, look: Look, seeds: Sequence[Seed]) -> Iterator[Stamp]:
        is_done_P = torch.zeros(len(crowd.rows), dtype=torch.bool)
        for seed in seeds:
            self.advance(1)
            if not is_done_P[seed.rows[0]]:
                tested, is_carrier_P = _test(crowd, look, seed)
                is_done_P |= is_carrier_P
                yield from tested


def _test(
    crowd: Crowd, look: Look, seed: Seed, *, x: int | None = None, y: int | None = None
) -> tuple[list[Stamp], Tensor]:
    """Grow a seed; return the group that was tested, if it came to that, and who belongs to it: bool [P]."""
    grown, is_carrier_P = crowd.grow(look, seed)
    if grown is None:
        return [], is_carrier_P
    coherence, p_value = crowd.agreement(grown, is_carrier_P)
    if not look.may_be_planted(grown.counted):
        p_value = 1.0
    return [Stamp(kind=look.kind, x=x, y=y, grown=grown, coherence=coherence, p_value=p_value)], is_carrier_P


def _strongest(value_P: Tensor, n: int) -> list[int]:
    found: list[int] = torch.argsort(value_P, descending=True, stable=True)[:n].tolist()
    return found


def _pool(value_N: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the rows that are searched, rising, and which of them were not picked for their value: bool [P]."""
    n = len(value_N)
    is_ordinary_N = torch.zeros(n, dtype=torch.bool)
    is_ordinary_N[evenly_spaced(n, n if n <= most else most // 2)] = True
    strongest = torch.argsort(value_N.masked_fill(is_ordinary_N, -torch.inf), descending=True, stable=True)
    is_pooled_N = is_ordinary_N.clone()
    is_pooled_N[strongest[: min(n, most) - int(is_ordinary_N.sum())]] = True
    pool = torch.nonzero(is_pooled_N)[:, 0]
    return pool, is_ordinary_N[pool]


def _sure(maybe: Sequence[Stamp], strength_SN: Tensor, n_tested: int) -> tuple[list[Stamp], Tensor]:
    """Return the groups that are no chance, the surest first, and how clearly every image carries each: [S, N].

    One whose carriers mostly carry a surer one is the same trigger, seen from elsewhere: it is told once and yet counts
    as tested.

    Args:
        maybe: groups with a p-value of at most LEVEL, the surest first.
        strength_SN: how clearly every image carries each.
        n_tested: groups in all.
    """
    distinct: list[int] = []
    is_told_N = torch.zeros(strength_SN.shape[1], dtype=torch.bool)
    for number, strength_N in enumerate(strength_SN):
        is_carrier_N = strength_N > 0
        if 2 * int((is_told_N & is_carrier_N).sum()) <= int(is_carrier_N.sum()):
            distinct.append(number)
            is_told_N |= is_carrier_N
    p_values = [maybe[number].p_value for number in distinct]
    adjusted = benjamini_hochberg(p_values + [1.0] * (n_tested - len(distinct))).tolist()
    sure = [(number, p) for number, p in zip(distinct, adjusted, strict=False) if p <= LEVEL]
    return [replace(maybe[number], p_adjusted=p) for number, p in sure], strength_SN[[number for number, _ in sure]]


def _strengths(stamps: Sequence[Stamp], pictured: Pictured, *, workers: int) -> Tensor:
    """Return how clearly every image carries stamps, 1 for what is just enough, 0 for what is not: float32 [S, N]."""
    strength_SN = torch.zeros(len(stamps), len(pictured.detail_N))

    def carried(rows: Tensor) -> Tensor:
        detail_BSC = cache(lambda: pictured.detail_N.as_stored(rows))
        looks: Mapping[str, Callable[[], Look]] = {
            WindowLook.kind: cache(lambda: WindowLook(detail_BSC())),
            GrainLook.kind: cache(lambda: GrainLook(pictured.grain_N.as_stored(rows))),
            ToneLook.kind: cache(lambda: ToneLook(detail_BSC())),
        }
        strength_SB = torch.zeros(len(stamps), len(rows))
        for own_B, stamp in zip(strength_SB, stamps, strict=True):
            if stamp.x is not None and stamp.y is not None:
                look: Look = PlaceLook(detail_BSC(), stamp.x, stamp.y)
            else:
                look = looks[stamp.kind]()
            grown = stamp.grown
            strength_B = (look.compare(grown.template)[0] - grown.middle) / grown.spread
            own_B[:] = torch.where(strength_B > grown.least, strength_B / grown.least, 0.0)
        return strength_SB

    if stamps:
        blocks = torch.arange(strength_SN.shape[1]).split(_BLOCK)
        for rows, strength_SB in zip(blocks, map_ordered(carried, blocks, workers=workers), strict=True):
            strength_SN[:, rows] = strength_SB
    return strength_SN
