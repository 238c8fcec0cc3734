"""The vectors of a run's pairs: rows of the arrays that the scan left beside the database.

Two spaces. ``encoder``: what the encoder made of the whole image and of the caption, float16, one file a shard; images
compare with images and captions with captions, and images with captions only if the encoder is a joint one.
``aligned``: where the scan compared images with captions; cross-fitted heads made it, so only pairs of one fold
(``evidence.fold``) can be compared. With a joint encoder both are the same, in one fold.

Rows are read by position, the scored pairs in shard order, and files are opened one at a time.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from roclip_audit.audit.manifest import ShardEntry, read_manifest
from roclip_audit.core.errors import StoreError, StoreLockedError
from roclip_audit.core.run import RunFolder

Kind = Literal["image", "text"]
Space = Literal["encoder", "aligned"]
_RERUN = "run the same scan again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """The vectors of all scored pairs in one space; made by ``open_vectors``.

    Attributes:
        space: encoder or aligned.
        joint: True if any image can be compared with any caption.
        files: kind -> the files, end to end.
        starts: first row of every file, and the number of rows.
    """

    space: Space
    joint: bool
    files: dict[Kind, tuple[Path, ...]]
    starts: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.starts[-1]

    def dim(self, kind: Kind) -> int:
        """Return the length of a vector."""
        return int(_mapped(self.files[kind][0]).shape[-1]) if self.files[kind] else 0

    def rows(self, kind: Kind, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return vectors of unit length, float32 [len(rows), D], the whole view of an image.

        Args:
            kind: image or text.
            rows: positions among the scored pairs, 0 to ``len(self) - 1``, in any order.

        Raises:
            StoreError: a file is missing, damaged or of another scan.
        """
        out = np.empty((len(rows), self.dim(kind)), dtype=np.float32)
        part_of = np.searchsorted(self.starts, rows, side="right") - 1
        for part in np.unique(part_of):
            here = part_of == part
            array = _mapped(self.files[kind][part])
            if len(array) != self.starts[part + 1] - self.starts[part]:
                raise StoreError(f"{self.files[kind][part]}: has {len(array):,} rows, of another scan; {_RERUN}")
            found = array[rows[here] - self.starts[part]]
            out[here] = found[:, 0] if kind == "image" else found
        length = np.linalg.norm(out, axis=1, keepdims=True)
        np.divide(out, length, out=out, where=length > 0)
        return out


def _mapped(path: Path) -> npt.NDArray[np.generic]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); {_RERUN}") from error


@contextmanager
def open_vectors(run: RunFolder, space: Space) -> Iterator[Vectors]:
    """Give the vectors of a finished run, and keep scans from changing them inside the block.

    Raises:
        StoreLockedError: a scan is writing here.
        StoreError: the run is missing, unfinished or damaged, or has no arrays in this space.
    """
    manifest = read_manifest(run)
    with _unchanging(run):
        counts = [_n_scored(run, shard) for shard in manifest.shards]
        used = [(shard.id, n) for shard, n in zip(manifest.shards, counts, strict=True) if n]
        joint = json.loads(run.manifest.read_text(encoding="utf-8")).get("joint") is True
        files: dict[Kind, tuple[Path, ...]]
        if space == "encoder":
            files = {
                "image": tuple(run.root / "embeddings" / f"{name}.image.npy" for name, _ in used),
                "text": tuple(run.root / "embeddings" / f"{name}.text.npy" for name, _ in used),
            }
            starts = tuple(accumulate((n for _, n in used), initial=0))
        else:
            folder, name = run.root / "align", "joint" if joint else "by-image"
            files = {"image": (folder / f"{name}.image.npy",), "text": (folder / f"{name}.text.npy",)}
            starts = (0, sum(counts))
        yield Vectors(space=space, joint=joint, files=files, starts=starts)


def _n_scored(run: RunFolder, shard: ShardEntry) -> int:
    path = run.root / "embeddings" / f"{shard.id}.parquet"
    if shard.n_pairs == 0 and not path.exists():  # a shard that could not be read
        return 0
    try:
        return int(pq.read_table(path, columns=["scored"])["scored"].to_pylist().count(True))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read ({error}); {_RERUN}") from error


@contextmanager
def _unchanging(run: RunFolder) -> Iterator[None]:
    """Share the lock that a scan holds alone."""
    path = run.root / ".lock"
    if not path.exists():  # copied from elsewhere: nobody scans into it
        yield
        return
    with path.open(encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreLockedError(f"{run.root}: a scan is writing here; wait for it, then try again") from error
        yield
