"""Traits: does an image share fine structure with images of similar captions that do not look like it otherwise?

A dirty-label backdoor gives pictures of anything one target and one trigger; a label-consistent one stamps pictures of
the target itself, where no test of the pairing can see it. Either way the images of an attack share pixels and their
captions lie together. So every image's grain is compared with that of its *mates*: the images of the same and of the
nearest captions. Mates that look alike in all purified views share pixels for an honest reason (one drawing, one
family), so they do not count, nor do near-duplicates. Two kinds of sharing are measured:

    texture   cosine of the two grains, strong edges taken out: blended noise, stripes
    patch     mean of the two best normalised correlations of 16 px windows at the same place, less the mean over all
              windows that hold something: equal here and different elsewhere

Each is compared with what mates of *re-paired* captions give at the same likeness: (value - median) / (84 % quantile -
median) of the controls in that bin of likeness. The mean over the strongest mates is ranked among the controls' means:
that is the p-value, small where the image shares more with its caption's images than chance explains.

Blind spots: a trigger that moves or bends (patches at random places, warps) shares no pixels; those change what the
picture shows against its caption, and the contest sees that. Honest families that differ in all but a common frame
look like an attack here, and only the pairing tells them apart.

Source: own construction. Cost: two products of (pairs x mates of their cluster) with 128 x 128 values each, linear in
the number of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.parallel import map_ordered
from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.dataset import RowArray

WINDOW_PX, STRIDE_PX = 16, 8
EDGE_LEVELS, TEXTURE_FLOOR = 15.0, 1.0  # grey levels: where an edge begins to be left out; what counts as flat
SQUASH_LEVELS, WINDOW_FLOOR = 12.0, 0.15  # tanh of the grain; root mean square below which a window is empty
HELD = 0.7  # normalised length from which a window holds something
LIKENESS_BINS = 20
_BLOCK, _ROWS = 64, 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class TraitConfig:
    """How shared grain is measured.

    Attributes:
        n_mates: images that each image is compared with.
        n_strongest: of them, those that the mean is taken over.
        n_controls: re-paired images that give the chance level, at most.
        most_alike: share of the controls' likeness beyond which a mate does not count.
        learned_p: p-value up to which a pair is kept out of the heads' training.
    """

    n_mates: int = 48
    n_strongest: int = 12
    n_controls: int = 4_000
    most_alike: float = 0.97
    learned_p: float = 1e-3

    def __post_init__(self) -> None:
        if min(self.n_mates, self.n_strongest, self.n_controls) < 1 or not 0 < self.most_alike <= 1:
            raise ConfigError("traits: counts must be at least 1 and most_alike in (0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What an image shares with its mates; higher = more suspicious, but for the p-values.

    Attributes:
        texture_N, patch_N: float64 [N], the means over the strongest mates, in units of the controls' spread.
        p_N: float64 [N] in (0, 1]: smallest of the two p-values, doubled (Bonferroni).
    """

    texture_N: Tensor
    patch_N: Tensor
    p_N: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """What rows share with their mates: float32 [rows, K] each; NaN where a mate does not count."""

    texture: Tensor
    patch: Tensor
    likeness: Tensor


def find_traits(
    grain_N: RowArray,
    image_NVR: RowArray,
    near: Neighbourhood,
    cluster_N: Tensor,
    control_N: Tensor,
    config: TraitConfig,
    *,
    workers: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> Traits:
    """Compare every image's grain with its mates' and with those of re-paired captions.

    Args:
        grain_N: int8 rows [128, 128] from ``grain.grain``.
        image_NVR: features of every view.
        near: captions, groups and neighbours.
        cluster_N: int64 [N], caption clusters: rows of one are compared together.
        control_N: int64 [N], a row whose caption is re-paired with the image.
        config: see TraitConfig.
        workers: threads; the result is the same for every value.
        advance: called with the number of pairs finished.
    """
    n = len(near.caption_N)
    mates_NK = find_mates(near, config.n_mates)
    sample = torch.linspace(0, n - 1, min(n, config.n_controls)).round().long().unique()
    observed = _compare_all(
        torch.arange(n), mates_NK, cluster_N, grain_N, image_NVR, near.group_N, workers=workers, advance=advance
    )
    chance = _compare_all(
        sample,
        mates_NK[control_N[sample]],
        cluster_N[control_N[sample]],
        grain_N,
        image_NVR,
        near.group_N,
        workers=workers,
    )
    scale = _Scale.of(chance, config)
    strength, p_value = [], []
    for kind in ("texture", "patch"):
        seen_N, by_chance = (scale.strength(shared, kind) for shared in (observed, chance))
        strength.append(seen_N)
        p_value.append(_share_at_least(by_chance, seen_N))
    return Traits(texture_N=strength[0], patch_N=strength[1], p_N=(2 * torch.stack(p_value).amin(0)).clamp_max(1.0))


def find_mates(near: Neighbourhood, n_mates: int) -> Tensor:
    """Return rows of the same caption and then of the nearest captions, at most 8 of each: int64 [N, K], -1 filled.

    A caption that many pairs share fills at most half of the places with evenly spaced ones of them.
    """
    number_N = near.caption_N
    order = torch.argsort(number_N, stable=True)
    count_C = torch.bincount(number_N, minlength=len(near.caption_index_CK))
    start_C = count_C.cumsum(0) - count_C

    def of(rows: Tensor) -> Tensor:
        around = near.caption_index_CK[number_N[rows]]
        slots = [_spread(number_N[rows], n_mates // 2, order, start_C, count_C)]
        slots += [_spread(caption, 8, order, start_C, count_C) for caption in around.T]
        candidates = torch.cat(slots, 1)
        candidates[candidates == rows[:, None]] = -1
        # Stable: known rows move to the front in order of nearness.
        first = torch.argsort((candidates < 0).byte(), dim=1, stable=True)[:, :n_mates]
        return candidates.gather(1, first)

    return torch.cat([of(rows) for rows in torch.arange(len(number_N)).split(_ROWS)])


def _spread(caption_N: Tensor, most: int, order: Tensor, start_C: Tensor, count_C: Tensor) -> Tensor:
    """Return up to ``most`` evenly spaced rows of each caption: int64 [N, most], -1 filled."""
    known_N = caption_N >= 0
    count_N = count_C[caption_N.clamp_min(0)] * known_N
    step = torch.arange(most)
    place = torch.where(count_N[:, None] > most, step * count_N[:, None] // most, step)
    rows = order[(start_C[caption_N.clamp_min(0)][:, None] + place).clamp_max(len(order) - 1)]
    return torch.where(place < count_N[:, None], rows, -1)


def _compare_all(
    rows: Tensor,
    mates_BK: Tensor,
    cluster_B: Tensor,
    grain_N: RowArray,
    image_NVR: RowArray,
    group_N: Tensor,
    *,
    workers: int,
    advance: Callable[[int], None] = lambda _: None,
) -> _Shared:
    """Compare rows with their mates, cluster by cluster, because the mates of a cluster are few."""
    shape = mates_BK.shape
    out = _Shared(texture=torch.empty(shape), patch=torch.empty(shape), likeness=torch.empty(shape))
    blocks = list(_blocks(cluster_B))
    found = map_ordered(
        lambda block: _compare(rows[block], mates_BK[block], grain_N, image_NVR), blocks, workers=workers
    )
    for block, shared in zip(blocks, found, strict=True):
        out.texture[block], out.patch[block], out.likeness[block] = shared.texture, shared.patch, shared.likeness
        advance(len(block))
    same = group_N[mates_BK.clamp_min(0)] == group_N[rows][:, None]
    out.likeness.masked_fill_((mates_BK < 0) | same, torch.nan)
    return out


def _blocks(cluster_B: Tensor) -> Iterator[Tensor]:
    order = torch.argsort(cluster_B, stable=True)
    for members in order.split(torch.bincount(cluster_B).tolist()):
        if len(members):
            yield from members.split(_BLOCK)


def _compare(rows: Tensor, mates_BK: Tensor, grain_N: RowArray, image_NVR: RowArray) -> _Shared:
    everyone, place = torch.unique(torch.cat([rows, mates_BK.clamp_min(0).flatten()]), return_inverse=True)
    own, mate_BK = place[: len(rows)], place[len(rows) :].reshape(mates_BK.shape)
    grain_U = grain_N[everyone]
    image_UVR = functional.normalize(image_NVR[everyone], dim=2)
    likeness_BU = torch.einsum("bvr,uvr->vbu", image_UVR[own], image_UVR).amin(0)
    texture_UX = _texture(grain_U)
    return _Shared(
        texture=(texture_UX[own] @ texture_UX.T).gather(1, mate_BK),
        patch=_patch_likeness(grain_U, own).gather(1, mate_BK),
        likeness=likeness_BU.gather(1, mate_BK),
    )


def _texture(grain_U: Tensor) -> Tensor:
    """Take strong edges out and bring to unit length; a nearly flat image stays short: float32 [U, 128 * 128]."""
    soft_UX = (grain_U * torch.exp(-((grain_U / EDGE_LEVELS) ** 2))).flatten(1)
    floor = TEXTURE_FLOOR**2 * soft_UX.shape[1]
    return soft_UX / (soft_UX.square().sum(1, keepdim=True) + floor).sqrt()


def _patch_likeness(grain_U: Tensor, own: Tensor) -> Tensor:
    """Compare window by window: mean of the two best, less the mean where either holds something: [B, U]."""
    squashed_U = torch.tanh(grain_U / SQUASH_LEVELS)
    shape = (len(own), len(grain_U))
    best_BU, second_BU = torch.full(shape, -1.0), torch.full(shape, -1.0)
    total_BU, held_BU = torch.zeros(shape), torch.zeros(shape)
    for top in range(0, squashed_U.shape[1] - WINDOW_PX + 1, STRIDE_PX):
        band_UWP = squashed_U[:, top : top + WINDOW_PX].unfold(2, WINDOW_PX, STRIDE_PX).transpose(1, 2).flatten(2)
        length_UW1 = (band_UWP.square().sum(2, keepdim=True) + (WINDOW_FLOOR * WINDOW_PX) ** 2).sqrt()
        window_WUP = (band_UWP / length_UW1).transpose(0, 1).contiguous()
        holds_WU = (window_WUP.square().sum(2) > HELD**2).float()
        match_WBU = torch.bmm(window_WUP[:, own], window_WUP.transpose(1, 2))
        for match_BU in match_WBU:
            torch.maximum(second_BU, torch.minimum(best_BU, match_BU), out=second_BU)
            torch.maximum(best_BU, match_BU, out=best_BU)
        total_BU += match_WBU.sum(0)
        holds_WB = holds_WU[:, own]
        held_BU += holds_WB.sum(0)[:, None] + holds_WU.sum(0)[None] - holds_WB.T @ holds_WU
    return (best_BU + second_BU) / 2 - total_BU / held_BU.clamp_min(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """What chance gives, by likeness: the controls' median and spread in every bin."""

    edges: Tensor
    most: float
    median: dict[str, Tensor]
    spread: dict[str, Tensor]
    n_strongest: int

    @classmethod
    def of(cls, chance: _Shared, config: TraitConfig) -> _Scale:
        known = ~chance.likeness.isnan()
        likeness = chance.likeness[known]
        # Without anything to compare with by chance, no mate counts.
        shares = [*np.linspace(0, 1, LIKENESS_BINS + 1)[1:-1], config.most_alike]
        cuts = np.quantile(likeness.numpy(), shares) if len(likeness) else np.full(len(shares), -np.inf)
        edges = torch.from_numpy(cuts[:-1]).float()
        bins = torch.bucketize(likeness, edges)
        median, spread = {}, {}
        for kind in ("texture", "patch"):
            value = getattr(chance, kind)[known]
            middle, width = torch.zeros(LIKENESS_BINS), torch.ones(LIKENESS_BINS)
            for one in range(LIKENESS_BINS):
                here = value[bins == one]
                if len(here):
                    quantiles = np.quantile(here.numpy(), [0.5, 0.84])
                    middle[one], width[one] = float(quantiles[0]), max(float(quantiles[1] - quantiles[0]), 1e-6)
            median[kind], spread[kind] = middle, width
        return cls(edges=edges, most=float(cuts[-1]), median=median, spread=spread, n_strongest=config.n_strongest)

    def strength(self, shared: _Shared, kind: str) -> Tensor:
        """Return the mean over the strongest mates, in the controls' spreads; a missing one is 0: float64 [rows]."""
        bins = torch.bucketize(shared.likeness.nan_to_num(0.0), self.edges)
        value = (getattr(shared, kind) - self.median[kind][bins]) / self.spread[kind][bins]
        counts = shared.likeness <= self.most
        value = torch.where(counts, value, 0.0)
        n_strongest = min(self.n_strongest, value.shape[1])
        return value.topk(n_strongest, dim=1).values.double().sum(1) / self.n_strongest


def _share_at_least(chance: Tensor, value_N: Tensor) -> Tensor:
    """Return (1 + number of controls at or above each value) / (1 + number of controls)."""
    above_N = len(chance) - torch.searchsorted(chance.sort().values, value_N.contiguous(), side="left")
    return (1 + above_N).double() / (1 + len(chance))
