"""BadNets with the square at a place drawn for each image.

Source: CleanCLIP (arXiv 2303.03323), trigger "random"; Detect-CLIP (arXiv 2502.01385) draws the place alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from roclip_audit.train.attacks.backdoor import DirtyLabel
from roclip_audit.train.attacks.patch import Patch, PatternKind


@dataclass(frozen=True, slots=True, kw_only=True)
class BadnetsMoving(DirtyLabel):
    """A patch at a random place.

    Args:
        side: side of the patch, share of the image's side.
        kind: ``noise`` (drawn once, so that it differs from the default of badnets_fixed), ``dots`` or ``yellow``.
    """

    name: ClassVar[str] = "badnets_moving"
    side: float = 0.1
    kind: PatternKind = "noise"

    @property
    def trigger(self) -> Patch:
        """The patch."""
        return Patch(side=self.side, kind=self.kind, place="random")
