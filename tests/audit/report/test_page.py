"""The page: whole, harmless, self-contained, within its budget, and true to the shards."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.pictures import NOT_FOUND
from roclip_audit.audit.report import page
from roclip_audit.audit.report.gallery import LARGE_BYTES
from roclip_audit.audit.report.page import SECTIONS, write_report
from roclip_audit.core.errors import ConfigError, StoreError
from roclip_audit.core.run import RunFolder
from tests.audit.runkit import HOSTILE, fake, make_run, pairs_of
from tests.shardkit import make_dataset, make_shard, sample

VOID = {"meta", "img", "br", "link", "hr"}
TEXTS = [*HOSTILE.values(), "x" * 100_000, "</style><script>alert(2)</script>", "שלום \u202eabc", '" onerror="alert(3)']


class Page(HTMLParser):
    """A page that is taken apart, where every tag has to be closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def written(run: RunFolder, **how: int) -> tuple[str, Page]:
    out = run.root.parent / "report.html"
    write_report(run, out, **how)
    text = out.read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Drawn pairs in two shards, with a campaign that has a trigger."""
    folder = tmp_path_factory.mktemp("report")
    shards = make_dataset(folder / "shards", n_pairs=16, n_shards=2, seed=0)
    campaigns = {"<b>banana</b>": [("00000.tar", 1), ("00001.tar", 2)], "empty": []}
    made = make_run(
        folder / "audit",
        {path.name: pairs_of(path) for path in shards},
        shard_folder=folder / "shards",
        campaigns=campaigns,
    )
    trigger = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(trigger).save(made.file("campaigns", "1-trigger.png"))
    path = made.root / "campaigns" / "campaigns.parquet"
    first = pl.col("campaign") == 1
    changes = {"trigger_x": 0.8, "trigger_y": 0.7, "trigger_width": 0.1, "trigger_height": 0.2}
    table = pl.read_parquet(path).with_columns(
        pl.when(first).then(pl.lit("campaigns/1-trigger.png")).otherwise(pl.col("trigger_png")).alias("trigger_png"),
        *(pl.when(first).then(value).otherwise(pl.col(name)).alias(name) for name, value in changes.items()),
    )
    table.write_parquet(path)
    ingest(made)
    return made


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Every hostile text as caption, key, url, shard and campaign."""
    folder = tmp_path_factory.mktemp("hostile")
    path = make_shard(folder / "shards" / "a.tar", [sample(f"{i}", caption="x") for i in range(len(TEXTS))])
    pairs = [
        replace(pair, caption=text, key=text[:300], url=f"https://{text[:300]}", suspicion=0.9, fdr=0.05)
        for pair, text in zip(pairs_of(path), TEXTS, strict=True)
    ]
    campaigns = {text[:5000]: [("a.tar", i)] for i, text in enumerate(TEXTS)}
    made = make_run(folder / "audit", {"a.tar": pairs}, shard_folder=path.parent, campaigns=campaigns)
    ingest(made)
    return made


def decoded(attributes: dict[str, str | None]) -> Image.Image:
    source = attributes["src"]
    assert source is not None
    return Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1])))


def test_the_page_loads_nothing_and_runs_nothing(run: RunFolder) -> None:
    text, parsed = written(run)
    assert not parsed.all("script")
    assert not parsed.all("link")
    assert not parsed.all("iframe")
    for _, attributes in parsed.tags:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
    assert all((image["src"] or "").startswith("data:image/") for image in parsed.all("img"))
    assert all((link["href"] or "").startswith("#") for link in parsed.all("a"))
    assert "url(" not in text
    assert "@import" not in text


def test_the_policy_allows_the_page_its_style_and_nothing_else(run: RunFolder) -> None:
    text, parsed = written(run)
    (policy,) = [meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv")]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_every_section_is_there_once_and_can_be_reached(run: RunFolder) -> None:
    _, parsed = written(run)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [attributes["id"] for attributes in parsed.all("section")] == [name for name, _ in SECTIONS]
    assert {(link["href"] or "")[1:] for link in parsed.all("a")} <= set(ids)
    assert all(image["alt"] for image in parsed.all("img"))


def test_the_gallery_has_the_default_order_and_the_right_pictures(run: RunFolder) -> None:
    import duckdb

    _, parsed = written(run, thumbnails=5)
    with duckdb.connect(run.database, read_only=True) as connection:
        rows = connection.sql(
            "select uid, s.caption, p.shard, p.image_offset, p.image_bytes from suspicion s join pairs p using (uid) "
            "order by risk desc, suspicion desc, uid limit 5"
        ).fetchall()
    words = parsed.words
    places = [words.index(uid[:12]) for uid, *_ in rows]
    assert places == sorted(places)
    large = [image for image in parsed.all("img") if image["alt"] == "picture of the pair"][-5:]
    for image, (_, caption, shard, offset, size) in zip(large, rows, strict=True):
        content = (run.root.parent / "shards" / shard).read_bytes()[offset : offset + size]
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=float)
        assert np.abs(np.asarray(decoded(image), dtype=float) - expected).mean() < 8
        assert caption in words


def test_a_campaign_shows_its_trigger_and_where_it_lies(run: RunFolder) -> None:
    text, parsed = written(run)
    (trigger,) = [image for image in parsed.all("img") if image["alt"] == "what the pictures have in common"]
    with Image.open(run.root / "campaigns" / "1-trigger.png") as original:
        assert np.array_equal(np.asarray(decoded(trigger)), np.asarray(original))
    assert text.count('class="mark-box"') == 2
    assert "Pairs of <b>banana</b>" in parsed.words


@pytest.mark.parametrize("name", ["../outside.png", "campaigns/none.png", "campaigns/1-trigger.png"])
def test_a_trigger_that_is_no_picture_of_the_run_is_a_note(run: RunFolder, tmp_path: Path, name: str) -> None:
    root = tmp_path / "audit"
    shutil.copytree(run.root, root)
    (root / "campaigns" / "1-trigger.png").write_bytes(b"GIF89a no picture")
    shutil.copy(run.root / "campaigns" / "1-trigger.png", tmp_path / "outside.png")
    path = root / "campaigns" / "campaigns.parquet"
    pl.read_parquet(path).with_columns(pl.lit(name).alias("trigger_png")).write_parquet(path)
    ingest(RunFolder(root))
    _, parsed = written(RunFolder(root))
    assert not [image for image in parsed.all("img") if image["alt"] == "what the pictures have in common"]
    assert ("not found" in parsed.words) == (name != "campaigns/1-trigger.png")


def test_hostile_text_is_text(hostile: RunFolder) -> None:
    text, parsed = written(hostile)
    assert not parsed.all("script")
    assert "<script" not in text
    assert "alert(1)" in parsed.words
    assert len(parsed.all("style")) == 1
    for _, attributes in parsed.tags:
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202a-\u202e\u2066-\u2069]", text)
    assert "\\u202e" in text
    assert "שלום" in text


def test_long_captions_are_cut_and_their_length_is_said(hostile: RunFolder) -> None:
    text, parsed = written(hostile)
    assert "100,000 characters in all" in parsed.words
    assert not re.search("x{400}", text)


def test_captions_turn_nothing_around_them(hostile: RunFolder) -> None:
    _, parsed = written(hostile)
    captions = [one for tag, one in parsed.tags if tag == "p" and "caption" in (one.get("class") or "").split()]
    named = [one for one in captions if "none" not in (one["class"] or "")]
    assert named
    assert all(one.get("dir") == "auto" for one in named)


def test_shards_that_are_gone_leave_a_reason(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.root, tmp_path / "audit")
    moved = run.root.parent / "moved"
    (run.root.parent / "shards").rename(moved)
    try:
        report = write_report(RunFolder(tmp_path / "audit"), tmp_path / "report.html")
    finally:
        moved.rename(run.root.parent / "shards")
    assert (report.n_pictures, report.n_absent) == (1, 16)
    assert NOT_FOUND in Page((tmp_path / "report.html").read_text()).words


def test_noise_stays_within_its_budget(tmp_path: Path) -> None:
    """The worst that an attacker can do to the size: pictures that JPEG cannot compress."""
    rng = np.random.default_rng(0)
    samples = []
    for i in range(4):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (500, 500, 3), dtype=np.uint8)).save(buffer, "PNG")
        samples.append(sample(f"{i}", caption=f"noise {i}", image=buffer.getvalue()))
    path = make_shard(tmp_path / "shards" / "a.tar", samples)
    run = make_run(tmp_path / "audit", {"a.tar": pairs_of(path)}, shard_folder=path.parent)
    ingest(run)
    written_page = write_report(run, tmp_path / "report.html")
    assert written_page.n_pictures >= 4
    assert 60 * LARGE_BYTES * 4 / 3 + 82 * page.gallery.SMALL_BYTES * 4 / 3 < 4.5e6
    _, parsed = written(run)
    assert all(len(image["src"] or "") <= LARGE_BYTES * 4 / 3 + 40 for image in parsed.all("img"))


def test_nothing_suspicious_nothing_scored_nothing_known(tmp_path: Path) -> None:
    run = make_run(tmp_path / "audit", {"a.tar": [fake("a cat", suspicion=0.0, fdr=1.0), fake(None)]}, campaigns={})
    run.manifest.write_text(run.manifest.read_text().replace('"estimate": 0.06', '"estimate": null'))
    ingest(run)
    _, parsed = written(run)
    assert "The scan could not estimate it." in parsed.words
    assert "None: no group of pairs" in parsed.words
    _, parsed = written(run, thumbnails=0)
    assert "None are shown." in parsed.words


def test_the_file_appears_whole_or_not_at_all(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        write_report(run, tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(run, tmp_path / "file" / "report.html")
    with pytest.raises(StoreError):
        write_report(RunFolder(tmp_path / "none"), tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_times_come_from_the_manifest_and_may_be_missing(run: RunFolder, tmp_path: Path) -> None:
    assert "2026-01-02 03:05 UTC" in written(run)[1].words
    shutil.copytree(run.root, tmp_path / "audit")
    (tmp_path / "audit" / "manifest.json").write_text("{")
    assert "times unknown" in written(RunFolder(tmp_path / "audit"))[1].words
