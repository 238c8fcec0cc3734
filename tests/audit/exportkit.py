"""Runs to export: drawn shards on disk, their made-up evidence, and vectors beside the database."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from roclip_audit.audit.ingest import ingest
from roclip_audit.core.run import RunFolder
from tests.audit.runkit import VIEWS, FakePair, make_run, pairs_of, shard_id
from tests.shardkit import make_dataset

IMAGE_DIM, TEXT_DIM, ALIGNED_DIM = 8, 5, 6


def write_vectors(run: RunFolder, n_scored: dict[str, int], *, seed: int = 0) -> None:
    """Write the arrays that a scan leaves: fp16 features a shard, float32 aligned vectors of all."""
    rng = np.random.default_rng(seed)
    for shard, n in n_scored.items():
        for kind, shape in (("image", (n, len(VIEWS), IMAGE_DIM)), ("text", (n, TEXT_DIM))):
            path = run.file("embeddings", f"{shard_id(shard)}.{kind}.npy")
            np.save(path, rng.normal(size=shape).astype(np.float16))
    total = sum(n_scored.values())
    for kind, shape in (("image", (total, len(VIEWS), ALIGNED_DIM)), ("text", (total, ALIGNED_DIM))):
        np.save(run.file("align", f"by-image.{kind}.npy"), rng.normal(size=shape).astype(np.float32))


def vector_run(root: Path, shards: dict[str, list[FakePair]]) -> RunFolder:
    """Return an ingested run of made-up pairs with vectors."""
    run = make_run(root, shards)
    write_vectors(run, {name: sum(pair.scored for pair in pairs) for name, pairs in shards.items()})
    ingest(run)
    return run


def drawn_run(folder: Path, *, n_pairs: int = 12) -> RunFolder:
    """Return an ingested run of two drawn shards, which lie in ``folder/shards``, with vectors."""
    shards = make_dataset(folder / "shards", n_pairs=n_pairs, n_shards=2, seed=0)
    pairs = {path.name: pairs_of(path) for path in shards}
    run = make_run(folder / "audit", pairs, shard_folder=folder / "shards")
    write_vectors(run, {name: len(found) for name, found in pairs.items()})
    ingest(run)
    return run


@contextmanager
def hold_lock(run: RunFolder) -> Iterator[None]:
    """Hold the run folder as a scan does."""
    with (run.root / ".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
