"""Compute the peers' scores for a finished run folder.

::

    peers/<shard_id>.parquet   uid and one column per peer, rows as in evidence/<shard_id>.parquet
    peers/timing.json          seconds by peer, after the two parts they share: "trained space" and "neighbours"
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.core.arrays import map_npy
from roclip_audit.core.errors import StoreError
from roclip_audit.core.parallel import one_thread_each
from roclip_audit.core.progress import Reporter
from roclip_audit.core.run import RunFolder, work_key, write_atomic, write_json
from roclip_audit.core.seeding import derive_seed
from roclip_audit.core.shards import Shard
from roclip_audit.sanitize.align import train_on_all, whole_view
from roclip_audit.sanitize.dataset import Dataset, RowArray, load_dataset
from roclip_audit.sanitize.grouping import number_captions
from roclip_audit.sanitize.heads import HeadsConfig
from roclip_audit.sanitize.peers import PEERS, PeerInput, build_peer

REVISION: Final = 1
SPACE: Final = "trained space"
NEIGHBOURS: Final = "neighbours"
TIMING: Final = "timing.json"
_BLOCK = 1_024


def score_peers(run: RunFolder, reporter: Reporter, *, names: Sequence[str] = (), workers: int = 1) -> None:
    """Write the scores of peers beside the evidence of a finished scan. Call it while holding ``run.locked()``.

    Scores that were computed for the same scan are kept.

    Args:
        run: the run folder, its embeddings still there.
        reporter: told about progress.
        names: peers; all by default.
        workers: threads; changes nothing in the result.

    Raises:
        ConfigError: there is no such peer.
        MissingExtraError: a peer needs a package that is not installed; nothing was computed.
        StoreError: no finished scan here, or its embeddings are gone.
    """
    wanted = list(names) or list(PEERS)
    for name in wanted:
        build_peer(name).check()
    manifest = _read_manifest(run)
    key = work_key("peers", REVISION, wanted, manifest["encoder_fingerprint"], manifest["seed"], manifest["shards"])
    if run.stats_if_done("peers", "dataset", key) is not None:
        return
    run.forget("peers", "dataset")
    with one_thread_each(), reporter.stage("peers", total=len(wanted) + 1, unit="methods") as progress:
        dataset = _load(run, manifest)
        seconds: dict[str, float] = {}
        started = time.monotonic()
        pairs = read_input(run, dataset, joint=manifest["joint"], seed=int(manifest["seed"]), workers=workers)
        seconds[SPACE] = time.monotonic() - started
        progress.advance(1)
        scores: dict[str, Tensor] = {}
        for name in wanted:
            if name.endswith("_fixed") and NEIGHBOURS not in seconds:
                started = time.monotonic()
                _ = pairs.nearest
                seconds[NEIGHBOURS] = time.monotonic() - started
            started = time.monotonic()
            scores[name] = build_peer(name).score(pairs)
            seconds[name] = time.monotonic() - started
            progress.advance(1)
    _write(run, dataset, scores)
    write_json(run.file("peers", TIMING), {name: round(value, 6) for name, value in seconds.items()})
    run.mark_done("peers", "dataset", key, {"n_pairs": len(dataset)})


def read_input(run: RunFolder, dataset: Dataset, *, joint: bool, seed: int, workers: int) -> PeerInput:
    """Return what peers see: train a model on all of the data, or take the encoder's own space (``joint``)."""
    source_NVF = dataset.image_NVF if joint else RowArray.of([map_npy(run.root / "align" / "features.npy")])
    whole_NF = whole_view(source_NVF)[slice(None)][:, 0]
    frozen_NF = functional.normalize(whole_NF, dim=1)
    if joint:
        image_ND, text_ND = frozen_NF, functional.normalize(dataset.text_NG[:], dim=1)
    else:
        caption_N, heads_seed = number_captions(dataset.captions), derive_seed(seed, "heads", "peers")
        heads = train_on_all(source_NVF, dataset.text_NG, caption_N, HeadsConfig(), heads_seed)
        image_ND = torch.cat([heads.image(block) for block in whole_NF.split(_BLOCK)])
        text_ND = torch.cat([heads.text(dataset.text_NG[rows]) for rows in torch.arange(len(dataset)).split(_BLOCK)])
    return PeerInput(
        cosine_N=(image_ND * text_ND).sum(1), trained_ND=image_ND, image_NF=frozen_NF, seed=seed, workers=workers
    )


def _read_manifest(run: RunFolder) -> Mapping[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(run.manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{run.root}: no finished scan here ({error}); scan first") from error
    if missing := {"joint", "encoder_fingerprint", "seed", "shards"} - set(manifest):
        raise StoreError(f"{run.manifest}: lacks {', '.join(sorted(missing))}; run the same scan again")
    return manifest


def _shards(manifest: Mapping[str, Any]) -> list[Shard]:
    """Return the shards that have pairs; their files are found by name."""
    return [
        Shard(path=entry["path"], name=entry["name"], size=entry["size"], mtime_ns=0)
        for entry in manifest["shards"]
        if entry["n_pairs"]
    ]


def _load(run: RunFolder, manifest: Mapping[str, Any]) -> Dataset:
    try:
        return load_dataset(run, _shards(manifest))
    except FileNotFoundError as error:
        raise StoreError(f"{run.root}: its embeddings are gone ({error.filename}); scan again") from error


def _write(run: RunFolder, dataset: Dataset, scores: Mapping[str, Tensor]) -> None:
    if broken := [name for name, score_N in scores.items() if not bool(score_N.isfinite().all())]:
        raise ValueError(f"peers: {', '.join(broken)} gave scores that are not finite")
    for number, shard in enumerate(dataset.shards):
        here = dataset.rows_of(number)
        columns = {name: score_N[here].numpy() for name, score_N in scores.items()}
        table = pl.DataFrame({"uid": dataset.uids[here], **columns})
        write_atomic(run.file("peers", f"{shard.id}.parquet"), table.write_parquet)
