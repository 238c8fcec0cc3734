"""The sheet shows the pair's own picture and those of its rivals and neighbours, or says why not."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roclip_audit.audit import contact_sheet
from roclip_audit.audit.contact_sheet import LARGE_PX, MARGIN_PX, SHEET_PX, draw_sheet, pictures_of, write_sheet
from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.show import PairReport, show
from roclip_audit.core.errors import EXIT_UNREADABLE, ConfigError, ShardError
from roclip_audit.core.run import RunFolder
from tests.audit.runkit import HOSTILE, fake, make_run, pairs_of, uid_of
from tests.shardkit import make_dataset, make_shard, sample


def everyone(report: PairReport) -> list[str]:
    """Return the uids of all pictures on the sheet of a pair."""
    return [report.uid, *(r.uid for r in report.rivals), *(n.uid for n in report.neighbours)]


@pytest.fixture
def drawn_run(tmp_path: Path) -> RunFolder:
    """A run over two real shards of drawn pairs."""
    shards = make_dataset(tmp_path / "shards", n_pairs=12, n_shards=2, seed=0)
    run = make_run(tmp_path / "audit", {path.name: pairs_of(path) for path in shards}, shard_folder=tmp_path / "shards")
    ingest(run)
    return run


def test_the_pictures_are_the_ones_in_the_shards(drawn_run: RunFolder) -> None:
    import tarfile

    uids = [uid_of("00000.tar", 3), uid_of("00001.tar", 0)]
    found = pictures_of(drawn_run, uids)
    for uid, (shard, name) in zip(uids, (("00000.tar", "000000003"), ("00001.tar", "000010000")), strict=True):
        with tarfile.open(drawn_run.root.parent / "shards" / shard) as tar:
            member = tar.extractfile(f"{name}.png")
            assert member is not None
            expected = Image.open(io.BytesIO(member.read())).convert("RGB")
        picture = found[uid].image
        assert picture is not None
        assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_the_sheet_has_the_picture_large(drawn_run: RunFolder) -> None:
    uid = uid_of("00000.tar", 3)
    report = show(drawn_run, uid)
    sheet = draw_sheet(report, pictures_of(drawn_run, everyone(report)))
    own = pictures_of(drawn_run, [uid])[uid].image
    assert own is not None
    box = (MARGIN_PX, MARGIN_PX, MARGIN_PX + LARGE_PX, MARGIN_PX + LARGE_PX)
    shown = np.asarray(sheet.crop(box).resize(own.size, Image.Resampling.BOX), dtype=float)
    assert np.abs(shown - np.asarray(own, dtype=float)).mean() < 6
    assert sheet.width == SHEET_PX
    assert sheet.height > 1000


@pytest.mark.parametrize(
    ("name", "format"), [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.webp", "WEBP")]
)
def test_the_ending_names_the_format(drawn_run: RunFolder, name: str, format: str) -> None:
    path = drawn_run.root / name
    write_sheet(drawn_run, show(drawn_run, uid_of("00000.tar", 0)), path)
    with Image.open(path) as image:
        assert image.format == format


def test_another_ending_is_refused_before_any_work(drawn_run: RunFolder) -> None:
    shutil.rmtree(drawn_run.root.parent / "shards")
    with pytest.raises(ConfigError, match=r"written as \.png"):
        write_sheet(drawn_run, show(drawn_run, uid_of("00000.tar", 0)), Path("sheet.pdf"))


def test_shards_that_moved_away(drawn_run: RunFolder) -> None:
    shutil.rmtree(drawn_run.root.parent / "shards")
    report = show(drawn_run, uid_of("00000.tar", 0))
    with pytest.raises(ShardError, match="shard not found") as found:
        write_sheet(drawn_run, report, drawn_run.root / "sheet.png")
    assert found.value.exit_code == EXIT_UNREADABLE
    assert not (drawn_run.root / "sheet.png").exists()


def test_shards_that_changed_show_no_other_picture(drawn_run: RunFolder) -> None:
    path = drawn_run.root.parent / "shards" / "00000.tar"
    content = bytearray(path.read_bytes())
    content[2000:2010] = bytes(10)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ShardError, match="changed since the scan"):
        write_sheet(drawn_run, show(drawn_run, uid_of("00000.tar", 5)), drawn_run.root / "sheet.png")


def test_an_unreadable_picture_is_a_box_with_the_reason(tmp_path: Path) -> None:
    samples = [sample("a", caption="one"), sample("b", caption="two", image=b"no image"), sample("c", caption="three")]
    path = make_shard(tmp_path / "shards" / "a.tar", samples)
    run = make_run(tmp_path / "audit", {"a.tar": pairs_of(path)}, shard_folder=path.parent)
    ingest(run)
    picture = pictures_of(run, [uid_of("a.tar", 1)])[uid_of("a.tar", 1)]
    assert (picture.image, picture.note) == (None, "image_undecodable")
    for i in range(3):  # as the own picture, and as a neighbour's
        write_sheet(run, show(run, uid_of("a.tar", i)), tmp_path / "sheet.png")


@pytest.mark.parametrize("typeface", [True, False])
def test_hostile_captions_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typeface: bool) -> None:
    if not typeface:
        monkeypatch.setattr(contact_sheet, "_typeface", lambda: None)
        contact_sheet._font.cache_clear()
    texts = [*HOSTILE.values(), "x" * 5000, "", "á" + "\u0301" * 3000]
    path = make_shard(tmp_path / "shards" / "a.tar", [sample(f"{i}", caption="x") for i in range(len(texts))])
    pairs = [replace(pair, caption=text) for pair, text in zip(pairs_of(path), texts, strict=True)]
    run = make_run(tmp_path / "audit", {"a.tar": pairs}, shard_folder=path.parent)
    ingest(run)
    for i in range(0, len(texts), 3):
        report = show(run, uid_of("a.tar", i))
        assert draw_sheet(report, pictures_of(run, everyone(report))).width == SHEET_PX


def test_a_pair_without_an_image(tmp_path: Path) -> None:
    run = make_run(tmp_path / "audit", {"a.tar": [fake("a cat"), fake("a dog")]})
    ingest(run)
    pictures = pictures_of(run, ["0" * 32])
    assert pictures["0" * 32].note == "no image"
