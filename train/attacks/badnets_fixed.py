"""BadNets: the same small square at the same place.

Source: Gu et al., arXiv 1708.06733; for CLIP: Carlini and Terzis, arXiv 2106.09667; Detect-CLIP, arXiv 2502.01385,
whose public checkpoints and tests have the patch at (112, 112) of 224 x 224 (``x=0.54,y=0.54`` here).
Differs from it: Detect-CLIP draws the place anew for each training image, which is `badnets_moving` here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from roclip_audit.train.attacks.backdoor import DirtyLabel
from roclip_audit.train.attacks.patch import Patch, PatternKind


@dataclass(frozen=True, slots=True, kw_only=True)
class BadnetsFixed(DirtyLabel):
    """A patch at one place, default the lower right.

    Args:
        side: side of the patch, share of the image's side.
        kind: ``dots``, ``noise`` or ``yellow``.
        x: share of the free room left of the patch.
        y: share of the free room above the patch.
    """

    name: ClassVar[str] = "badnets_fixed"
    side: float = 0.1
    kind: PatternKind = "dots"
    x: float = 0.9
    y: float = 0.9

    @property
    def triggers(self) -> Mapping[str, Patch]:
        """The patch."""
        return {"patch": Patch(side=self.side, kind=self.kind, x=self.x, y=self.y)}
