"""What img2dataset's parquet says about URLs, also where somebody else wrote it or it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from roclip_audit.core.fetched import FETCH_REASONS
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import REJECTED
from roclip_audit.core.shards import expand_shards
from roclip_audit.core.tables import table_writer
from roclip_audit.sanitize.fetched import write_rejected
from roclip_audit.sanitize.index import IndexConfig, index_shard
from tests.shardkit import make_shard, sample


def index(tmp_path: Path, rows: list[dict[str, Any]] | pa.Table | None) -> list[dict[str, Any]]:
    """Index a shard with samples a, b, a beside these rows; return what is known of the fetching."""
    path = make_shard(tmp_path / "data" / "x.tar", [sample(key) for key in ("a", "b", "a")])
    if rows is not None:
        table = pa.Table.from_pylist(rows) if isinstance(rows, list) else rows
        pq.write_table(table, path.with_suffix(".parquet"))
    run = RunFolder(tmp_path / "run")
    (shard,) = expand_shards([str(path)])
    index_shard(shard, run, IndexConfig())
    found = run.root / "fetched" / f"{shard.id}.parquet"
    return pq.read_table(found).to_pylist() if found.exists() else []


def test_rows_find_their_pairs_whatever_their_order(tmp_path: Path) -> None:
    rows = [
        {"key": "b", "url": "u:b", "status": "success", "sha256": "00" * 32, "error_message": None},
        {
            "key": "z",
            "url": "u:z",
            "status": "failed_to_download",
            "sha256": None,
            "error_message": "HTTP Error 404: x",
        },
        {"key": "a", "url": "u:1", "status": "success", "sha256": "11" * 32, "error_message": None},
        {"key": "a", "url": "u:2", "status": "success", "sha256": "22" * 32, "error_message": None},
        {"key": "gone", "url": "u:3", "status": "success", "sha256": "33" * 32, "error_message": None},
    ]
    found = index(tmp_path, rows)
    assert [(row["url"], row["ordinal"], row["reason"]) for row in found] == [
        ("u:b", 1, None), ("u:z", None, "http_gone"), ("u:1", 0, None), ("u:2", 2, None), ("u:3", None, None)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [{"key": "a", "caption": "no download at all"}],
        [{"key": 7, "status": "success"}],
    ],
)
def test_other_parquets_say_nothing_about_fetching(tmp_path: Path, rows: list[dict[str, Any]] | None) -> None:
    assert index(tmp_path, rows) == []


def test_what_a_stranger_wrote_is_stored_harmless(tmp_path: Path) -> None:
    message = "\x1b]0;x\x07\u202e=cmd()\n" + "y" * 100_000
    rows = [
        {"key": "a", "url": "http://x/" + "z" * 50_000, "status": "failed\x1b[31m", "error_message": message,
         "sha256": "=1", "published_hash": "sha256:\x1b", "list_row": -5}
    ]  # fmt: skip
    (row,) = index(tmp_path, rows)
    assert row["reason"] in FETCH_REASONS
    assert row["detail"].isprintable()
    assert row["status"].isprintable()
    assert len(row["url"]) <= 8192
    assert (row["list_row"], row["hash_matches"]) == (None, None)


def test_columns_of_other_types_are_as_good_as_absent(tmp_path: Path) -> None:
    rows = [{"key": "a", "url": 7, "status": "success", "sha256": 1.5, "list_row": "x", "published_hash": [1]}]
    (row,) = index(tmp_path, rows)
    assert (row["url"], row["sha256"], row["published_hash"], row["list_row"]) == (None, None, None, None)


def test_rejected_rows_come_from_the_folder_of_the_shards(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "data" / "x.tar", [sample("a")])
    run, shards = RunFolder(tmp_path / "run"), expand_shards([str(path)])
    assert write_rejected(shards, run) == 0
    with table_writer(tmp_path / "data" / "fetch" / "rejected.parquet", REJECTED) as table:
        table.add(("l.csv", 3, "file:///x", "url_scheme", "file:///x"))
        table.add(("l.csv", 4, "\x1b[2J", "made up", "=1"))
    assert write_rejected(shards, run) == 2
    rows = pq.read_table(run.root / "fetched" / "rejected.parquet").to_pylist()
    assert [(row["status"], row["reason"], row["url"], row["list_row"]) for row in rows] == [
        ("rejected", "url_scheme", "file:///x", 3), ("rejected", "other", "\\x1b[2J", 4)
    ]  # fmt: skip
    (tmp_path / "data" / "fetch" / "rejected.parquet").write_bytes(b"PAR1 no")
    assert write_rejected(shards, run) == 0
