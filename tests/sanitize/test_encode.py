"""The encode stage: aligned files, problems with reasons, the same bytes for any number of workers."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from roclip_audit.core.errors import ConfigError, EncoderError, ShardError
from roclip_audit.core.images import decode_image, dhash
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import PROBLEMS
from roclip_audit.core.shards import Shard, expand_shards
from roclip_audit.sanitize.detail import Canvas, Detail
from roclip_audit.sanitize.encode import ENCODED, EncodeConfig, encode_shard
from roclip_audit.sanitize.encoders import Encoder, build_encoder
from roclip_audit.sanitize.encoders.embedded import SHRINK_PX
from roclip_audit.sanitize.grain import grain
from roclip_audit.sanitize.index import IndexConfig, index_shard
from tests.encoderkit import pictures, save_tiny_clip
from tests.shardkit import Sample, draw, draw_samples, make_shard, sample


@dataclass
class MeanColour:
    """A small encoder written for tests: mean colours of the image and its left half; character counts of captions."""

    name: str = "mean colour"
    fingerprint: str = "0"
    views: tuple[str, ...] = ("whole", "left")
    joint: bool = False
    shrink_px: int | None = None
    image_dim: int = 3
    text_dim: int = 2
    image_batches: list[int] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)

    def prepare_image(self, image: Image.Image, seed: int) -> np.ndarray:
        pixels = np.asarray(image.resize((8, 8)), dtype=np.float32)
        return np.stack([pixels.mean((0, 1)), pixels[:, :4].mean((0, 1))])

    def embed_images(self, batch: np.ndarray) -> np.ndarray:
        self.image_batches.append(len(batch))
        return batch

    def embed_texts(self, captions: Sequence[str]) -> np.ndarray:
        self.texts.append(list(captions))
        return np.array([[len(caption), caption.count("e")] for caption in captions], dtype=np.float32)


@dataclass(frozen=True)
class Encoded:
    """The files of one encoded shard."""

    images: np.ndarray
    texts: np.ndarray
    grain: np.ndarray
    detail: np.ndarray
    rows: list[dict[str, Any]]
    problems: list[dict[str, Any]]
    stats: dict[str, int]
    bytes: dict[str, bytes]


def indexed(path: Path, root: Path) -> tuple[Shard, RunFolder]:
    run = RunFolder(root)
    (shard,) = expand_shards([str(path)])
    index_shard(shard, run, IndexConfig())
    return shard, run


def encode(path: Path, root: Path, encoder: Encoder, *, workers: int = 2, **settings: Any) -> Encoded:
    advance = settings.pop("advance", None)
    shard, run = indexed(path, root)
    config, detail = EncodeConfig(**settings), Detail.load()
    stats = encode_shard(shard, run, encoder, config, detail=detail, workers=workers, advance=advance)
    files = {
        "images": run.file("embeddings", f"{shard.id}.image.npy"),
        "texts": run.file("embeddings", f"{shard.id}.text.npy"),
        "grain": run.file("embeddings", f"{shard.id}.grain.npy"),
        "detail": run.file("embeddings", f"{shard.id}.detail.npy"),
        "rows": run.file("embeddings", f"{shard.id}.parquet"),
        "problems": run.file("problems/encode", f"{shard.id}.parquet"),
    }
    return Encoded(
        images=np.load(files["images"]),
        texts=np.load(files["texts"]),
        grain=np.load(files["grain"]),
        detail=np.load(files["detail"]),
        rows=pq.read_table(files["rows"]).to_pylist(),
        problems=pq.read_table(files["problems"]).to_pylist(),
        stats=stats,
        bytes={name: file.read_bytes() for name, file in files.items()},
    )


@pytest.fixture
def run_encode(tmp_path: Path) -> Callable[..., Encoded]:
    def run(samples: Sequence[Sample], encoder: Encoder | None = None, **settings: Any) -> Encoded:
        return encode(make_shard(tmp_path / "x.tar", samples), tmp_path / "run", encoder or MeanColour(), **settings)

    return run


def test_rows_are_aligned_with_the_pairs(run_encode: Callable[..., Encoded]) -> None:
    samples = draw_samples(23, image_ext="png")
    encoded = run_encode(samples, batch_size=5)
    encoder = MeanColour()
    for number, one in enumerate(samples):
        image = decode_image(one.members["png"], 10**6)
        assert np.allclose(encoded.images[number], encoder.prepare_image(image, 0), atol=0.2)
        assert encoded.texts[number].tolist() == encoder.embed_texts([one.members["txt"].decode()])[0].tolist()
        row = {"ordinal": number, "width": 64, "height": 64, "dhash": dhash(image), "scored": True}
        assert encoded.rows[number] == row
    assert (encoded.images.dtype, encoded.images.shape, encoded.texts.shape) == (np.float16, (23, 2, 3), (23, 2))
    assert encoded.stats == {"n_pairs": 23, "n_scored": 23, "n_problems": 0}
    assert encoded.problems == []


def test_what_views_leave_to_chance_follows_the_seed_and_the_bytes_of_the_image(
    run_encode: Callable[..., Encoded],
) -> None:
    class Noting(MeanColour):
        def prepare_image(self, image: Image.Image, seed: int) -> np.ndarray:
            seeds.append(seed)
            return super().prepare_image(image, seed)

    seeds: list[int] = []
    first, second = draw_samples(2)
    copy = sample("copy", image=first.members["png"])
    run_encode([first, second, copy], Noting(), seed=1)
    run_encode([second, first], Noting(), seed=1)
    run_encode([first], Noting(), seed=2)
    a, b, again, b_moved, a_moved, other = seeds
    assert a == again == a_moved
    assert b == b_moved
    assert len({a, b, other}) == 3


def png(**options: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", options.pop("size", (20, 10)), "red").save(out, "PNG", **options)
    return out.getvalue()


def test_each_bad_image_is_a_row_with_its_reason_and_the_rest_stays_aligned(run_encode: Callable[..., Encoded]) -> None:
    good = draw_samples(2)
    animated = png(save_all=True, append_images=[Image.new("RGB", (20, 10), "blue")])
    samples = [
        good[0],
        sample("junk", image=b"not an image"),
        sample("cut", image=png(size=(300, 300))[:150]),
        sample("giant", image=png(size=(2000, 600))),
        sample("no-caption", caption=None),
        sample("no-image", image_ext=None),
        sample("moving", image=animated, caption="frames"),
        sample("gif", image=b"GIF89a" + bytes(30), image_ext="jpg"),
        sample("belied", image=png(), image_ext="webp", caption="odd"),
        good[1],
    ]
    encoded = run_encode(samples, max_pixels=1_000_000, batch_size=3)
    found = {(row["key"], row["ordinal"], row["reason"], row["fatal"]) for row in encoded.problems}
    assert found == {
        ("junk", 1, "image_undecodable", True),
        ("cut", 2, "image_truncated", True),
        ("giant", 3, "image_too_large", True),
        ("moving", 6, "image_animated", False),
        ("gif", 7, "image_format", True),
        ("belied", 8, "image_format", False),
    }
    assert {row["stage"] for row in encoded.problems} == {"encode"}
    assert {row["shard"] for row in encoded.problems} == {"x.tar"}
    assert [row["ordinal"] for row in encoded.rows if row["scored"]] == [0, 6, 8, 9]
    assert [row["width"] for row in encoded.rows] == [64, None, None, None, None, None, 20, None, 20, 64]
    captions = [good[0].members["txt"].decode(), "frames", "odd", good[1].members["txt"].decode()]
    assert encoded.texts[:, 0].tolist() == list(map(len, captions))
    assert encoded.images[1, 0].tolist() == [255, 0, 0]
    assert encoded.stats == {"n_pairs": 10, "n_scored": 4, "n_problems": 6}


def test_grain_and_detail_are_those_of_the_scored_pairs_in_order(run_encode: Callable[..., Encoded]) -> None:
    """An unreadable image between readable ones moves nothing."""
    drawn = [
        draw("circle", colour, rng=np.random.default_rng(n)) for n, colour in enumerate(("red", "blue", "green", "red"))
    ]
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in drawn]
    samples = [sample(str(n), image=data) for n, data in enumerate(drawn)]
    encoded = run_encode([*samples[:2], sample("junk", image=b"junk"), *samples[2:]], batch_size=2)
    assert np.array_equal(encoded.grain, np.stack([grain(image) for image in images]))
    looked = Detail.load().look([Canvas.of(image) for image in images])
    assert np.abs(encoded.detail.astype(int) - looked).max() <= 1


@pytest.mark.parametrize(("shrink_px", "seen"), [(None, (1000, 640)), (SHRINK_PX, (384, 246))])
def test_a_large_image_is_shrunk_once_for_an_encoder_that_would_do_it(
    tmp_path: Path, shrink_px: int | None, seen: tuple[int, int]
) -> None:
    sizes = []

    class Sizes(MeanColour):
        def prepare_image(self, image: Image.Image, seed: int) -> np.ndarray:
            sizes.append(image.size)
            return super().prepare_image(image, seed)

    large = pictures(1)[0].resize((1000, 640))
    buffer = io.BytesIO()
    large.save(buffer, "PNG")
    encoded = encode(
        make_shard(tmp_path / "x.tar", [sample("a", image=buffer.getvalue())]), tmp_path, Sizes(shrink_px=shrink_px)
    )
    assert sizes == [seen]
    assert np.array_equal(encoded.grain[0], grain(large))
    assert np.array_equal(encoded.detail, Detail.load().look([Canvas.of(large)]))


def test_columns_are_those_of_the_schema(tmp_path: Path) -> None:
    shard, run = indexed(make_shard(tmp_path / "x.tar", draw_samples(2)), tmp_path / "run")
    encode_shard(shard, run, MeanColour(), EncodeConfig(), detail=Detail.load(), workers=1)
    rows = pq.read_schema(run.file("embeddings", f"{shard.id}.parquet"))
    problems = pq.read_schema(run.file("problems/encode", f"{shard.id}.parquet"))
    assert rows.names == [column.name for column in ENCODED] == ["ordinal", "width", "height", "dhash", "scored"]
    assert problems.names == [column.name for column in PROBLEMS]


@pytest.mark.parametrize("samples", [[], [sample("a", image=b"junk"), sample("b", caption=None)]])
def test_a_shard_with_nothing_to_score_gives_empty_files(
    run_encode: Callable[..., Encoded], samples: list[Sample]
) -> None:
    encoded = run_encode(samples)
    assert (encoded.images.shape, encoded.texts.shape) == ((0, 2, 3), (0, 2))
    assert len(encoded.rows) == len(samples)


def test_a_repeated_caption_is_embedded_once_and_batches_are_of_like_length(run_encode: Callable[..., Encoded]) -> None:
    captions = ["bee", "a much longer caption here", "bee", "ant", "a longer caption", "bee", "wasp", "ant", "fly"]
    encoder = MeanColour()
    encoded = run_encode([sample(str(n), caption=text) for n, text in enumerate(captions)], encoder, batch_size=4)
    batches = sorted(encoder.texts, key=lambda batch: len(batch[0]))
    assert batches == [["bee", "fly"], ["a much longer caption here", "a longer caption", "wasp", "ant"]]
    assert encoded.texts[:, 0].tolist() == list(map(len, captions))


def test_no_batch_is_larger_than_asked(run_encode: Callable[..., Encoded]) -> None:
    encoder = MeanColour()
    run_encode(draw_samples(22), encoder, batch_size=8, workers=3)
    assert sorted(encoder.image_batches) == [6, 8, 8]


def test_progress_counts_every_pair_once(run_encode: Callable[..., Encoded]) -> None:
    calls: list[tuple[int, int]] = []
    samples = [*draw_samples(9), sample("junk", image=b"junk"), sample("silent", caption=None)]
    run_encode(samples, batch_size=4, advance=lambda n, n_errors: calls.append((n, n_errors)))
    assert calls == [(4, 0), (4, 0), (2, 1)]


@pytest.mark.parametrize("kind", ["fake", "model"])
def test_the_number_of_workers_changes_no_byte(tmp_path: Path, kind: str) -> None:
    samples = [*draw_samples(50, px=32), sample("junk", image=b"junk"), *draw_samples(9, first=90)]
    path = make_shard(tmp_path / "x.tar", samples)
    folder = save_tiny_clip(tmp_path / "clip")
    encoder = MeanColour() if kind == "fake" else build_encoder(f"local-dir:{folder}")
    files = [
        encode(path, tmp_path / f"run{workers}", encoder, workers=workers, batch_size=7).bytes for workers in (1, 2, 3)
    ]
    assert files[0] == files[1] == files[2]


def test_two_encoders_leave_what_each_leaves_alone(tmp_path: Path) -> None:
    samples = [*draw_samples(20, px=32), sample("junk", image=b"junk")]
    path = make_shard(tmp_path / "x.tar", samples)
    beside = build_encoder(f"local-dir:{save_tiny_clip(tmp_path / 'clip')}")
    alone = [encode(path, tmp_path / name, one).bytes for name, one in (("a", MeanColour()), ("b", beside))]
    shard, run = indexed(path, tmp_path / "both")
    encode_shard(shard, run, MeanColour(), EncodeConfig(), detail=Detail.load(), workers=2, beside=beside)
    for name, part, of in (("image", "images", 0), ("text", "texts", 0), ("beside-image", "images", 1)):
        assert run.file("embeddings", f"{shard.id}.{name}.npy").read_bytes() == alone[of][part]
    assert run.file("embeddings", f"{shard.id}.beside-text.npy").read_bytes() == alone[1]["texts"]


def test_a_large_member_is_not_read(run_encode: Callable[..., Encoded]) -> None:
    samples = [sample("a", image=png() + bytes(5000)), sample("b", image=png())]
    encoded = run_encode(samples, max_image_bytes=2000)
    assert [(row["key"], row["reason"]) for row in encoded.problems] == [("a", "image_too_large")]


class Broken(MeanColour):
    """Puts out a value that float16 cannot hold."""

    def embed_images(self, batch: np.ndarray) -> np.ndarray:
        return batch * 1e6


def test_values_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    shard, run = indexed(make_shard(tmp_path / "x.tar", draw_samples(2)), tmp_path / "run")
    with pytest.raises(EncoderError, match="not finite"):
        encode_shard(shard, run, Broken(), EncodeConfig(), detail=Detail.load(), workers=1)
    assert not list((tmp_path / "run" / "embeddings").iterdir())


def test_a_shard_that_changed_since_it_was_indexed_is_an_error(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "x.tar", draw_samples(40))
    shard, run = indexed(path, tmp_path / "run")
    make_shard(path, draw_samples(1))
    with pytest.raises(ShardError, match=r"x\.tar"):
        encode_shard(shard, run, MeanColour(), EncodeConfig(), detail=Detail.load(), workers=1)
    with pytest.raises(ShardError, match="shorter than when it was indexed"):
        encode_shard(expand_shards([str(path)])[0], run, MeanColour(), EncodeConfig(), detail=Detail.load(), workers=1)


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"max_pixels": 0}, {"max_image_bytes": -1}])
def test_settings_that_cannot_work_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        EncodeConfig(**settings)
