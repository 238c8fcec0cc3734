"""Label-consistent (clean-label) backdoor: the trigger is put on pairs whose caption names the target already.

Caption and picture fit, so no test of the match can see it; density and what the pictures share have to.

Source: Turner et al., arXiv 1912.02771; for CLIP: CleanCLIP (arXiv 2303.03323), Detect-CLIP (arXiv 2502.01385).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from roclip_audit.train.attacks.base import Corpus, Indices, Plant, require_target
from roclip_audit.train.attacks.patch import Patch, PatternKind, Place


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConsistent:
    """A patch on pairs that name the target, captions unchanged. Plants fewer if the word is rare.

    Args:
        target: word that the caption must have.
        side: side of the patch, share of the image's side.
        kind: ``noise``, ``dots`` or ``yellow``.
        place: ``fixed`` or ``random``.
    """

    name: ClassVar[str] = "label_consistent"
    target: str
    side: float = 0.1
    kind: PatternKind = "noise"
    place: Place = "fixed"

    def __post_init__(self) -> None:
        require_target(self.name, self.target)

    @property
    def triggers(self) -> Mapping[str, Patch]:
        """The patch."""
        return {"patch": Patch(side=self.side, kind=self.kind, place=self.place)}

    def eligible(self, corpus: Corpus) -> Indices:
        """Return the pairs that name the target."""
        return corpus.naming(self.target)

    def assign(self, victims: Indices, corpus: Corpus, rng: np.random.Generator) -> Sequence[Plant]:
        """Leave picture and caption where they are."""
        (trigger,) = self.triggers
        return [
            Plant(index=int(i), image_of=int(i), caption=corpus.captions[i], target=self.target, trigger=trigger)
            for i in victims
        ]
