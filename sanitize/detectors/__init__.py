"""Density detectors: how sparse an image's surroundings are, from one shared table of neighbours.

One file a member; all read the same ``NeighbourTable``, so the neighbours are searched once whatever the number of
detectors. A detector sees distances and indices, never a model, an image or a loader, and compares each pair with a
fixed reference set, never with the batch it came in. Its name is the column of ``evidence`` that it fills. Every member
satisfies ``Detector`` and passes the conformance suite in tests/sanitize/detectors.

Density does not depend on how images and captions are paired, so re-pairing cannot calibrate it: the scores feed
``sanitize.anomaly``, not suspicion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol, cast

from roclip_audit.core.registry import load_member, require_member

if TYPE_CHECKING:
    from torch import Tensor

    from roclip_audit.sanitize.detectors.neighbour_table import NeighbourTable


class Detector(Protocol):
    """Gives every image of a neighbour table a number; higher = more suspicious.

    The score of a row depends on that row and on the reference set alone, and is finite whatever the table holds:
    copies at distance 0, rows with fewer than k neighbours or none, equal distances.
    """

    name: ClassVar[str]
    """Name in ``DETECTORS`` and of the column in ``evidence``."""

    def score(self, table: NeighbourTable) -> Tensor:
        """Score all rows: float64 [N], finite, higher = more suspicious."""
        ...


DETECTORS: Mapping[str, str] = {
    "k_distance": "roclip_audit.sanitize.detectors.k_distance:KDistance",
    "lid": "roclip_audit.sanitize.detectors.lid:Lid",
    "slof": "roclip_audit.sanitize.detectors.slof:Slof",
    "dao": "roclip_audit.sanitize.detectors.dao:Dao",
}
"""Name -> "module:Class". Modules are imported when asked for: they load torch."""


def build_detector(name: str) -> Detector:
    """Build the detector of that name.

    Raises:
        ConfigError: there is none.
    """
    require_member("detector", name, DETECTORS)
    return cast("Detector", load_member(DETECTORS[name])())


def density_scores(table: NeighbourTable) -> dict[str, Tensor]:
    """Score a table with every detector.

    Returns:
        Name -> float64 [N], finite, higher = more suspicious; in the order of ``DETECTORS``.
    """
    return {name: build_detector(name).score(table) for name in DETECTORS}
