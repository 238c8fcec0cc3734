"""The table of neighbours of the trained space, over all pairs: what the mended density peers read."""

from __future__ import annotations

import torch

from roclip_audit.sanitize.detectors.neighbour_table import NeighbourTable, table_from_similarity
from roclip_audit.sanitize.peers import PeerInput


def trained_neighbours(pairs: PeerInput, k: int) -> NeighbourTable:
    """Return every pair's k nearest images among all pairs, in the trained space; as many as there are if fewer."""
    similarity_NK, index_NK = pairs.nearest
    k = min(k, similarity_NK.shape[1] - 1)
    return table_from_similarity(similarity_NK, index_NK, torch.arange(len(pairs)), k=k)
