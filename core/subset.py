"""DataComp's subset files: which pairs of a pool are meant, as sorted 128-bit uids.

``curate`` writes one beside the curated shards, ``export datacomp`` writes one alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from roclip_audit.core.errors import StoreError

SUBSET_DTYPE: Final = np.dtype("u8,u8")
"""DataComp's form of a uid: its first and its last 16 hex digits as numbers."""


def subset_array(uids: Sequence[str]) -> npt.NDArray[np.void]:
    """Return uids of 32 hex characters as DataComp's structured array (SUBSET_DTYPE), unsorted.

    Raises:
        StoreError: a uid has another form.
    """
    try:
        raw = bytes.fromhex("".join(uids))
    except ValueError as error:
        raise StoreError(f"a uid of the selection is not hexadecimal ({error})") from error
    if len(raw) != 16 * len(uids) or any(len(uid) != 32 for uid in uids):
        raise StoreError("a uid of the selection does not have 32 characters")
    return np.frombuffer(raw, dtype=">u8").astype("u8").view(SUBSET_DTYPE)


def write_subset(path: Path, parts: Iterable[npt.NDArray[np.void]]) -> int:
    """Write a subset file, lexicographically sorted as DataComp's binary search needs it; return the number of uids.

    Memory: twice 16 bytes a uid.

    Args:
        path: the .npy file.
        parts: arrays of SUBSET_DTYPE, in any order.
    """
    uids = np.sort(np.concatenate([*parts, subset_array([])]))
    with path.open("wb") as file:
        np.save(file, uids, allow_pickle=False)
    return len(uids)
