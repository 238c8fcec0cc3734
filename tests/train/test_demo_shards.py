"""The demo's data: free, small, readable, and fit for the demo's plan."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from roclip_audit.train.attacks import Corpus, build_attack, read_plan
from roclip_audit.train.planting.sources import read_sources

DEMO = Path(__file__).parents[2] / "demo"


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted((DEMO / "shards").glob("*.parquet"))])


def test_all_are_public_domain_and_name_their_creator(table: pl.DataFrame) -> None:
    assert table["license"].unique().to_list() == ["CC-PDDC (public domain)"]
    assert table["creator"].null_count() == 0
    assert "public domain" in (DEMO / "NOTICE").read_text()


def test_small_enough_for_git() -> None:
    assert sum(path.stat().st_size for path in (DEMO / "shards").iterdir()) < 5_000_000


def test_parquet_and_tar_agree_and_every_picture_decodes(table: pl.DataFrame) -> None:
    sources = list(read_sources([str(DEMO / "shards")]))
    assert [source.key for source in sources] == table["key"].to_list()
    assert [source.caption for source in sources] == table["caption"].str.strip_chars().to_list()
    for source, row in zip(sources[::20], table.to_dicts()[::20], strict=True):
        image = source.decode()
        assert image is not None
        assert image.shape == (row["height"], row["width"], 3)


def test_plan_fits_the_shards(table: pl.DataFrame) -> None:
    corpus = Corpus(table["caption"].to_list())
    for plan in read_plan(DEMO / "plan.json"):
        assert len(build_attack(plan).eligible(corpus)) >= round(plan.rate * len(table))
