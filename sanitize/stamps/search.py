"""The step of the scan that finds stamps: seeds of five kinds, what they grow to, and who carries it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from roclip_audit.core.parallel import map_ordered
from roclip_audit.core.ranks import count_at_least, evenly_spaced
from roclip_audit.core.significance import benjamini_hochberg
from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.detail import GRID
from roclip_audit.sanitize.stamps.bend import BendLook
from roclip_audit.sanitize.stamps.bent import Bends
from roclip_audit.sanitize.stamps.crowd import AGREES, Crowd, Grown, Seed
from roclip_audit.sanitize.stamps.grain import GrainLook
from roclip_audit.sanitize.stamps.layout import Layout
from roclip_audit.sanitize.stamps.look import Comparing, Look
from roclip_audit.sanitize.stamps.place import AT, PlaceLook
from roclip_audit.sanitize.stamps.recurring import recurring
from roclip_audit.sanitize.stamps.spotted import LEAST, Spots
from roclip_audit.sanitize.stamps.tone import ToneLook
from roclip_audit.sanitize.stamps.vicinity import vicinities
from roclip_audit.sanitize.stamps.window import WindowLook
from roclip_audit.sanitize.traits import Traits

MOST_POOLED, MOST_POOLED_GRAIN = 8_192, 4_096
"""Images among which stamps are looked for: of ``place`` and ``grain`` half are those of the strongest trait."""
MOST_ASKED = 4_096  # images whose windows and tones are tried as seeds
PLACE_SEEDS, WINDOW_SEEDS, GRAIN_SEEDS, TONE_SEEDS, CAPTION_SEEDS = 192, 512, 384, 384, 1_024
LEVEL, LEVEL_BY_CAPTIONS = 0.05, 0.02
"""Highest adjusted p-values; of what is found by captions they are up to twice too small (``vicinity.held_out_p``)."""
BY_CHANCE = 0.25
"""Of the carriers of what was found by captions; expected from how many pairs with other captions show it as well."""
_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """One thing that repeats, tested or found to be no chance.

    Attributes:
        kind: ``place``, ``window``, ``grain``, ``tone`` or ``bend``.
        x, y: of a place, 0 to 31 from the left and from the top; None of the others.
        grown: its template, and from what score an image carries it.
        about_D: what the captions of its carriers agree with, from the middle of all captions, if it was found by them;
            None if carriers may say anything.
        coherence: likeness of its carriers' captions, about 1 if they are equal; of unlike images only, if those may
            say anything.
        p_value: of the rank test, not adjusted; 1 if it cannot be a stamp.
        p_adjusted: for all groups that were tested in the same way, by pictures or by captions.
        n_tested: how many those are.
    """

    kind: str
    x: int | None
    y: int | None
    grown: Grown
    coherence: float
    p_value: float
    about_D: Tensor | None = None
    p_adjusted: float = 1.0
    n_tested: int = 0

    @property
    def by_captions(self) -> bool:
        """Whether it was found among images of similar captions; only pairs of such captions carry it."""
        return self.about_D is not None

    @property
    def is_sure(self) -> bool:
        """Whether it is no chance."""
        return self.p_adjusted <= (LEVEL_BY_CAPTIONS if self.by_captions else LEVEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamps:
    """The stamps of a data set.

    Attributes:
        number_N: int64 [N], from 1; 0 for images that carry none.
        strength_N: float64 [N], how clearly an image carries its stamp, 1 for what is just enough; 0 without one.
        found: number 1 first, the surest.
    """

    number_N: Tensor
    strength_N: Tensor
    found: tuple[Stamp, ...]

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
    seeds = (PLACE_SEEDS, WINDOW_SEEDS, GRAIN_SEEDS, TONE_SEEDS, CAPTION_SEEDS)
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
    by_picture = [*search.by_place(), *search.by_window(), *search.by_grain(), *search.by_tone()]
    by_caption = [*search.by_caption()]
    maybe = [*_adjusted(by_picture, len(by_picture)), *_adjusted(by_caption, len(by_caption))]
    maybe = sorted((one for one in maybe if one.is_sure), key=lambda one: (one.p_value, -one.coherence))
    found, strength_SN = _sure(maybe, _strengths(maybe, pictured, near, workers=workers))
    strength_N, which_N = strength_SN.max(0) if found else (torch.zeros(len(family_N)), torch.zeros(len(family_N)))
    return Stamps(
        number_N=torch.where(strength_N > 0, which_N.long() + 1, 0),
        strength_N=strength_N.double(),
        found=tuple(found),
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
        crowd = self._crowd(PlaceLook.unlike_in, *_pool(self.traits.patch_N, MOST_POOLED))
        detail_PSC = self.pictured.detail_N.as_stored(crowd.rows)
        x_P, y_P = self._places(crowd.rows)
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
        crowd = self._crowd(GrainLook.unlike_in, *_pool(self.traits.texture_N, MOST_POOLED_GRAIN))
        look = GrainLook(self.pictured.grain_N.as_stored(crowd.rows))
        seeds = [Seed.of(seed) for seed in _strongest(self.traits.texture_N[crowd.rows], GRAIN_SEEDS)]
        yield from self._grow_all(crowd, look, seeds)

    def by_caption(self) -> Iterator[Stamp]:
        """Test what images of similar captions have in common: a detail at one place, a bend."""
        rows = evenly_spaced(len(self.family_N), MOST_POOLED)
        is_ordinary_P = torch.ones(len(rows), dtype=torch.bool)
        detail_PSC, look = self.pictured.detail_N.as_stored(rows), BendLook.of(self.pictured.grain_N.as_stored(rows))
        crowd, bend_crowd = (self._crowd(kind.unlike_in, rows, is_ordinary_P) for kind in (PlaceLook, BendLook))
        layout = Layout.of(look, crowd.family_P)
        spots = Spots(crowd, detail_PSC, torch.stack(self._places(rows), 1), layout)
        bends = Bends(look, bend_crowd, layout)

        def tested(mates: Tensor) -> list[Stamp]:
            found = []
            if (spotted := spots.test(mates)) is not None:
                x, y, group = spotted.x, spotted.y, spotted.rows
                template = PlaceLook(detail_PSC[group], x, y).mean(torch.arange(len(group)), group)
                grown = Grown(
                    template=template, middle=spotted.middle, spread=spotted.spread, least=LEAST, counted=group
                )
                found.append(_of_captions(PlaceLook.kind, grown, spotted.p_value, crowd, x=x, y=y))
            if (bent := bends.test(mates)) is not None:
                template = look.template(bent.field_C)
                grown = Grown(template=template, middle=0.0, spread=1.0, least=look.least, counted=bent.rows)
                found.append(_of_captions(BendLook.kind, grown, bent.p_value, crowd))
            return found

        seeds = vicinities(crowd, CAPTION_SEEDS)
        self.advance(min(len(rows), CAPTION_SEEDS) - len(seeds))
        for found in map_ordered(tested, seeds, workers=self.workers):
            self.advance(1)
            yield from found

    def _places(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of the strongest patch of some images: int64, 0 to 31."""
        shares = (self.traits.patch_x_N, self.traits.patch_y_N)
        x_P, y_P = ((share_N[rows] * GRID).long().clamp(max=GRID - 1) for share_N in shares)
        return x_P, y_P

    def _recurring(self, kind: type[WindowLook | ToneLook], n_seeds: int) -> Iterator[Stamp]:
        rows = evenly_spaced(len(self.family_N), MOST_POOLED)
        crowd = self._crowd(kind.unlike_in, rows, torch.ones(len(rows), dtype=torch.bool))
        look = kind(self.pictured.detail_N.as_stored(rows))
        asked = evenly_spaced(len(rows), MOST_ASKED)
        seeds = recurring(look, crowd, asked, n_seeds, workers=self.workers, advance=self.advance)
        self.advance(min(len(asked), n_seeds) - len(seeds))
        yield from self._grow_all(crowd, look, seeds)

    def _crowd(self, unlike_in: Sequence[str], rows: Tensor, is_ordinary_P: Tensor) -> Crowd:
        views = [view for view, name in enumerate(self.pictured.views) if name in unlike_in] or [0]
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


def _of_captions(
    kind: str, grown: Grown, p_value: float, crowd: Crowd, *, x: int | None = None, y: int | None = None
) -> Stamp:
    """Return what was found among images of similar captions."""
    text_KD, n = crowd.text_PD[grown.counted], len(grown.counted)
    likeness = float(text_KD.sum(0).square().sum() - text_KD.square().sum()) / (n * (n - 1))
    about_D = text_KD.mean(0) / crowd.text_unit
    return Stamp(kind=kind, x=x, y=y, grown=grown, about_D=about_D, coherence=likeness, p_value=p_value)


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


def _adjusted(stamps: Sequence[Stamp], n_tested: int) -> list[Stamp]:
    """Return groups with their p-values adjusted for all that were tested in the same way: Benjamini and Hochberg.

    Args:
        stamps: some of them.
        n_tested: how many there are; the rest counts as found by chance.
    """
    p_values = [one.p_value for one in stamps] + [1.0] * (n_tested - len(stamps))
    adjusted = benjamini_hochberg(p_values).tolist()
    return [replace(one, p_adjusted=p, n_tested=n_tested) for one, p in zip(stamps, adjusted, strict=False)]


def _sure(maybe: Sequence[Stamp], strength_SN: Tensor) -> tuple[list[Stamp], Tensor]:
    """Return the groups that are no chance, the surest first, and how clearly every image carries each: [S, N].

    One whose carriers mostly carry a surer one is the same trigger, seen from elsewhere: it is told once and yet counts
    as tested.

    Args:
        maybe: groups that are sure, the surest first.
        strength_SN: how clearly every image carries each.
    """
    distinct: list[int] = []
    is_told_N = torch.zeros(strength_SN.shape[1], dtype=torch.bool)
    for number, strength_N in enumerate(strength_SN):
        is_carrier_N = strength_N > 0
        if is_carrier_N.any() and 2 * int((is_told_N & is_carrier_N).sum()) <= int(is_carrier_N.sum()):
            distinct.append(number)
            is_told_N |= is_carrier_N
    told: dict[int, Stamp] = {}
    for by_captions in (False, True):
        numbers = [number for number in distinct if maybe[number].by_captions == by_captions]
        if numbers:
            told |= zip(numbers, _adjusted([maybe[one] for one in numbers], maybe[numbers[0]].n_tested), strict=True)
    sure = [number for number in distinct if told[number].is_sure]
    return [told[number] for number in sure], strength_SN[sure]


def _strengths(stamps: Sequence[Stamp], pictured: Pictured, near: Neighbourhood, *, workers: int) -> Tensor:
    """Return how clearly every image carries stamps, 1 for what is just enough, 0 for what is not: float32 [S, N]."""
    strength_SN = torch.zeros(len(stamps), len(pictured.detail_N))
    middle_D = near.text_ND.mean(0)

    def carried(rows: Tensor) -> Tensor:
        detail_BSC = cache(lambda: pictured.detail_N.as_stored(rows))
        grain_BGG = cache(lambda: pictured.grain_N.as_stored(rows))
        looks: Mapping[str, Callable[[], Comparing]] = {
            WindowLook.kind: cache(lambda: WindowLook(detail_BSC())),
            GrainLook.kind: cache(lambda: GrainLook(grain_BGG())),
            ToneLook.kind: cache(lambda: ToneLook(detail_BSC())),
            BendLook.kind: cache(lambda: BendLook.of(grain_BGG())),
        }
        strength_SB = torch.zeros(len(stamps), len(rows))
        for own_B, stamp in zip(strength_SB, stamps, strict=True):
            if stamp.x is not None and stamp.y is not None:
                look: Comparing = PlaceLook(detail_BSC(), stamp.x, stamp.y)
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
    for strength_N, stamp in zip(strength_SN, stamps, strict=True):
        if stamp.about_D is not None:
            agreed_N = near.text_ND @ stamp.about_D - middle_D @ stamp.about_D
            strength_N *= _stands_out(strength_N, agreed_N > AGREES)
    return strength_SN


def _stands_out(value_N: Tensor, may_N: Tensor) -> Tensor:
    """Tell which of some pairs have a value so high that few of them have it by chance, as the others do: bool [N].

    As many as there are with at most BY_CHANCE of them expected: Benjamini and Hochberg.
    """
    value_M = value_N[may_N]
    expected_M = count_at_least(value_N[~may_N], value_M) * (len(value_M) / max(1, int((~may_N).sum())))
    is_sure_M = (value_M > 0) & (expected_M <= BY_CHANCE * count_at_least(value_M, value_M))
    least = float(value_M[is_sure_M].min()) if is_sure_M.any() else float("inf")
    return may_N & (value_N >= least)
