"""A made-up run with planted pairs, its truth and its peers, as ``bench`` leaves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from roclip_audit.audit.leaderboard.rows import Row
from roclip_audit.core.run import RunFolder
from tests.audit.runkit import FakePair, fake, make_run, shard_id, uid_of

SHARDS = ("00000.tar", "00001.tar")
N = 30  # pairs a shard
ATTACKS = ("badnets_fixed", "label_consistent")


def attack_of(shard: int, ordinal: int) -> str | None:
    """Plant every fifth pair of the first shard with a patch, and every sixth of the second with its label kept."""
    if shard == 0 and ordinal % 5 == 0:
        return ATTACKS[0]
    return ATTACKS[1] if shard == 1 and ordinal % 6 == 0 else None


def make_poisoned(root: Path, *, seed: int = 0, campaigns: bool = False) -> tuple[RunFolder, Path]:
    """Write a run of 60 pairs, 6 with a patch (suspicious) and 5 with their label kept (not); return run and truth."""
    rng = np.random.default_rng(seed)
    shards: dict[str, list[FakePair]] = {}
    rows = []
    for s, shard in enumerate(SHARDS):
        shards[shard] = []
        for i in range(N):
            attack = attack_of(s, i)
            suspicion = float(rng.uniform(0.8, 1.0) if attack == ATTACKS[0] else rng.uniform(0.0, 0.9))
            shards[shard].append(fake(f"a cat {i}", suspicion=suspicion, fdr=1 - suspicion))
            stamped = attack == ATTACKS[0]
            rows.append(
                {
                    "uid": uid_of(shard, i),
                    "attack": attack,
                    "target": "cat" if attack else None,
                    "image_shard": shard,
                    "image_key": f"{i:05d}",
                    "x": 32 if stamped else None,
                    "y": 24 if stamped else None,
                    "width": 16 if stamped else None,
                    "height": 12 if stamped else None,
                }
            )
    groups = {"cats": [(SHARDS[0], i) for i in range(0, 20, 5)] + [(SHARDS[0], 1)], "dogs": [(SHARDS[1], 1)]}
    run = make_run(root / "run", shards, campaigns=groups if campaigns else None, seed=seed)
    truth = root / "truth.parquet"
    numbers = dict.fromkeys(("x", "y", "width", "height"), pl.UInt32)
    pl.DataFrame(rows, schema_overrides=numbers).write_parquet(truth)
    return run, truth


def add_peers(run: RunFolder) -> None:
    """Write scores of two peers: one that knows the truth of the first attack, one that says nothing."""
    for s, shard in enumerate(SHARDS):
        table = pl.DataFrame(
            {
                "uid": [uid_of(shard, i) for i in range(N)],
                "seer": [float(attack_of(s, i) == ATTACKS[0]) for i in range(N)],
                "mute": [0.5] * N,
            }
        )
        table.write_parquet(run.file("peers", f"{shard_id(shard)}.parquet"))
    run.file("peers", "timing.json").write_text('{"seer": 2.0, "trained space": 3.0}')


def place_trigger(run: RunFolder, box: tuple[float | None, ...]) -> None:
    """Give the first campaign a recovered trigger."""
    path = run.root / "campaigns" / "campaigns.parquet"
    names = ("trigger_x", "trigger_y", "trigger_width", "trigger_height")
    table = pq.read_table(path)
    frame = pl.DataFrame(pl.from_arrow(table))
    first = pl.col("campaign") == 1
    changed = [pl.when(first).then(pl.lit(v)).otherwise(pl.col(n)).alias(n) for n, v in zip(names, box, strict=True)]
    pq.write_table(frame.with_columns(changed).to_arrow().cast(table.schema), path)


def row(**what: object) -> Row:
    """Return a row of the leaderboard; what is not said is made up."""
    values: dict[str, object] = {
        "data": "clip", "encoder": "embedded", "detector": "risk", "attack": "sig", "rate": 0.005, "seed": 0,
        "metric": "auroc", "value": 0.9, "low": 0.8, "high": 0.95, "n_planted": 40, "n_clean": 900,
    }  # fmt: skip
    return Row(**(values | what))  # type: ignore[arg-type]
