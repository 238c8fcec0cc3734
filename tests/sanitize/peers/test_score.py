"""Peers of a finished run: trained on all pairs, written beside the evidence, and kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from roclip_audit.core.arrays import npy_writer
from roclip_audit.core.errors import ConfigError, StoreError
from roclip_audit.core.progress import SilentReporter
from roclip_audit.core.run import RunFolder, write_json
from roclip_audit.core.shards import Shard
from roclip_audit.sanitize.peers import PEERS
from roclip_audit.sanitize.peers.score import NEIGHBOURS, SPACE, read_input, score_peers
from tests.sanitize.datakit import Made, make_pairs, run_folder

N = 80


SHARDS = tuple(Shard(path=f"/nowhere/{s:05d}.tar", name=f"{s:05d}.tar", size=1, mtime_ns=1) for s in range(2))


def made_run(root: Path, *, joint: bool) -> tuple[RunFolder, Made]:
    """Write what peers read of a run of two shards; embeddings are drawn, a fifth of the pairs is mismatched."""
    made, run = make_pairs(N, mismatched=0.2, noise=0.2, joint=joint), run_folder(root)
    entries = []
    for number, shard in enumerate(SHARDS):
        rows = slice(number * N // 2, (number + 1) * N // 2)
        ordinal = pl.Series("ordinal", range(N // 2), pl.UInt32)
        captions, uids = made.dataset.captions[rows], made.dataset.uids[rows]
        pairs = pl.DataFrame({"ordinal": ordinal, "uid": uids, "caption": captions})
        pairs.write_parquet(run.file("pairs", f"{shard.id}.parquet"))
        scored = pl.DataFrame({"ordinal": ordinal, "scored": [True] * (N // 2)})
        scored.write_parquet(run.file("embeddings", f"{shard.id}.parquet"))
        arrays = {
            "image": made.dataset.image_NVF,
            "text": made.dataset.text_NG,
            "grain": made.dataset.grain_N,
            "detail": made.dataset.detail_N,
        }
        for kind, array in ((kind, array[rows]) for kind, array in arrays.items()):
            with npy_writer(run.file("embeddings", f"{shard.id}.{kind}.npy"), tuple(array.shape[1:])) as file:
                file.append(array.numpy())
        entries.append({"name": shard.name, "path": shard.path, "size": 1, "n_pairs": N // 2, "fingerprint": "f"})
    np.save(run.file("align", "features.npy"), made.dataset.image_NVF[:].half().numpy())
    write_json(run.manifest, {"joint": joint, "encoder_fingerprint": "0", "seed": 0, "shards": entries})
    return run, made


@pytest.mark.parametrize("joint", [True, False])
def test_writes_a_row_a_pair_in_the_order_of_the_evidence(tmp_path: Path, joint: bool) -> None:
    run, made = made_run(tmp_path / "run", joint=joint)
    score_peers(run, SilentReporter())
    for number, shard in enumerate(SHARDS):
        table = pl.read_parquet(run.root / "peers" / f"{shard.id}.parquet")
        assert table.columns == ["uid", *PEERS]
        assert table["uid"].to_list() == made.dataset.uids[number * N // 2 : (number + 1) * N // 2]
        assert all(table[name].dtype == pl.Float64 for name in PEERS)
    seconds = json.loads((run.root / "peers" / "timing.json").read_text())
    assert set(seconds) == {*PEERS, SPACE, NEIGHBOURS}
    assert min(seconds.values()) >= 0


def test_scores_are_kept_until_others_are_asked_for(tmp_path: Path) -> None:
    run, _ = made_run(tmp_path / "run", joint=True)
    score_peers(run, SilentReporter(), names=["clipscore"])
    path = run.root / "peers" / f"{SHARDS[0].id}.parquet"
    before = path.stat().st_mtime_ns
    score_peers(run, SilentReporter(), names=["clipscore"])
    assert path.stat().st_mtime_ns == before
    score_peers(run, SilentReporter(), names=["clipscore", "k_distance_batch"])
    assert pl.read_parquet(path).columns == ["uid", "clipscore", "k_distance_batch"]


def test_a_joint_space_is_taken_as_it_is(tmp_path: Path) -> None:
    run, made = made_run(tmp_path / "run", joint=True)
    pairs = read_input(run, made.dataset, joint=True, seed=0, workers=1)
    image, text = made.dataset.image_NVF[:][:, 0], made.dataset.text_NG[:]
    torch.testing.assert_close(pairs.cosine_N, torch.nn.functional.cosine_similarity(image, text))
    assert pairs.trained_ND.norm(dim=1).tolist() == pytest.approx([1.0] * N, rel=1e-5)
    assert pairs.cosine_N[made.mismatched_N].mean() < pairs.cosine_N[~made.mismatched_N].mean() - 0.3


def test_a_trained_space_knows_the_pairs_that_it_was_trained_on(tmp_path: Path) -> None:
    """Same features, one caption moved: the heads see every pair, so sound ones score high, and the seed decides."""
    run, made = made_run(tmp_path / "run", joint=False)
    one, again, other = (read_input(run, made.dataset, joint=False, seed=seed, workers=1) for seed in (0, 0, 1))
    assert torch.equal(one.cosine_N, again.cosine_N)
    assert not torch.equal(one.cosine_N, other.cosine_N)
    assert one.cosine_N[~made.mismatched_N].mean() > one.cosine_N[made.mismatched_N].mean()


def test_an_unknown_peer_is_refused_before_any_work(tmp_path: Path) -> None:
    run, _ = made_run(tmp_path / "run", joint=True)
    with pytest.raises(ConfigError, match="unknown peer"):
        score_peers(run, SilentReporter(), names=["nonsense"])
    assert not (run.root / "peers").exists()


def test_no_scan_or_an_older_one_is_refused(tmp_path: Path) -> None:
    run, _ = made_run(tmp_path / "run", joint=True)
    manifest = json.loads(run.manifest.read_text())
    del manifest["joint"]
    write_json(run.manifest, manifest)
    with pytest.raises(StoreError, match="lacks joint"):
        score_peers(run, SilentReporter())
    write_json(run.manifest, manifest | {"joint": True})
    next(run.root.glob("embeddings/*.text.npy")).unlink()
    with pytest.raises(StoreError, match="embeddings are gone"):
        score_peers(run, SilentReporter())
    run.manifest.unlink()
    with pytest.raises(StoreError, match="scan first"):
        score_peers(run, SilentReporter())
