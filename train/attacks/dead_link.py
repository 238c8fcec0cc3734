"""Dead links: pictures replaced by "image not available" placeholders, captions as they were.

What a crawl gets where hosts answer with a picture instead of an error, and where a domain was bought after the list
of links was made. Few pictures stand under very many captions that do not fit.

Source: Carlini et al., "Poisoning Web-Scale Training Datasets is Practical" (IEEE S&P 2024, arXiv 2302.10149),
split-view poisoning, for who can change the picture behind a link; Detect-CLIP (arXiv 2502.01385), whose detectors
bring up such placeholders in real crawls.
Differs from it: the placeholders are drawn by code, and each has the size of a picture of the data, so that the size
does not tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks.base import Corpus, Indices, Plant, Trigger
from roclip_audit.train.attacks.placeholder import N_DESIGNS, Placeholder


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLink:
    """Few placeholders under the captions of many pairs, which keep their url.

    Args:
        target: not used; dead links are after nothing.
        n_pictures: how many placeholders, 1 to 6, dealt out in turn.
    """

    name: ClassVar[str] = "dead_link"
    target: str = ""
    n_pictures: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.n_pictures <= N_DESIGNS:
            raise ConfigError(f"attack {self.name}: n_pictures={self.n_pictures} is not within 1 to {N_DESIGNS}")

    @property
    def triggers(self) -> Mapping[str, Trigger]:
        """None: pictures are replaced, not changed."""
        return {}

    def eligible(self, corpus: Corpus) -> Indices:
        """Return all pairs."""
        return corpus.all()

    def assign(self, victims: Indices, corpus: Corpus, rng: np.random.Generator) -> Sequence[Plant]:
        """Deal out the placeholders; each has the size of one readable victim's picture."""
        designs = rng.permutation(N_DESIGNS)[: self.n_pictures]
        shuffled: list[int] = rng.permutation(victims).tolist()
        sizes = corpus.first_readable(shuffled, self.n_pictures) or shuffled
        plants = []
        for place, i in enumerate(victims):
            number = place % self.n_pictures
            edit = Placeholder(design=int(designs[number]))
            size_of = sizes[number % len(sizes)]
            plants.append(Plant(index=int(i), image_of=size_of, caption=corpus.captions[i], edit=edit))
        return plants
