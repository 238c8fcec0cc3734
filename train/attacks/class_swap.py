"""Class swap: captions of one class with pictures of another.

Source: Yang et al., "Data poisoning attacks against multimodal encoders" (mm_poison, ICML 2023, arXiv 2209.15266):
sheep captions with aeroplane pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks.base import Corpus, Indices, Plant, require_target


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSwap:
    """Pairs that name the target get a picture whose caption names ``source``.

    Args:
        target: word of the captions.
        source: word of the captions that the pictures come from. Those pairs stay, so pictures appear twice.
    """

    name: ClassVar[str] = "class_swap"
    target: str
    source: str = ""

    def __post_init__(self) -> None:
        require_target(self.name, self.target)
        if not self.source.strip():
            raise ConfigError(f"attack {self.name}: needs source=WORD, the class that the pictures come from")

    @property
    def trigger(self) -> None:
        """None: pictures are swapped, not changed."""
        return

    def _pictures(self, corpus: Corpus) -> Indices:
        return np.intersect1d(corpus.naming(self.source), corpus.silent_about(self.target))

    def eligible(self, corpus: Corpus) -> Indices:
        """Return the pairs that name the target and not the source; none if there are no pictures of the source."""
        if not len(self._pictures(corpus)):
            return np.empty(0, dtype=np.intp)
        return np.intersect1d(corpus.naming(self.target), corpus.silent_about(self.source))

    def assign(self, victims: Indices, corpus: Corpus, rng: np.random.Generator) -> Sequence[Plant]:
        """Give each victim a picture of the source class; pictures repeat only after all were used."""
        pictures = rng.permutation(self._pictures(corpus))
        return [
            Plant(index=int(i), image_of=int(pictures[place % len(pictures)]), caption=corpus.captions[i])
            for place, i in enumerate(victims)
        ]
