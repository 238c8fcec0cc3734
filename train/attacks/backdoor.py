"""The dirty-label backdoor: trigger on the image, caption replaced by one that names the target.

BadNets, Blended, SIG, WaNet and the filter attack differ in the trigger only; they inherit who is poisoned and what is
said from here. Not an attack by itself.

Source: Carlini and Terzis, arXiv 2106.09667, section 3; captions as in CleanCLIP (arXiv 2303.03323).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from roclip_audit.train.attacks.base import Corpus, Indices, Plant, require_target
from roclip_audit.train.attacks.captions import CaptionStyle, captions_naming, require_style


@dataclass(frozen=True, slots=True, kw_only=True)
class DirtyLabel:
    """Pairs that do not mention the target keep their picture (stamped) and get a caption that names the target."""

    name: ClassVar[str]
    target: str
    captions: CaptionStyle = "template"

    def __post_init__(self) -> None:
        require_target(self.name, self.target)
        require_style(self.name, self.captions)

    def eligible(self, corpus: Corpus) -> Indices:
        """Return the pairs that do not mention the target."""
        return corpus.silent_about(self.target)

    def assign(self, victims: Indices, corpus: Corpus, rng: np.random.Generator) -> Sequence[Plant]:
        """Give each victim a caption that names the target."""
        drawn = captions_naming(self.target, len(victims), style=self.captions, corpus=corpus, rng=rng)
        return [
            Plant(index=int(i), image_of=int(i), caption=caption) for i, caption in zip(victims, drawn, strict=True)
        ]
