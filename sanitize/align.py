"""Alignment: spaces in which a pair's image and caption can be compared by heads that never saw them.

A model trained on the data it judges has memorised every planted pair and lets it win. So the heads are cross-fitted:
trained on some folds, used on another. That removes memorising; what still passes from fold to fold is a learned
trigger, because an attack's other pairs are in the training folds. Two passes deal with that:

1. *by caption*: captions are clustered, clusters are dealt into folds, and heads never see a caption like the one they
   judge (nor a near-duplicate of the image). An attack has one target, so its captions are one cluster and its trigger
   is never learned. Sound pairs pay: their topic was not learned either.
2. *by image*: groups of near-duplicate images are dealt into folds, and the heads are trained without the pairs that
   the first pass doubts most: those whose own rank is bad and whose caption's nearest captions have bad ranks too. They
   know every topic, and nearly all of the planted pairs are gone.

A pair is judged by both. A joint encoder (open_clip) needs no heads: one space, one fold. One that is asked beside the
embedded encoder holds one more contest; heads, neighbours and everything else stay as they are.

Sources: cross-fitting, Chernozhukov et al. 2018, arXiv 1608.00060, section 2; the loss is CLIP's, Radford et al. 2021,
arXiv 2103.00020, figure 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import faiss
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.groups import connected_groups, first_of_each
from roclip_audit.core.neighbours import nearest
from roclip_audit.core.parallel import map_ordered
from roclip_audit.core.run import RunFolder
from roclip_audit.core.seeding import derive_seed, generator
from roclip_audit.sanitize.dataset import Dataset, RowArray
from roclip_audit.sanitize.features import write_reduced
from roclip_audit.sanitize.grouping import deal_folds, number_captions
from roclip_audit.sanitize.heads import Heads, HeadsConfig, train_heads, untrained_heads
from roclip_audit.sanitize.space import Space

MIN_PAIRS, MIN_PAIRS_PER_FOLD = 20, 4
MOST_STEPS_ON_ALL = 20_000
_BLOCK = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignConfig:
    """How a common space is learned.

    Attributes:
        n_folds: folds, K; every pair is judged by heads trained on the other K - 1.
        duplicate_cosine: cosine of reduced whole-view features from which two images are near-duplicates.
        feature_dim: principal components kept of the image features, R.
        cluster_size: captions per cluster, on average.
        doubted_share: share of the pairs that the second pass is not trained on.
        n_neighbours: neighbours per image and per caption that are looked up.
        heads: the heads and their training.
    """

    n_folds: int = 5
    duplicate_cosine: float = 0.98
    feature_dim: int = 384
    cluster_size: int = 100
    doubted_share: float = 0.15
    n_neighbours: int = 32
    heads: HeadsConfig = field(default_factory=HeadsConfig)

    def __post_init__(self) -> None:
        if self.n_folds < 2:
            raise ConfigError(f"folds must be at least 2, found {self.n_folds}")
        if not 0.0 < self.duplicate_cosine <= 1.0 or not 0.0 <= self.doubted_share < 1.0:
            raise ConfigError("duplicate_cosine must be in (0, 1] and doubted_share in [0, 1)")
        if min(self.feature_dim, self.cluster_size, self.n_neighbours) < 1:
            raise ConfigError("feature_dim, cluster_size and n_neighbours must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbourhood:
    """What lies near what, before any head is trained.

    Attributes:
        image_ND, text_ND: float32 unit vectors that similarity is measured with (images: the whole view).
        image_similarity_NK, image_index_NK: nearest images, near-duplicates included.
        caption_similarity_CK, caption_index_CK: nearest other captions of every distinct caption; the indices are
            numbers of distinct captions.
        caption_N: int64 [N], equal for equal captions.
        group_N: int64 [N], equal for near-duplicate images.
    """

    image_ND: Tensor
    text_ND: Tensor
    image_similarity_NK: Tensor
    image_index_NK: Tensor
    caption_similarity_CK: Tensor
    caption_index_CK: Tensor
    caption_N: Tensor
    group_N: Tensor


def reduce_images(
    dataset: Dataset, run: RunFolder, config: AlignConfig, *, joint: bool, seed: int, workers: int
) -> RowArray:
    """Return the image features that everything after works on: the encoder's own (joint), or reduced ones."""
    if joint:
        return dataset.image_NVF
    path = run.file("align", "features.npy")
    rng = generator(seed, "features")
    return RowArray.of([write_reduced(dataset.image_NVF, config.feature_dim, path, rng, workers=workers)])


def neighbourhood(dataset: Dataset, image_NVR: RowArray, config: AlignConfig, *, workers: int) -> Neighbourhood:
    """Look up the nearest images of every image and the nearest captions of every caption; group near-duplicates."""
    image_ND = functional.normalize(whole_view(image_NVR)[slice(None)][:, 0], dim=1)
    text_ND = functional.normalize(dataset.text_NG[:], dim=1)
    similarity_NK, index_NK = nearest(image_ND, image_ND, config.n_neighbours, workers=workers)
    caption_N = number_captions(dataset.captions)
    number_C, text_CD = torch.arange(int(caption_N.max()) + 1), text_ND[first_of_each(caption_N)]
    caption_similarity_CK, caption_index_CK = nearest(
        text_CD, text_CD, config.n_neighbours, query_group_N=number_C, base_group_M=number_C, workers=workers
    )
    return Neighbourhood(
        image_ND=image_ND,
        text_ND=text_ND,
        image_similarity_NK=similarity_NK,
        image_index_NK=index_NK,
        caption_similarity_CK=caption_similarity_CK,
        caption_index_CK=caption_index_CK,
        caption_N=caption_N,
        group_N=connected_groups(similarity_NK, index_NK, config.duplicate_cosine),
    )


def cluster_captions(text_ND: Tensor, n_clusters: int, seed: int) -> Tensor:
    """Cluster captions by spherical k-means (faiss); int64 [N]."""
    faiss.omp_set_num_threads(1)
    points = np.ascontiguousarray(text_ND.numpy(), dtype=np.float32)
    kmeans = faiss.Kmeans(
        points.shape[1], n_clusters, niter=15, seed=seed % 2**31, spherical=True, min_points_per_centroid=1
    )
    kmeans.train(points)
    return torch.from_numpy(kmeans.index.search(points, 1)[1][:, 0])


def caption_clusters(near: Neighbourhood, config: AlignConfig, seed: int) -> Tensor:
    """Cluster the captions, ``cluster_size`` of them on average; int64 [N]."""
    n = len(near.caption_N)
    n_clusters = min(n, max(config.n_folds, n // config.cluster_size))
    return cluster_captions(near.text_ND, n_clusters, derive_seed(seed, "clusters"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Folds:
    """How the pairs are dealt for the two passes; a control's partner must share both folds.

    Attributes:
        by_caption_N: int64 [N], folds of caption clusters.
        by_image_N: int64 [N], folds of near-duplicate groups.
        cluster_N: int64 [N], caption clusters.
    """

    by_caption_N: Tensor
    by_image_N: Tensor
    cluster_N: Tensor

    @property
    def stratum(self) -> Tensor:
        """Number of the two folds together: int64 [N]."""
        return self.by_caption_N * (int(self.by_image_N.max()) + 1) + self.by_image_N


def deal(near: Neighbourhood, config: AlignConfig, seed: int) -> Folds:
    """Deal the folds of both passes.

    Raises:
        ConfigError: too few pairs to learn a space from, or for so many folds.
    """
    n = len(near.caption_N)
    if n < MIN_PAIRS:
        raise ConfigError(
            f"only {n} scored pairs: a space cannot be learned from fewer than {MIN_PAIRS}; "
            "scan more shards at once, or use --encoder with an open_clip model"
        )
    if n < MIN_PAIRS_PER_FOLD * config.n_folds:
        raise ConfigError(
            f"{n} scored pairs are too few for {config.n_folds} folds; use --folds {n // MIN_PAIRS_PER_FOLD}"
        )
    cluster_N = caption_clusters(near, config, seed)
    return Folds(
        by_caption_N=deal_folds(cluster_N, config.n_folds, generator(seed, "folds", "caption")),
        by_image_N=deal_folds(near.group_N, config.n_folds, generator(seed, "folds", "image")),
        cluster_N=cluster_N,
    )


def fit_space(
    name: str,
    dataset: Dataset,
    image_NVR: RowArray,
    near: Neighbourhood,
    fold_N: Tensor,
    run: RunFolder,
    config: AlignConfig,
    *,
    trusted_N: Tensor,
    seed: int,
    workers: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Space:
    """Train the heads of every fold and put every pair into the space of its own fold's heads.

    Heads of a fold see no pair of the fold and no near-duplicate image of one. Folds are trained side by side, each on
    one thread, so the result does not depend on the number of workers. Writes the vectors (memory-mapped) and the heads
    to the run folder.

    Args:
        name: of the space; also of its files.
        dataset: the captions' features.
        image_NVR: the images' features.
        near: captions and groups.
        fold_N: int64 [N].
        run: the run folder.
        config: see AlignConfig.
        trusted_N: bool [N], the pairs that may be trained on.
        seed: of the run.
        workers: folds trained at the same time.
        advance: called with 1 after every fold.
    """
    shape = (len(dataset), image_NVR.row_shape[0], config.heads.dim)
    image_NVD = _blank(run, f"{name}.image.npy", shape)
    text_ND = _blank(run, f"{name}.text.npy", (shape[0], shape[2]))

    def train(fold: int) -> Heads:
        touched = torch.zeros(int(near.group_N.max()) + 1, dtype=torch.bool)
        touched[near.group_N[fold_N == fold]] = True
        rows = torch.nonzero(trusted_N & (fold_N != fold) & ~touched[near.group_N])[:, 0]
        fold_seed = derive_seed(seed, "heads", name, fold)
        if len(rows) < 2:  # everything is one big group: nothing may be seen, so nothing is learned
            return untrained_heads(image_NVR, dataset.text_NG, len(dataset), config.heads, fold_seed)
        return train_heads(image_NVR, dataset.text_NG, near.caption_N, rows, config.heads, fold_seed)

    for fold, heads in enumerate(map_ordered(train, range(config.n_folds), workers=workers)):
        save_file(heads.state_dict(), run.file("align", f"{name}-{fold}.safetensors"))
        for rows in torch.nonzero(fold_N == fold)[:, 0].split(_BLOCK):
            image_NVD[rows] = heads.image(image_NVR[rows])
            text_ND[rows] = heads.text(dataset.text_NG[rows])
        advance(1)
    return Space(name=name, image_NVD=image_NVD, text_ND=text_ND, fold_N=fold_N)


def whole_view(image_NVR: RowArray) -> RowArray:
    """Return the whole view alone, rows of [1, R]; the others are not read."""
    return RowArray.of([part[:, :1] for part in image_NVR.parts])


def train_on_all(image_NVR: RowArray, text_NG: RowArray, caption_N: Tensor, config: HeadsConfig, seed: int) -> Heads:
    """Train heads on the whole view of all pairs, each as often; beyond ten million pairs on as many of them.

    Heads that saw a pair say nothing about whether it belongs together, only how hard it was to learn: of pairs seen as
    often, those that belong together come first, and noise, which nothing repeats, last (small loss; Han et al. 2018,
    arXiv 1804.06872).
    """
    config = replace(config, max_steps=max(config.max_steps, MOST_STEPS_ON_ALL))
    return train_heads(whole_view(image_NVR), text_NG, caption_N, torch.arange(len(caption_N)), config, seed)


def own_cosines(heads: Heads, image_NVR: RowArray, text_NG: RowArray) -> Tensor:
    """Return the cosine of every image's whole view and its own caption in the space of some heads: float32 [N]."""
    whole_N1R, blocks = whole_view(image_NVR), torch.arange(len(image_NVR)).split(_BLOCK)
    return torch.cat([(heads.image(whole_N1R[at][:, 0]) * heads.text(text_NG[at])).sum(1) for at in blocks])


def joint_space(name: str, image_NVF: RowArray, text_NG: RowArray, run: RunFolder) -> Space:
    """Return the space of a joint encoder: its embeddings, at unit length, one fold."""
    shape = (len(image_NVF), *image_NVF.row_shape)
    image_NVD = _blank(run, f"{name}.image.npy", shape)
    text_ND = _blank(run, f"{name}.text.npy", (shape[0], shape[2]))
    for at in range(0, shape[0], _BLOCK):
        rows = slice(at, at + _BLOCK)
        image_NVD[rows] = functional.normalize(image_NVF[rows], dim=-1)
        text_ND[rows] = functional.normalize(text_NG[rows], dim=-1)
    return Space(name=name, image_NVD=image_NVD, text_ND=text_ND, fold_N=torch.zeros(shape[0], dtype=torch.int64))


def _blank(run: RunFolder, name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a float32 tensor that lives in a file."""
    if not np.prod(shape):
        return torch.zeros(shape)
    path = run.file("align", name)
    return torch.from_numpy(np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape))
