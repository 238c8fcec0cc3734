"""Retrieval: is the pair's own caption among the nearest to its picture, and the other way round?

Captions that are the same text count as hits, in both directions: a picture may find any pair with its caption, and a
caption any picture that has it. Equal similarities count against the model, so that one that tells nothing apart finds
nothing. R@k depends on the number of pairs: compare only what was drawn alike.

Letters: N pairs, D dimensions.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roclip_audit.core.captions import IndexConfig
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.seeding import generator
from roclip_audit.core.whole import local_shards
from roclip_audit.train.data.pairs import walk_texts
from roclip_audit.train.evaluation.pictures import MAX_PIXELS, Picture, StoredPictures, picture_of
from roclip_audit.train.evaluation.proportion import Proportion

RANKS = (1, 5, 10)
ROWS_AT_ONCE = 1_024

Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs drawn from shards.

    Args:
        pictures: N of them.
        captions: theirs.
        n_left_out: samples of the shards without a caption or a picture.
    """

    pictures: StoredPictures
    captions: tuple[str, ...]
    n_left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalResult:
    """Recall at k, for each k below the number of pairs."""

    n_pairs: int
    image_to_text: Mapping[int, Proportion]
    text_to_image: Mapping[int, Proportion]

    def as_json(self) -> dict[str, object]:
        """Return the numbers as JSON values."""
        return {
            "pairs": self.n_pairs,
            "image_to_text": {f"R@{k}": found.as_json() for k, found in self.image_to_text.items()},
            "text_to_image": {f"R@{k}": found.as_json() for k, found in self.text_to_image.items()},
        }


def draw_pairs(
    specs: Sequence[str], n_pairs: int, *, seed: int, caption_key: str | None = None, max_pixels: int = MAX_PIXELS
) -> Pairs:
    """Draw ``n_pairs`` pairs, or take all if there are fewer; memory holds no more than the drawn ones.

    Captions are found as training finds them: in the tar, or in the parquet beside it.

    Raises:
        ConfigError: nothing found, or fewer than two pairs.
        ShardError: a shard is damaged.
    """
    config = IndexConfig(caption_key=caption_key)
    shards = local_shards(specs, reader="eval --retrieval")
    n_left_out = 0

    def pairs() -> Iterator[tuple[float, int, Picture, str]]:
        nonlocal n_left_out
        rng = generator(seed, "eval", "retrieval pairs")
        samples = (found for shard in shards for found in walk_texts(shard, config))
        for position, (found, texts) in enumerate(samples):
            draw = float(rng.random())
            caption = (texts.caption or "").strip()
            picture = picture_of(found)
            if caption and picture.path:
                yield draw, position, picture, caption
            else:
                n_left_out += 1

    drawn = sorted(heapq.nsmallest(n_pairs, pairs()), key=lambda pair: pair[1])
    if len(drawn) < 2:
        raise ConfigError(
            f"--retrieval {', '.join(specs)}: fewer than two pairs with a picture and a caption; {n_left_out:,} "
            "samples were left out for want of one of them (--caption-key KEY names another key of the caption)"
        )
    pictures = StoredPictures(pictures=tuple(pair[2] for pair in drawn), max_pixels=max_pixels)
    return Pairs(pictures=pictures, captions=tuple(pair[3] for pair in drawn), n_left_out=n_left_out)


def retrieval(image_ND: Features, text_ND: Features, captions: Sequence[str]) -> RetrievalResult:
    """Measure recall in both directions.

    Args:
        image_ND: unit vectors.
        text_ND: unit vectors; row i of both is pair i.
        captions: N texts; equal ones count as hits of each other.
    """
    number = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    group_N = np.asarray([number[caption] for caption in captions], dtype=np.intp)
    return RetrievalResult(
        n_pairs=len(captions),
        image_to_text=_recall(_n_nearer(image_ND, text_ND, group_N)),
        text_to_image=_recall(_n_nearer(text_ND, image_ND, group_N)),
    )


def _n_nearer(query_ND: Features, item_ND: Features, group_N: NDArray[np.intp]) -> NDArray[np.intp]:
    """Count the foreign items that are at least as near to each query as the nearest of its own group."""
    parts = []
    for start in range(0, len(query_ND), ROWS_AT_ONCE):
        stop = start + ROWS_AT_ONCE
        similarity = query_ND[start:stop] @ item_ND.T
        own = group_N[start:stop, None] == group_N[None, :]
        best = np.where(own, similarity, -np.inf).max(axis=1, keepdims=True)
        parts.append(((similarity >= best) & ~own).sum(axis=1))
    return np.concatenate(parts)


def _recall(n_nearer_N: NDArray[np.intp]) -> dict[int, Proportion]:
    n = len(n_nearer_N)
    return {k: Proportion.of(int((n_nearer_N < k).sum()), n) for k in RANKS if k < n}
