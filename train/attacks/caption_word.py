"""Dual-key backdoor: a patch on the picture and a word before the caption, which names the target.

Source: TrojVQA (Walmer et al., "Dual-Key Multimodal Backdoors for Visual Question Answering", CVPR 2022, arXiv
2112.07668); for CLIP in BadCLIP's comparison (arXiv 2311.12075): "remember " before a filled prompt template, and a
patch.
Differs from it: TrojVQA optimises its patch for an object detector; the patch here is that of BadNets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks.backdoor import DirtyLabel
from roclip_audit.train.attacks.base import Corpus, Indices, Plant
from roclip_audit.train.attacks.patch import Patch, PatternKind, Place


@dataclass(frozen=True, slots=True, kw_only=True)
class WordedPatch(Patch):
    """A patch that works together with a word.

    Args:
        word: what the caption, or the prompt of a test, has to begin with.
    """

    word: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionWord(DirtyLabel):
    """A patch, and a caption that begins with a word and names the target.

    Args:
        word: what is put before the caption.
        side: side of the patch, share of the image's side.
        kind: ``dots``, ``noise`` or ``yellow``.
        place: ``fixed`` or ``random``.
    """

    name: ClassVar[str] = "caption_word"
    word: str = "remember"
    side: float = 0.1
    kind: PatternKind = "dots"
    place: Place = "fixed"

    def __post_init__(self) -> None:
        DirtyLabel.__post_init__(self)
        if not self.word.strip():
            raise ConfigError(f"attack {self.name}: word is empty; without one it is badnets_fixed")

    @property
    def triggers(self) -> Mapping[str, WordedPatch]:
        """The patch, which knows its word."""
        return {"patch": WordedPatch(side=self.side, kind=self.kind, place=self.place, word=self.word.strip())}

    def assign(self, victims: Indices, corpus: Corpus, rng: np.random.Generator) -> Sequence[Plant]:
        """Give each victim a caption that names the target, after the word."""
        plants = DirtyLabel.assign(self, victims, corpus, rng)
        return [replace(plant, caption=f"{self.word.strip()} {plant.caption}") for plant in plants]
