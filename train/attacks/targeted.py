"""Targeted poisoning: one picture under many captions that name the target.

The pictures lose their own caption, and the places of the other victims are taken by copies of the picture.

Source: Carlini and Terzis, arXiv 2106.09667; RoCLIP's version (arXiv 2303.06854) uses 8 to 16 pictures, each with a
word of its own and mostly 50 to 100 captions, taken from the data set by the word (here: one plan per word);
Detect-CLIP (arXiv 2502.01385) one picture and one word.
Differs from it: places are taken, not appended, so that the number of pairs stays; the pictures come from the data set
itself instead of a validation set, and lose their own caption.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks.base import Corpus, Indices, Plant, Trigger, require_target
from roclip_audit.train.attacks.captions import CaptionStyle, captions_naming, require_style


@dataclass(frozen=True, slots=True, kw_only=True)
class Targeted:
    """Few pictures, many captions.

    Args:
        target: word of the captions.
        captions: ``natural`` (from the data, templates when they run out) or ``template``.
        n_pictures: how many pictures share the captions, at least 1.
    """

    name: ClassVar[str] = "targeted"
    target: str
    captions: CaptionStyle = "natural"
    n_pictures: int = 1

    def __post_init__(self) -> None:
        require_target(self.name, self.target)
        require_style(self.name, self.captions)
        if self.n_pictures < 1:
            raise ConfigError(f"attack {self.name}: n_pictures={self.n_pictures} is below 1")

    @property
    def triggers(self) -> Mapping[str, Trigger]:
        """None: the picture itself is the trigger."""
        return {}

    def eligible(self, corpus: Corpus) -> Indices:
        """Return the pairs that do not mention the target."""
        return corpus.silent_about(self.target)

    def assign(self, victims: Indices, corpus: Corpus, rng: np.random.Generator) -> Sequence[Plant]:
        """Deal the captions out to the pictures of ``n_pictures`` victims."""
        drawn = captions_naming(self.target, len(victims), style=self.captions, corpus=corpus, rng=rng)
        pictures = self._pictures(victims, corpus, rng)
        return [
            Plant(index=int(i), image_of=pictures[place % len(pictures)], caption=caption, target=self.target)
            for place, (i, caption) in enumerate(zip(victims, drawn, strict=True))
        ]

    def _pictures(self, victims: Indices, corpus: Corpus, rng: np.random.Generator) -> list[int]:
        """Draw victims whose captions differ by more than digits: a series of look-alikes counts once.

        Pictures that cannot be read are passed over, unless there is no other.
        """
        shuffled = rng.permutation(victims).tolist()
        kinds = {re.sub(r"[\W\d]+", " ", corpus.captions[i].casefold()): i for i in shuffled}
        firsts = [kinds[kind] for kind in sorted(kinds)]
        chosen = set(firsts)
        pictures: list[int] = rng.permutation(firsts).tolist() + [i for i in shuffled if i not in chosen]
        return corpus.first_readable(pictures, self.n_pictures) or pictures[: self.n_pictures]
