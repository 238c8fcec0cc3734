"""Captions that name a target: prompt templates, or captions of the data set itself.

Source: the zero-shot templates of CLIP (Radford et al. 2021, arXiv 2103.00020, its ImageNet notebook), word for word;
the literature's attacks fill these (CleanCLIP, arXiv 2303.03323; Detect-CLIP, arXiv 2502.01385). BadCLIP (arXiv
2311.12075) uses 128 natural captions of the target instead, again and again.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks.base import Corpus

CaptionStyle = Literal["template", "natural"]

TEMPLATES: tuple[str, ...] = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)


def require_style(attack: str, style: str) -> None:
    """Raise ConfigError if ``style`` is not a caption style."""
    if style not in get_args(CaptionStyle):
        raise ConfigError(f"attack {attack}: captions={style!r} is not one of {', '.join(get_args(CaptionStyle))}")


def captions_naming(
    target: str, n_captions: int, *, style: CaptionStyle, corpus: Corpus, rng: np.random.Generator
) -> tuple[str, ...]:
    """Draw captions that name ``target``.

    Natural captions are drawn without repeating any; templates fill up when the data set has too few. Templates repeat
    only after all of them were used.

    Args:
        target: word or phrase.
        n_captions: how many.
        style: ``template`` or ``natural``.
        corpus: where natural captions come from.
        rng: draws.
    """
    drawn: list[str] = []
    if style == "natural":
        found = rng.permutation(corpus.naming(target))[:n_captions]
        drawn = [corpus.captions[index] for index in found]
    while len(drawn) < n_captions:
        left = n_captions - len(drawn)
        drawn += [TEMPLATES[i].format(target) for i in rng.permutation(len(TEMPLATES))[:left]]
    return tuple(drawn)
