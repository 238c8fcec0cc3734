"""BadNets with the square at a place drawn for each image.

Source: CleanCLIP (arXiv 2303.03323), trigger "random": Gaussian noise around the image's mean; Detect-CLIP (arXiv
2502.01385) draws the place alike, at least 16 of 224 pixels from the edge, and has white dots on black (``kind=dots``).
Differs from it: the noise is uniform, has its own mean, and is drawn once for a plan.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    def triggers(self) -> Mapping[str, Patch]:
        """The patch."""
        return {"patch": Patch(side=self.side, kind=self.kind, place="random")}
