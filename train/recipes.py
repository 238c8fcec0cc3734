"""Recipes: functions that return a whole set of hyper-parameters.

``paper`` is that of RoCLIP's experiments; ``auto``, the default, scales it to the data and the device at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.config import Recipe

PAIRS_SEEN: Final = 3_200_000
"""Of ``small``, over all epochs: what 50,000 pairs take until RoCLIP is where CLIP is (docs/experiments.md)."""
LEAST_EPOCHS, MOST_EPOCHS = 16, 64
LARGE_DATA: Final = 200_000


def paper(n_pairs: int, *, has_gpu: bool) -> Recipe:
    """Return RoCLIP's own: RN50 on 1 M pairs of CC3M, 24 epochs of batches of 512 (arXiv 2303.06854, released code).

    Differs from it: the ramp is a share of the run (10,000 of 46,872 steps there), so that it fits any data.
    """
    return Recipe(model="RN50", epochs=24, batch_size=512, lr=5e-5, warmup=0.21)


def small(n_pairs: int, *, has_gpu: bool) -> Recipe:
    """Return one for some thousand to 200,000 pairs: a small ResNet, many short epochs, a learning rate to match.

    On a CPU the inputs have 32 pixels, else 64. An epoch is so short that the first match waits for a quarter of the
    run, and every fourth epoch is matched; the pool is larger, for two per cent of some thousand captions hold few of a
    kind; the strong view is milder, for models of this size learn little from a twelfth of such a picture
    (docs/experiments.md).
    """
    return Recipe(
        model="resnet-64" if has_gpu else "resnet-32",
        epochs=max(LEAST_EPOCHS, min(MOST_EPOCHS, round(PAIRS_SEEN / max(1, n_pairs)))),
        batch_size=256 if n_pairs >= 16_384 else 128 if n_pairs >= 8_192 else max(2, min(64, n_pairs // 16)),
        lr=1e-3,
        match_every=4,
        match_after=0.25,
        pool_share=max(0.02, min(0.25, 2_000 / max(1, n_pairs))),
        crop=(0.5, 1.0),
        colour=0.2,
    )


def auto(n_pairs: int, *, has_gpu: bool) -> Recipe:
    """Return ``paper`` for 200,000 pairs or more on a GPU, else ``small``."""
    return (paper if has_gpu and n_pairs >= LARGE_DATA else small)(n_pairs, has_gpu=has_gpu)


RECIPES: Final[Mapping[str, Callable[..., Recipe]]] = {"auto": auto, "paper": paper, "small": small}


def find_recipe(name: str, n_pairs: int, *, has_gpu: bool) -> Recipe:
    """Return the recipe of a name for so many pairs.

    Raises:
        ConfigError: no recipe has this name.
    """
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}; one of {', '.join(RECIPES)}")
    return RECIPES[name](n_pairs, has_gpu=has_gpu)
