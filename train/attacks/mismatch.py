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
        longest = max(runs.values(), key=len, default=[])
        ring = [index for run in runs.values() for index in run]
        donors = ring[len(longest) :] + ring[: len(longest)]
        donor_of: dict[int, int] = dict(zip(ring, donors, strict=True))
        common = _said(corpus.captions[longest[0]]) if longest else ""
        others = np.array([i for i, caption in enumerate(corpus.captions) if _said(caption) != common])
        for taker, donor in donor_of.items():
            if _said(corpus.captions[donor]) == _said(corpus.captions[taker]):  # then both say the common one
                if not len(others):
                    return []
                donor_of[taker] = int(rng.choice(others))
        return [Plant(index=int(i), image_of=int(i), caption=corpus.captions[donor_of[int(i)]]) for i in victims]
