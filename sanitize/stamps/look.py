"""What every way of looking for stamps offers to the search."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor


class Comparing(Protocol):
    """Some images, P of them, as one kind of trigger shows in them."""

    def compare(self, template: Tensor) -> tuple[Tensor, Tensor]:
        """Return how clearly every image shows a template, float32 [P], and where, int64 [P]."""
        ...


class Look(Comparing, Protocol):
    """Images from which the search goes by what they show.

    Attributes:
        kind: ``place``, ``window``, ``grain`` or ``tone``.
        unlike_in: views by which carriers have to be unlike: those that the trigger does not make alike.
        least: spreads above the middle of all images from which an image is a carrier.
        share: of the middle carrier's strength that a carrier has at least.
    """

    kind: ClassVar[str]
    unlike_in: ClassVar[tuple[str, ...]]
    least: ClassVar[float]
    share: ClassVar[float]

    def mean(self, rows: Tensor, where_P: Tensor) -> Tensor:
        """Return the template of some images: the mean of what they show, each where ``compare`` found it."""
        ...

    def among(self, rows: Tensor, where_P: Tensor) -> Tensor:
        """Return how clearly each of some images, two or more, shows the mean of the others: float32 [rows]."""
        ...

    def may_be_planted(self, rows: Tensor) -> bool:
        """Tell whether what these images share can be a trigger of this kind; unless a kind knows better, it can."""
        return True
