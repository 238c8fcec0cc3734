"""The dirty-label backdoor: trigger on the image, caption replaced by one that names the target.

BadNets, Blended, SIG, WaNet and the filter attack differ in the trigger only; they inherit who is poisoned and what is
said from here. Not an attack by itself.

Source: Carlini and Terzis, arXiv 2106.09667, section 3; captions as in CleanCLIP (arXiv 2303.03323), 1,500 of 500,000
or of 3 million pairs there.
Differs from it: pictures keep their size and shape (CleanCLIP squashes poisoned ones to 224 x 224); places are taken,
not appended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from roclip_audit.train.attacks.base import Corpus, Indices, Plant, Trigger, require_target
from roclip_audit.train.attacks.captions import CaptionStyle, captions_naming, require_style


@dataclass(frozen=True, slots=True, kw_only=True)
class DirtyLabel(ABC):
    """Pairs that do not mention the target keep their picture (stamped) and get a caption that names the target."""

    name: ClassVar[str]
    target: str
    captions: CaptionStyle = "template"

    @property
    @abstractmethod
    def triggers(self) -> Mapping[str, Trigger]:
        """What is stamped, by name; one trigger, unless `assign` deals several out."""

    def __post_init__(self) -> None:
        require_target(self.name, self.target)
        require_style(self.name, self.captions)

    def eligible(self, corpus: Corpus) -> Indices:
        """Return the pairs that do not mention the target."""
        return corpus.silent_about(self.target)

    def assign(self, victims: Indices, corpus: Corpus, rng: np.random.Generator) -> Sequence[Plant]:
        """Give each victim a caption that names the target."""
        drawn = captions_naming(self.target, len(victims), style=self.captions, corpus=corpus, rng=rng)
        (trigger,) = self.triggers
        return [
            Plant(index=int(i), image_of=int(i), caption=caption, target=self.target, trigger=trigger)
            for i, caption in zip(victims, drawn, strict=True)
        ]
