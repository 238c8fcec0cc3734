"""The picture of a pair: the right one, small, drawn anew, or the reason why there is none."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.pictures import CHANGED, NOT_FOUND, Picture, jpeg, locate_pictures, read_pictures, shrunk
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.run import RunFolder
from tests.audit.runkit import make_run, pairs_of, uid_of
from tests.shardkit import make_dataset, make_shard, sample

UIDS = [uid_of("00001.tar", 2), uid_of("00000.tar", 3), uid_of("00000.tar", 1)]


@pytest.fixture
def drawn_run(tmp_path: Path) -> RunFolder:
    shards = make_dataset(tmp_path / "shards", n_pairs=12, n_shards=2, seed=0)
    run = make_run(tmp_path / "audit", {path.name: pairs_of(path) for path in shards}, shard_folder=tmp_path / "shards")
    ingest(run)
    return run


def pictures(run: RunFolder, uids: list[str], edge_px: int | None = None) -> dict[str, Picture]:
    with open_readonly(run) as connection:
        places = locate_pictures(connection, uids)
    return dict(read_pictures(places, edge_px=edge_px))


def notes(run: RunFolder) -> list[str]:
    found = pictures(run, UIDS)
    return [found[uid].note for uid in UIDS]


def test_pictures_come_for_all_and_small_if_asked(drawn_run: RunFolder) -> None:
    full, small = pictures(drawn_run, UIDS), pictures(drawn_run, UIDS, edge_px=16)
    assert set(full) == set(small) == set(UIDS)
    for uid in UIDS:
        large, little = full[uid].image, small[uid].image
        assert large is not None
        assert little is not None
        assert (large.size, little.size) == ((64, 64), (16, 16))
        expected = np.asarray(large.resize((16, 16), Image.Resampling.LANCZOS), dtype=float)
        assert np.abs(np.asarray(little, dtype=float) - expected).mean() < 4


def test_remote_shards_are_read_by_range(drawn_run: RunFolder) -> None:
    local = pictures(drawn_run, UIDS)
    folder = drawn_run.root.parent / "shards"
    system = fsspec.filesystem("memory")
    manifest = drawn_run.manifest.read_text()
    for path in sorted(folder.glob("*.tar")):
        system.pipe(f"/pictures/{path.name}", path.read_bytes())
        manifest = manifest.replace(str(path), f"memory://pictures/{path.name}")
    drawn_run.manifest.write_text(manifest)
    ingest(drawn_run)
    shutil.rmtree(folder)
    remote = pictures(drawn_run, UIDS)
    for uid in UIDS:
        assert np.array_equal(np.asarray(local[uid].image), np.asarray(remote[uid].image))
    system.rm("/pictures", recursive=True)
    assert notes(drawn_run) == [NOT_FOUND] * 3


def test_a_shard_that_is_gone_or_no_file_is_said(drawn_run: RunFolder) -> None:
    path = drawn_run.root.parent / "shards" / "00000.tar"
    path.unlink()
    assert notes(drawn_run) == ["", NOT_FOUND, NOT_FOUND]
    os.mkfifo(path)
    assert notes(drawn_run) == ["", NOT_FOUND, NOT_FOUND]


def test_a_shard_that_changed_shows_no_other_picture(drawn_run: RunFolder) -> None:
    path = drawn_run.root.parent / "shards" / "00000.tar"
    content = path.read_bytes()
    path.write_bytes(content[512:] + content[:512])
    assert notes(drawn_run) == ["", CHANGED, CHANGED]
    path.write_bytes(content[:10])
    assert notes(drawn_run) == ["", CHANGED, CHANGED]


def test_a_damaged_picture_has_its_reason(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "shards" / "a.tar", [sample("a", image=b"GIF89a"), sample("b", image=b"")])
    run = make_run(tmp_path / "audit", {"a.tar": pairs_of(path)}, shard_folder=path.parent)
    ingest(run)
    found = pictures(run, [uid_of("a.tar", 0), uid_of("a.tar", 1)])
    assert [picture.note for picture in found.values()] == ["image_format", "image_undecodable"]


def test_nothing_of_the_file_passes_but_pixels() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "<script>alert(1)</script>")
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(buffer, "PNG", pnginfo=info)
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        encoded = jpeg(image.convert("RGB"), max_bytes=10_000)
    assert b"script" not in encoded
    assert Image.open(io.BytesIO(encoded)).size == (40, 30)


@pytest.mark.parametrize("max_bytes", [100_000, 20_000, 3_000])
def test_a_picture_fits_its_budget(max_bytes: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (320, 240, 3), dtype=np.uint8)
    encoded = jpeg(Image.fromarray(noise), max_bytes=max_bytes)
    assert len(encoded) <= max_bytes
    width, height = Image.open(io.BytesIO(encoded)).size
    assert width / height == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(("size", "expected"), [((1000, 1), (50, 1)), ((30, 20), (30, 20)), ((100, 200), (25, 50))])
def test_shapes_are_kept(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert shrunk(Image.new("RGB", size), 50).size == expected
