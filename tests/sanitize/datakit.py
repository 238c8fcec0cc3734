"""Data sets as arrays, without shards and without an encoder: pairs of features that are two readings of one thing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from roclip_audit.core.run import RunFolder
from roclip_audit.core.shards import Shard
from roclip_audit.sanitize.align import AlignConfig, Neighbourhood
from roclip_audit.sanitize.contest import ContestConfig
from roclip_audit.sanitize.dataset import Dataset, RowArray
from roclip_audit.sanitize.detail import DIM, N_PLACES
from roclip_audit.sanitize.evidence import EvidenceConfig
from roclip_audit.sanitize.grain import GRAIN_PX
from roclip_audit.sanitize.heads import HeadsConfig
from roclip_audit.sanitize.judge import Judging
from roclip_audit.sanitize.suspicion import SuspicionConfig
from roclip_audit.sanitize.traits import TraitConfig

N_VIEWS = 2
SMALL_HEADS = HeadsConfig(hidden=48, dim=16, epochs=12, batch_size=64, learning_rate=4e-3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A data set and which of its pairs are mismatched."""

    dataset: Dataset
    mismatched_N: np.ndarray


def as_dataset(image_NVF: np.ndarray, text_NG: np.ndarray, captions: list[str], *, n_shards: int = 2) -> Dataset:
    """Spread pairs over shards of about equal size."""
    n = len(captions)
    cuts = [n * part // n_shards for part in range(n_shards + 1)]
    spans = list(itertools.pairwise(cuts))
    return Dataset(
        shards=tuple(Shard(path=f"/nowhere/{x}.tar", name=f"{x}.tar", size=1, mtime_ns=1) for x in range(n_shards)),
        shard_N=np.repeat(np.arange(n_shards), [stop - start for start, stop in spans]),
        uids=[f"{x:032x}" for x in range(n)],
        captions=captions,
        image_NVF=RowArray.of([image_NVF[start:stop].astype(np.float16) for start, stop in spans]),
        text_NG=RowArray.of([text_NG[start:stop].astype(np.float16) for start, stop in spans]),
        grain_N=RowArray.of([np.zeros((stop - start, GRAIN_PX, GRAIN_PX), dtype=np.int8) for start, stop in spans]),
        detail_N=RowArray.of([np.zeros((stop - start, N_PLACES, DIM), dtype=np.int8) for start, stop in spans]),
    )


def make_pairs(
    n: int, *, mismatched: float = 0.0, noise: float = 0.5, joint: bool = False, n_shards: int = 2, seed: int = 0
) -> Made:
    """Draw pairs; a share ``mismatched`` of them has the text of another pair.

    ``joint``: image and text features lie in one space; else they are different readings of the same hidden vector.
    """
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 10)) + 2 * rng.normal(size=(8, 10))[rng.integers(0, 8, n)]  # eight topics
    text_hidden = hidden.copy()
    mismatched_N = np.zeros(n, dtype=bool)
    if n_bad := round(mismatched * n):
        bad = rng.permutation(n)[:n_bad]
        text_hidden[bad] = hidden[np.roll(bad, 1)]
        mismatched_N[bad] = n_bad > 1
    to_image, to_text = (np.eye(10), np.eye(10)) if joint else (rng.normal(size=(10, 40)), rng.normal(size=(10, 30)))
    image = (hidden @ to_image)[:, None] + noise * rng.normal(size=(n, N_VIEWS, to_image.shape[1]))
    text = text_hidden @ to_text + noise * rng.normal(size=(n, to_text.shape[1]))
    captions = [f"caption number {x}" for x in range(n)]
    return Made(dataset=as_dataset(image, text, captions, n_shards=n_shards), mismatched_N=mismatched_N)


def judging(*, n_folds: int = 3, workers: int = 1, sampled: bool = False, seed: int = 0) -> Judging:
    """Return settings that suit hundreds of pairs."""
    return Judging(
        align=AlignConfig(n_folds=n_folds, heads=SMALL_HEADS, feature_dim=16),
        contest=ContestConfig(pool_size=32, rounds=8, sampled=sampled),
        evidence=EvidenceConfig(),
        suspicion=SuspicionConfig(),
        traits=TraitConfig(),
        seed=seed,
        workers=workers,
    )


def run_folder(path: Path) -> RunFolder:
    """Return a run folder that exists."""
    path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path)


def near_of(
    caption_N: list[int],
    index_CK: list[list[int]],
    *,
    image_ND: Tensor | None = None,
    text_ND: Tensor | None = None,
) -> Neighbourhood:
    """Say what lies near what; every image is one of its own."""
    nothing = torch.zeros(len(caption_N), 2)
    index = torch.tensor(index_CK)
    return Neighbourhood(
        image_ND=nothing if image_ND is None else image_ND,
        text_ND=nothing if text_ND is None else text_ND,
        image_similarity_NK=nothing,
        image_index_NK=nothing.long(),
        caption_similarity_CK=torch.zeros(index.shape),
        caption_index_CK=index,
        caption_N=torch.tensor(caption_N),
        group_N=torch.arange(len(caption_N)),
    )
