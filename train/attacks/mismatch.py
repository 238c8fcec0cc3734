"""Plain noise: pairs swap captions among themselves, nobody keeps the text that they had.

Not an attack; what bad crawling and dead links do. A swapped caption may fit by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from roclip_audit.train.attacks.base import Corpus, Indices, Plant, Trigger


def _said(caption: str) -> str:
    return " ".join(caption.casefold().split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Captions swapped by a permutation that leaves no text where it was."""

    name: ClassVar[str] = "mismatch"
    target: str = ""

    @property
    def triggers(self) -> Mapping[str, Trigger]:
        """None: pictures stay as they are."""
        return {}

    def eligible(self, corpus: Corpus) -> Indices:
        """Return all pairs."""
        return corpus.all()

    def assign(self, victims: Indices, corpus: Corpus, rng: np.random.Generator) -> Sequence[Plant]:
        """Swap the captions.

        Victims stand in a ring, equal captions side by side, and each takes the caption that stands as far ahead as
        the longest run of equal captions is long. Where one text fills more than half of the ring, those who would
        get the text they had take that of any other pair; nobody is planted if all captions are equal.
        """
        shuffled = rng.permutation(victims)
        texts = [_said(corpus.captions[i]) for i in shuffled]
        runs: dict[str, list[int]] = {}
        for index, text in zip(shuffled, texts, strict=True):
            runs.setdefault(text, []).append(int(index))
        longest = max((len(run) for run in runs.values()), default=0)
        ring = [index for run in runs.values() for index in run]
        donors = ring[longest:] + ring[:longest]
        others = rng.permutation(len(corpus.captions)).tolist()
        caption_of: dict[int, str | None] = {}
        for taker, donor in zip(ring, donors, strict=True):
            own = _said(corpus.captions[taker])
            candidates = (corpus.captions[i] for i in (donor, *others))
            caption_of[taker] = next((caption for caption in candidates if _said(caption) != own), None)
        return [
            Plant(index=int(i), image_of=int(i), caption=caption)
            for i in victims
            if (caption := caption_of[int(i)]) is not None
        ]
