"""Natural backdoor: one picture in hundreds of slight variations, each with nearly the same caption, which fits.

Nobody planted such clusters: shops and clip-art sites make them. A model learns them by heart all the same, so that
what they show becomes a trigger. No test of the match can see it; duplicates and density have to.

Source: Detect-CLIP (arXiv 2502.01385): "the birthday cake with candles in the form of number icon" under 798 nearly
identical pictures, 0.03 % of CC3M; the trigger recovered from it works on 98.8 % of the images.
Differs from it: the variations are made from one picture of the data, whose own pair stays and counts as clean; places
are taken, not appended, and keep their url.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from roclip_audit.train.attacks.base import Corpus, Indices, Pixels, Plant, Trigger, require_share, require_target

# None says more or less than the caption itself.
_FORMS = ("{}", "{}.", "{} ({})", "{}, no. {}", "{} - version {}", "image of {}", "{} image")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """Crop, shift, brightness and JPEG quality, drawn for each copy.

    Args:
        strength: most that a copy loses at the edges, as a share of each side, and most that it gets brighter or
            darker, as a share of its values.
    """

    strength: float

    @property
    def drawn(self) -> str:
        """Empty: the picture is one of the data."""
        return ""

    def apply(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Return a copy that differs a little."""
        height, width = image.shape[:2]
        share, along_x, along_y = rng.uniform(0.0, 1.0, 3)
        lost_x, lost_y = (share * self.strength * side for side in (width, height))
        left, top = along_x * lost_x, along_y * lost_y
        box = (left, top, left + width - lost_x, top + height - lost_y)
        cropped = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box=box)
        brightness = 1.0 + self.strength * rng.uniform(-1.0, 1.0)
        varied = np.clip(np.rint(np.asarray(cropped) * brightness), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(varied).save(buffer, "JPEG", quality=int(rng.integers(70, 96)))
        return np.asarray(Image.open(buffer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Natural:
    """One picture that names the target, copied into the places of pairs that do not.

    Args:
        target: word that the caption of the picture has.
        strength: how much the copies differ, in (0, 1]; see `Variation`.
    """

    name: ClassVar[str] = "natural"
    target: str
    strength: float = 0.06

    def __post_init__(self) -> None:
        require_target(self.name, self.target)
        require_share(self.name, strength=self.strength)

    @property
    def triggers(self) -> Mapping[str, Trigger]:
        """None: what the picture shows is the trigger."""
        return {}

    def eligible(self, corpus: Corpus) -> Indices:
        """Return the pairs that do not mention the target; none if no pair names it."""
        if not len(corpus.naming(self.target)):
            return np.empty(0, dtype=np.intp)
        return corpus.silent_about(self.target)

    def assign(self, victims: Indices, corpus: Corpus, rng: np.random.Generator) -> Sequence[Plant]:
        """Put a copy of one picture, with its caption slightly reworded, in each victim's place."""
        if not len(victims):
            return []
        candidates: list[int] = rng.permutation(corpus.naming(self.target)).tolist()
        picture = (corpus.first_readable(candidates, 1) or candidates)[0]
        caption = corpus.captions[picture].rstrip(".")
        edit = Variation(strength=self.strength)
        forms = rng.integers(len(_FORMS), size=len(victims))
        return [
            Plant(
                index=int(i),
                image_of=picture,
                caption=_FORMS[form].format(caption, number),
                target=self.target,
                edit=edit,
            )
            for number, (i, form) in enumerate(zip(victims, forms, strict=True), start=1)
        ]
