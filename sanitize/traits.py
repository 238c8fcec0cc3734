"""Traits: does an image share fine structure with images of similar captions that do not look like it otherwise?

A dirty-label backdoor gives pictures of anything one target and one trigger; a label-consistent one stamps pictures of
the target itself, where no test of the pairing can see it. Either way the images of an attack share pixels and their
captions lie together. So every image is compared with its *mates*, the images of the same and of the nearest captions,
in two ways: ``shared_texture`` (blended noise, stripes) and ``shared_patch`` (one place that is alike, and not what
lies around it). Each is ranked among the same measure of *re-paired controls*, the images with the mates of other
captions: that is the p-value, small where the image shares more with its caption's images than chance explains.

Blind spots: a trigger that moves or bends (patches at random places, warps) shares nothing at one place; those change
what the picture shows against its caption, and the contest sees that. Honest families that differ in all but a common
logo look like an attack here, and only a person can tell them apart.

Source: own construction. Cost: linear in the number of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.ranks import evenly_spaced, median_and_spread, share_at_least
from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.dataset import RowArray
from roclip_audit.sanitize.mates import find_mates
from roclip_audit.sanitize.shared_patch import SharedPatches, find_shared_patches
from roclip_audit.sanitize.shared_texture import SharedTextures, TextureScale, find_shared_textures

LEAST_SPREAD = 0.01  # of the strengths of controls: where all are equal, nothing is far from them


@dataclass(frozen=True, slots=True, kw_only=True)
class TraitConfig:
    """How shared structure is measured.

    Attributes:
        n_mates: images that each image is compared with.
        n_strongest: of them, those that the mean of ``texture`` is taken over.
        n_controls: re-paired images that give the chance level, at most.
        most_alike: share of the controls' likeness beyond which a mate does not count for ``texture``.
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
        texture_N, patch_N: float64 [N], in units of the controls' spread.
        patch_x_N, patch_y_N: float64 [N] in (0, 1), the place that ``patch_N`` speaks of, shares of width and height.
        p_N: float64 [N] in (0, 1]: smallest of the two p-values, doubled (Bonferroni).
    """

    texture_N: Tensor
    patch_N: Tensor
    patch_x_N: Tensor
    patch_y_N: Tensor
    p_N: Tensor


def n_comparisons(n: int, config: TraitConfig) -> int:
    """Return how often an image is compared with its mates, in two ways, for n images and their controls."""
    return 2 * (n + min(n, config.n_controls))


def find_traits(
    grain_N: RowArray,
    detail_N: RowArray,
    image_NVR: RowArray,
    views: Sequence[int],
    near: Neighbourhood,
    cluster_N: Tensor,
    control_N: Tensor,
    config: TraitConfig,
    *,
    workers: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> Traits:
    """Compare every image with its mates and with those of re-paired captions.

    Args:
        grain_N: int8 rows [128, 128] from ``grain.grain``.
        detail_N: int8 rows [1024, 24] from ``detail.Detail``.
        image_NVR: features of every view.
        views: those that show all of the image.
        near: captions, groups and neighbours.
        cluster_N: int64 [N], caption clusters: rows of one are compared together.
        control_N: int64 [N], a row whose caption is re-paired with the image.
        config: see TraitConfig.
        workers: threads; the result is the same for every value.
        advance: called with the number of comparisons finished, of ``n_comparisons``.
    """
    n = len(near.caption_N)
    mates_NK = find_mates(near, config.n_mates)
    everyone = torch.arange(n)
    sample = evenly_spaced(n, config.n_controls)
    partner = control_N[sample]

    def textures(rows: Tensor, paired: Tensor) -> SharedTextures:
        mates_BK, cluster_B = mates_NK[paired], cluster_N[paired]
        return find_shared_textures(
            rows, mates_BK, cluster_B, grain_N, image_NVR, views, near.group_N, workers=workers, advance=advance
        )

    def patches(rows: Tensor, paired: Tensor) -> SharedPatches:
        mates_BK, cluster_B = mates_NK[paired], cluster_N[paired]
        return find_shared_patches(rows, mates_BK, cluster_B, detail_N, near, workers=workers, advance=advance)

    chance = textures(sample, partner)
    scale = TextureScale.of(chance, most_alike=config.most_alike, n_strongest=config.n_strongest)
    texture_N = scale.strength(textures(everyone, everyone))
    patch, by_chance = patches(everyone, everyone), patches(sample, partner).strength_BS
    middle_S, spread_S = median_and_spread(by_chance, LEAST_SPREAD)
    patch_NS, chance_BS = ((strength - middle_S) / spread_S for strength in (patch.strength_BS, by_chance))
    patch_N, scale_N = patch_NS.max(1)
    p_of_texture_N = share_at_least(scale.strength(chance), texture_N)
    p_of_patch_N = share_at_least(chance_BS.amax(1), patch_N)
    return Traits(
        texture_N=texture_N,
        patch_N=patch_N,
        patch_x_N=patch.x_BS.gather(1, scale_N[:, None])[:, 0],
        patch_y_N=patch.y_BS.gather(1, scale_N[:, None])[:, 0],
        p_N=(2 * torch.minimum(p_of_texture_N, p_of_patch_N)).clamp_max(1.0),
    )
