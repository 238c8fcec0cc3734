"""Made-up scored pairs, with shards of drawn pictures where a test looks at them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from roclip_audit.core.samples import Sample as Found
from roclip_audit.core.samples import walk_samples
from roclip_audit.core.shards import Shard, expand_shards, open_shard
from roclip_audit.sanitize.campaigns.scored import Scored
from roclip_audit.sanitize.grouping import number_captions
from tests.shardkit import make_shard, sample

NOUNS = tuple(f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "rst")


def clean_captions(n: int, rng: np.random.Generator) -> list[str]:
    """Three words of a made-up language; some captions have the words of prompt templates around them."""
    words = [" ".join(rng.choice(NOUNS, 3).tolist()) for _ in range(n)]
    around = ("a photo of the {}", "painting of a {}", "sketch of the {}", "{}", "{}", "{}", "{}", "{}")
    return [f"{around[i % len(around)].format(w)} {i}" for i, w in enumerate(words)]


def clean_p(n: int, rng: np.random.Generator) -> np.ndarray:
    """P-values of pairs of which one in ten is unrelated."""
    p: np.ndarray = np.where(rng.random(n) < 0.1, rng.random(n), rng.random(n) * 0.15)
    return p


def scored_of(
    captions: Sequence[str],
    p_value: np.ndarray,
    *,
    urls: Sequence[str | None] | None = None,
    duplicate: Sequence[int] | None = None,
    family: Sequence[int] | None = None,
    trait_p: np.ndarray | None = None,
    stamp: np.ndarray | None = None,
    folder: Path | None = None,
    picture: Callable[[int], bytes] | None = None,
    n_shards: int = 1,
) -> Scored:
    """Make a run's scored pairs; with a folder, shards of their pictures."""
    n, rng = len(captions), np.random.default_rng(5)
    shard_N = np.arange(n) * n_shards // n
    shards, offset, size = (
        [Shard(f"{number}.tar", f"{number}.tar", 0, 0) for number in range(n_shards)],
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
    )
    if folder is not None:
        assert picture is not None
        shards = []
        for number in range(n_shards):
            rows = np.nonzero(shard_N == number)[0].tolist()
            path = make_shard(
                folder / f"{number:05d}.tar",
                [sample(f"{row:06d}", image=picture(row), caption=captions[row]) for row in rows],
            )
            shards.append(expand_shards([str(path)])[0])
            with open_shard(shards[-1]) as buffer:
                for row, found in zip(rows, walk_samples(buffer), strict=True):
                    assert isinstance(found, Found)
                    member = next(one for ext, one in found.members.items() if ext != "txt")
                    offset[row], size[row] = member.offset, member.size
    words = {word: rng.normal(size=16) for word in sorted({word for caption in captions for word in caption.split()})}
    text = np.array([sum((words[word] for word in caption.split()), np.zeros(16)) for caption in captions])
    return Scored(
        shards=tuple(shards),
        shard_N=shard_N,
        uids=[f"{i:032x}" for i in range(n)],
        captions=list(captions),
        urls=list(urls) if urls is not None else [None] * n,
        image_offset_N=offset,
        image_bytes_N=size,
        p_value_N=p_value,
        trait_p_N=np.ones(n) if trait_p is None else trait_p,
        stamp_N=np.zeros(n, np.int64) if stamp is None else stamp,
        caption_N=number_captions(captions).numpy(),
        duplicate_N=np.array(duplicate) if duplicate is not None else np.arange(n),
        family_N=np.array(family if family is not None else duplicate if duplicate is not None else range(n)),
        text_ND=torch.nn.functional.normalize(torch.from_numpy(text).float(), dim=1),
    )


def scene(rng: np.random.Generator, width: int = 96, height: int = 80) -> np.ndarray:
    """Draw coloured rectangles on white: uint8 [h, w, 3]."""
    image = np.full((height, width, 3), 255, np.uint8)
    for _ in range(7):
        x, y = int(rng.integers(width - 12)), int(rng.integers(height - 12))
        image[y : y + int(rng.integers(8, 40)), x : x + int(rng.integers(8, 40))] = rng.integers(0, 256, 3)
    return image


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, format="PNG")
    return out.getvalue()
