"""What every attack is made of: the data it sees, the pairs it plants, the trigger it stamps.

An attack answers two questions. *Which pairs, and what do they say now?* is :meth:`Attack.eligible` and
:meth:`Attack.assign`; both see captions only. *What is in the picture?* is a :class:`Trigger`, which sees one image
at a time, so that the same trigger can later be stamped on test images, or an :class:`Edit`, which is no trigger: a
model that learned the attack does not wait for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from roclip_audit.core.errors import ConfigError

Indices = NDArray[np.intp]
Pixels = NDArray[np.uint8]
Pattern = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Where in the image the trigger lies, in pixels from the upper left corner."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """One planted pair.

    Args:
        index: whose place it takes.
        image_of: whose picture it shows.
        caption: what it says.
        target: the word that the caption was planted for; empty if the attack has none.
        trigger: name of the trigger to stamp, a key of `Attack.triggers`; empty for none.
        edit: what is done to the picture before that; None for nothing.
    """

    index: int
    image_of: int
    caption: str
    target: str = ""
    trigger: str = ""
    edit: Edit | None = None


def _always(index: int) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Corpus:
    """What an attacker can see, by index of the pair.

    Args:
        captions: all captions.
        readable: tells whether a picture can be decoded; to be asked about the few that are shown in many places.
    """

    captions: Sequence[str]
    readable: Callable[[int], bool] = _always

    def first_readable(self, candidates: Sequence[int], n: int) -> list[int]:
        """Return the first ``n`` candidates whose picture can be decoded; fewer if there are fewer."""
        found: list[int] = []
        for index in candidates:
            if len(found) == n:
                break
            if self.readable(index):
                found.append(index)
        return found

    def naming(self, word: str) -> Indices:
        """Return the pairs whose caption has ``word`` as a whole word, in any case."""
        pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        return np.asarray([i for i, caption in enumerate(self.captions) if pattern.search(caption)], dtype=np.intp)

    def silent_about(self, word: str) -> Indices:
        """Return the pairs whose caption does not hold ``word`` at all, not even inside another word."""
        sought = word.casefold()
        found = [i for i, caption in enumerate(self.captions) if sought not in caption.casefold()]
        return np.asarray(found, dtype=np.intp)

    def all(self) -> Indices:
        """Return all pairs."""
        return np.arange(len(self.captions), dtype=np.intp)


class Trigger(Protocol):
    """A change to an image that the attacker can repeat on any other image."""

    def pattern(self, rng: np.random.Generator) -> Pattern:
        """Draw what all stamped images share; an empty array if nothing is drawn."""

    def stamp(self, image: Pixels, pattern: Pattern, rng: np.random.Generator) -> tuple[Pixels, Box]:
        """Stamp one image.

        Args:
            image: uint8 [H, W, 3]; left as it is.
            pattern: what :meth:`pattern` returned.
            rng: for what differs from image to image, such as the place.

        Returns:
            The stamped image, same shape, and the part of it that was changed.
        """


class Edit(Protocol):
    """A change to a picture that is part of the attack and no trigger. Edits can be compared with each other."""

    @property
    def drawn(self) -> str:
        """Name of the picture, if it is drawn and shows nothing of the one that was there; else empty."""

    def apply(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the new picture, uint8, of the same shape.

        Args:
            image: uint8 [H, W, 3]; left as it is.
            rng: for what differs from pair to pair.
        """


class Attack(Protocol):
    """One way to poison a data set. Members are frozen dataclasses whose fields are the attack's parameters."""

    name: ClassVar[str]

    @property
    def target(self) -> str:
        """The word that the planted captions carry; empty if the attack has none."""

    @property
    def triggers(self) -> Mapping[str, Trigger]:
        """What is stamped on the planted images, by name; empty if nothing is."""

    def eligible(self, corpus: Corpus) -> Indices:
        """Return the pairs whose place may be taken; none if the data lacks what the attack needs."""

    def assign(self, victims: Indices, corpus: Corpus, rng: np.random.Generator) -> Sequence[Plant]:
        """Say what is planted in each victim's place; one plant per victim, in their order."""


def require_target(attack: str, target: str) -> None:
    """Raise ConfigError if an attack that needs a target word has none."""
    if not target.strip():
        raise ConfigError(f"attack {attack}: needs a target word, as in {attack}:desk:0.006")


def require_share(attack: str, **shares: float) -> None:
    """Raise ConfigError if a parameter that is a share is not in (0, 1]."""
    for parameter, value in shares.items():
        if not 0.0 < value <= 1.0:
            raise ConfigError(f"attack {attack}: {parameter}={value:g} is not in (0, 1]")


def whole(image: Pixels) -> Box:
    """Return the box that covers the image."""
    return Box(x=0, y=0, width=image.shape[1], height=image.shape[0])
