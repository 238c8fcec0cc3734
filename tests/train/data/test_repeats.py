"""The same picture gets the same number, whoever saved it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from roclip_audit.core.shards import expand_shards
from roclip_audit.train.data import repeats
from roclip_audit.train.data.pairs import read_pairs
from roclip_audit.train.data.pictures import Canvases, Pictures, ResidentPictures, StreamedPictures
from roclip_audit.train.data.repeats import number_pictures
from tests.shardkit import make_shard, sample


def drawing(seed: int, *, form: str = "PNG", quality: int = 90) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    out = io.BytesIO()
    coarse.resize((60, 60), Image.Resampling.BICUBIC).save(out, form, quality=quality)
    return out.getvalue()


def test_copies_are_one_picture_and_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    samples = [
        sample("a", image=drawing(1)),
        *(sample(f"other-{seed}", image=drawing(seed)) for seed in range(2, 9)),
        sample("a-again", image=drawing(1)),
        sample("a-as-jpeg", image=drawing(1, form="JPEG", quality=60)),
        sample("broken", image=b"no picture"),
        sample("broken-too", image=b"nor this"),
    ]
    table = read_pairs(expand_shards([str(make_shard(tmp_path / "a.tar", samples))]))
    resident = ResidentPictures.decoded(table, 40, device=torch.device("cpu"), workers=1)
    kinds: tuple[Pictures, ...] = (StreamedPictures(table, 40), resident)
    for pictures in kinds:
        assert number_pictures(pictures, len(table)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 10, 11]


def flat_canvases(n_shades: int) -> ResidentPictures:
    """Return flat pictures of evenly spaced shades, the first one twice, all with a level of noise."""
    shade_N = np.concatenate([[0], np.arange(n_shades)]) * (250 // n_shades)
    noise = np.random.default_rng(0).integers(0, 2, (n_shades + 1, 3, 36, 36))
    pixels = torch.from_numpy((shade_N[:, None, None, None] + noise).astype(np.uint8))
    n = len(pixels)
    return ResidentPictures(
        Canvases(pixels_NCHW=pixels, aspect_N=torch.ones(n), readable_N=torch.ones(n, dtype=torch.bool))
    )


def test_flat_pictures_are_told_apart_by_their_shade_not_by_their_noise() -> None:
    assert number_pictures(flat_canvases(6), 7).tolist() == [0, 0, 2, 3, 4, 5, 6]


def test_cells_of_an_index_find_what_an_exact_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (600, 3, 9, 9), dtype=np.uint8))
    pixels[100:140] = pixels[:40]
    pictures = ResidentPictures(
        Canvases(pixels_NCHW=pixels, aspect_N=torch.ones(600), readable_N=torch.ones(600, dtype=torch.bool))
    )
    exact = number_pictures(pictures, 600)
    monkeypatch.setattr(repeats, "EXACT_UP_TO", 0)
    assert exact[100:140].tolist() == list(range(40))
    assert number_pictures(pictures, 600).tolist() == exact.tolist()


def test_few_pictures_have_numbers_too() -> None:
    assert number_pictures(flat_canvases(1), 0).tolist() == []
    assert number_pictures(flat_canvases(1), 1).tolist() == [0]


def test_more_copies_than_neighbours_are_looked_up_are_one_picture() -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (90, 3, 16, 16), dtype=np.uint8))
    pixels[20:50] = pixels[0]
    pixels[50:80] = (pixels[0].int() + 1).clamp_max(255).to(torch.uint8)
    n = len(pixels)
    pictures = ResidentPictures(
        Canvases(pixels_NCHW=pixels, aspect_N=torch.ones(n), readable_N=torch.ones(n, dtype=torch.bool))
    )
    assert set(number_pictures(pictures, n, workers=2)[20:80].tolist()) == {0}
