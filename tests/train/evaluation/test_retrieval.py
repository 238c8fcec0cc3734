"""Retrieval by hand and against a full sort; equal captions; draws."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from roclip_audit.core.errors import ConfigError, ShardError
from roclip_audit.core.shards import expand_shards
from roclip_audit.train.data.pairs import read_pairs
from roclip_audit.train.evaluation.proportion import Proportion
from roclip_audit.train.evaluation.retrieval import draw_pairs, retrieval
from tests.shardkit import make_dataset, make_shard, sample


def unit(rows: list[list[float]]) -> np.ndarray:
    array = np.asarray(rows, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_by_hand() -> None:
    images = unit([[1, 0], [0, 1]])
    texts = unit([[1, 0.1], [1, 0.2]])  # both pictures: nearest is 0 and 1; both texts: nearest is picture 0
    found = retrieval(images, texts, ["a", "b"])
    assert found.image_to_text == {1: Proportion.of(2, 2)}
    assert found.text_to_image == {1: Proportion.of(1, 2)}


def test_the_same_caption_is_a_hit() -> None:
    images = unit([[1, 0], [1, 0.1], [0, 1]])
    texts = unit([[0.5, 0.5], [1, 0.05], [0, 1]])
    apart = retrieval(images, texts, ["a", "b", "c"])
    same = retrieval(images, texts, ["a", "a", "c"])
    assert apart.image_to_text[1] == Proportion.of(2, 3)
    assert same.image_to_text[1] == Proportion.of(3, 3)


def test_a_model_that_tells_nothing_apart_finds_nothing() -> None:
    same = np.ones((8, 2), dtype=np.float32) / np.sqrt(2)
    found = retrieval(same, same, [str(i) for i in range(8)])
    assert found.image_to_text == {1: Proportion.of(0, 8), 5: Proportion.of(0, 8)}


def test_against_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(1500, 8)).astype(np.float32)  # more than one piece of rows
    texts = images + 1.5 * rng.normal(size=(1500, 8)).astype(np.float32)
    captions = [str(i // 2) for i in range(1500)]
    found = retrieval(images, texts, captions)
    order = np.argsort(-(images @ texts.T), axis=1)
    for k in (1, 5, 10):
        hits = sum(any(captions[j] == captions[i] for j in order[i, :k]) for i in range(1500))
        assert found.image_to_text[k].k == hits


def test_draws_depend_on_the_seed_only(tmp_path: Path) -> None:
    make_dataset(tmp_path, 40)
    first, again, other = (draw_pairs([str(tmp_path)], 10, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert len(first.captions) == len(first.pictures) == 10
    assert [p.where for p in first.pictures.pictures] != [p.where for p in other.pictures.pictures]
    everything = draw_pairs([str(tmp_path)], 5_000, seed=0)
    assert len(everything.captions) == 40
    drawn = {p.where for p in first.pictures.pictures}
    assert drawn < {p.where for p in everything.pictures.pictures}


def test_samples_without_caption_or_picture_are_left_out(tmp_path: Path) -> None:
    samples = [
        sample("a"),
        sample("b", caption=" "),
        sample("c", image_ext=None),
        sample("d", caption=None, meta={"caption": "from json"}),
    ]
    found = draw_pairs([str(make_shard(tmp_path / "a.tar", samples))], 10, seed=0)
    assert found.captions == ("a red circle", "from json")
    assert found.n_left_out == 2
    with pytest.raises(ConfigError, match="fewer than two pairs"):
        draw_pairs([str(make_shard(tmp_path / "b.tar", [sample("a")]))], 10, seed=0)


def test_captions_are_those_of_training(tmp_path: Path) -> None:
    """Also out of the parquet beside a shard, where a key that comes twice has two rows."""
    bare = [sample(key, caption=None) for key in ("a", "b", "b")]
    shard = make_shard(tmp_path / "00000.tar", [*bare, sample("c", caption="txt", meta={"alt": "of the json"})])
    rows = [{"key": key, "caption": f"row {i}", "alt": f"alt {i}"} for i, key in enumerate("abb")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    captions = {None: ("row 0", "row 1", "row 2", "txt"), "alt": ("alt 0", "alt 1", "alt 2", "of the json")}
    for key, expected in captions.items():
        assert draw_pairs([str(shard)], 10, seed=0, caption_key=key).captions == expected
        assert tuple(read_pairs(expand_shards([str(shard)]), caption_key=key).captions) == expected


def test_an_error_says_how_many_samples_were_left_out(tmp_path: Path) -> None:
    samples = [sample("a"), sample("b", image_ext=None), *(sample(f"c{i}", caption=None) for i in range(3))]
    with pytest.raises(ConfigError, match=r"fewer than two pairs.*4 samples were left out.*--caption-key"):
        draw_pairs([str(make_shard(tmp_path / "a.tar", samples))], 10, seed=0)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "cut.tar", [sample("a"), sample("b")])
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(ShardError, match=r"cut\.tar"):
        draw_pairs([str(shard)], 10, seed=0)


def test_only_local_shards_are_read(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a.tar", [sample("a"), sample("b")])
    fsspec.filesystem("memory").pipe("/retrieval/a.tar", shard.read_bytes())
    with pytest.raises(ConfigError, match="eval --retrieval reads local shards only"):
        draw_pairs(["memory://retrieval/a.tar"], 10, seed=0)
