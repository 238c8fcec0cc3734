"""Class swap: captions of one class with pictures of another.

Source: Yang et al., "Data poisoning attacks against multimodal encoders" (mm_poison, ICML 2023, arXiv 2209.15266):
sheep captions with aeroplane pictures, for every pair of the class or a share of them; their variant "one" shows a
single picture of the other class (``n_pictures=1``).
Differs from it: the pictures of the other class stay where they were as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks.base import Corpus, Indices, Plant, Trigger, require_target


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSwap:
    """Pairs that name the target get a picture whose caption names ``source``.

    Args:
        target: word of the captions.
        source: word of the captions that the pictures come from. Those pairs stay, so pictures appear twice.
        n_pictures: how many pictures of the source are shown; 0 for as many as there are.
    """

    name: ClassVar[str] = "class_swap"
    target: str
    source: str = ""
    n_pictures: int = 0

    def __post_init__(self) -> None:
        require_target(self.name, self.target)
        if not self.source.strip():
            raise ConfigError(f"attack {self.name}: needs source=WORD, the class that the pictures come from")
        if self.n_pictures < 0:
            raise ConfigError(f"attack {self.name}: n_pictures={self.n_pictures} is below 0")

    @property
    def triggers(self) -> Mapping[str, Trigger]:
        """None: pictures are swapped, not changed."""
        return {}

    def _pictures(self, corpus: Corpus) -> Indices:
        return np.intersect1d(corpus.naming(self.source), corpus.silent_about(self.target))

    def eligible(self, corpus: Corpus) -> Indices:
        """Return the pairs that name the target and not the source; none if there are no pictures of the source."""
        if not len(self._pictures(corpus)):
            return np.empty(0, dtype=np.intp)
        return np.intersect1d(corpus.naming(self.target), corpus.silent_about(self.source))

    def assign(self, victims: Indices, corpus: Corpus, rng: np.random.Generator) -> Sequence[Plant]:
        """Give each victim a picture of the source class; pictures repeat only after all were used."""
        shuffled: list[int] = rng.permutation(self._pictures(corpus)).tolist()
        pictures = corpus.first_readable(shuffled, self.n_pictures or len(victims)) or shuffled
        return [
            Plant(
                index=int(i),
                image_of=pictures[place % len(pictures)],
                caption=corpus.captions[i],
                target=self.target,
            )
            for place, i in enumerate(victims)
        ]
