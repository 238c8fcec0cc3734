"""Pictures of a batch: streamed and kept are the same."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from roclip_audit.core.errors import ShardError
from roclip_audit.core.shards import expand_shards
from roclip_audit.train.data.pairs import PairTable, read_pairs
from roclip_audit.train.data.pictures import ResidentPictures, StreamedPictures, to_canvas
from tests.shardkit import draw_samples, make_shard, sample

CPU = torch.device("cpu")


def encoded(width: int, height: int, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode).save(
        out, "PNG"
    )
    return out.getvalue()


@pytest.fixture
def table(tmp_path: Path) -> PairTable:
    samples = [
        *draw_samples(3, px=40),
        sample("broken", image=encoded(30, 30)[:200]),
        sample("wide", image=encoded(60, 20)),
        sample("none", image=b"not a picture"),
    ]
    return read_pairs(expand_shards([str(make_shard(tmp_path / "a.tar", samples))]))


@pytest.mark.parametrize("workers", [1, 3])
def test_kept_pictures_are_the_streamed_ones(table: PairTable, workers: int) -> None:
    streamed = StreamedPictures(table, 24)
    kept = ResidentPictures.decoded(table, 24, device=CPU, workers=workers)
    pairs = np.array([4, 0, 3, 5, 0])
    one, other = streamed.load(pairs), kept.load(pairs)
    assert torch.equal(one.pixels_NCHW, other.pixels_NCHW)
    assert torch.equal(one.aspect_N, other.aspect_N)
    assert one.readable_N.tolist() == other.readable_N.tolist() == [True, True, False, False, True]
    assert one.aspect_N[0] == 3.0
    assert not one.pixels_NCHW[2].any()
    assert not kept.all_readable
    streamed.close()


def test_a_canvas_is_the_whole_picture_squashed() -> None:
    data = encoded(50, 20)
    found = to_canvas(data, 16)
    assert found is not None
    pixels, aspect = found
    expected = Image.open(io.BytesIO(data)).resize((16, 16), Image.Resampling.BICUBIC, reducing_gap=2.0)
    assert aspect == 2.5
    assert np.array_equal(pixels, np.asarray(expected))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_every_mode_becomes_three_channels(mode: str) -> None:
    found = to_canvas(encoded(16, 16, mode), 16)
    assert found is not None
    assert found[0].shape == (16, 16, 3)
    assert found[0].dtype == np.uint8


def test_a_very_long_picture_is_cut_to_its_middle() -> None:
    picture = np.zeros((4, 400, 3), dtype=np.uint8)
    picture[:, 168:232] = 255
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    found = to_canvas(out.getvalue(), 8)
    assert found is not None
    assert found[1] == 16.0
    assert found[0].min() == 255


def test_a_decode_that_fails_leaves_no_shard_open(table: PairTable) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    Path(table.shards[0].path).write_bytes(b"changed")
    with pytest.raises(ShardError):
        ResidentPictures.decoded(table, 24, device=CPU, workers=1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
