"""BadNets: the same small square at the same place.

Source: Gu et al., arXiv 1708.06733; for CLIP: Carlini and Terzis, arXiv 2106.09667; Detect-CLIP, arXiv 2502.01385.
"""

from __future__ import annotations

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
    def trigger(self) -> Patch:
        """The patch."""
        return Patch(side=self.side, kind=self.kind, x=self.x, y=self.y)
