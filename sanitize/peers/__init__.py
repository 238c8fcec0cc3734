"""Peers: detectors of the literature, run beside ours so that the two can be compared on the same pairs.

They are not part of a scan: nothing that a scan says rests on them. `score_peers` computes them for a finished run
folder. One file a method; a method that the published code runs on batches is there as published (``..._batch``) and as
mended (``..._fixed``: one fixed reference set, the right rows). Every member satisfies ``Peer`` and passes the
conformance suite in tests/sanitize/peers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Protocol, cast

from roclip_audit.core.registry import load_member, require_member

if TYPE_CHECKING:
    from torch import Tensor


MOST_NEIGHBOURS = 64
"""Neighbours in the shared table: the k of LID, the most that any peer asks for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PeerInput:
    """What peers see of a data set of N pairs.

    ``trained`` is what the literature's detectors read: a model trained on all of the suspect data, trigger and all.
    With the embedded encoder that is one pair of heads trained on every pair, one view, no folds; with an open_clip
    encoder it is that encoder, whatever it was trained on.

    Attributes:
        cosine_N: float32 [N], cosine of image and own caption in the trained space.
        trained_ND: float32 [N, D], images in the trained space, unit length.
        image_NF: float32 [N, F], image features of the frozen encoder, whole view, unit length.
        seed: of the run.
        workers: threads; changes nothing in the result.
    """

    cosine_N: Tensor
    trained_ND: Tensor
    image_NF: Tensor
    seed: int
    workers: int = 1

    def __len__(self) -> int:
        """Return the number of pairs, N."""
        return len(self.cosine_N)

    @cached_property
    def nearest(self) -> tuple[Tensor, Tensor]:
        """Cosine and row of every pair's nearest images in the trained space, the pair itself among them: [N, 65]."""
        from roclip_audit.core.neighbours import nearest

        k = min(MOST_NEIGHBOURS + 1, max(2, len(self)))
        return nearest(self.trained_ND, self.trained_ND, k, workers=self.workers)


class Peer(Protocol):
    """Gives every pair a number; higher = more suspicious. Finite for any input of at least one pair."""

    name: ClassVar[str]
    """Name in ``PEERS`` and of the column in ``peers/<shard>.parquet``."""

    def check(self) -> None:
        """Raise MissingExtraError if a package that the method needs is not installed."""
        ...

    def score(self, pairs: PeerInput) -> Tensor:
        """Score all pairs: float64 [N], finite, higher = more suspicious."""
        ...


PEERS: Mapping[str, str] = {
    "clipscore": "clipscore:ClipScore",
    "gmm": "gmm:Gmm",
    "k_distance_batch": "k_distance:KDistanceBatch",
    "lid_batch": "lid:LidBatch",
    "slof_batch": "slof:SlofBatch",
    "dao_batch": "dao:DaoBatch",
    "k_distance_fixed": "k_distance:KDistanceFixed",
    "lid_fixed": "lid:LidFixed",
    "slof_fixed": "slof:SlofFixed",
    "dao_fixed": "dao:DaoFixed",
    "isolation_forest": "isolation_forest:IsolationForest",
}
"""Name -> "module:Class" in this folder. Modules are imported when asked for: they load torch."""


def build_peer(name: str) -> Peer:
    """Build the peer of that name.

    Raises:
        ConfigError: there is none.
    """
    require_member("peer", name, PEERS)
    return cast("Peer", load_member(PEERS[name], __name__)())
