"""What the database says about where pictures came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from roclip_audit.audit.domains import enrichment
from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.report.downloads import read_downloads
from roclip_audit.audit.report.page import write_report
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import FETCHED
from tests.audit.runkit import fake, make_run, uid_of, write_rows

SHARD = "00000.tar"


def fetched(ordinal: int | None, url: str, **what: Any) -> dict[str, Any]:
    status = "success" if ordinal is not None else "failed_to_download"
    return {"shard": SHARD, "key": "k", "ordinal": ordinal, "url": url, "status": status} | what


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Give a run of 62 pairs: 40 of many sound domains, 20 of a bad one, 3 of them one placeholder, and failures."""
    pairs = [fake(f"sound {i}", url=f"http://s{i % 8}.example/{i}", fdr=0.9 if i else 0.05) for i in range(40)]
    pairs += [fake(f"bad {i}", url=f"http://bad.example/{i}", fdr=0.01 if i < 15 else 0.8) for i in range(20)]
    same = {"image_sha256": "aa" * 32, "fdr": 0.9}
    pairs += [fake(f"ad {i}", url=f"http://p{i % 2}.example/{i}", **same) for i in range(3)]
    made = make_run(tmp_path / "audit", {SHARD: pairs})
    rows = [fetched(i, pair.url or "", sha256="00" * 32) for i, pair in enumerate(pairs)]
    rows[40] |= {"published_hash": "sha256:" + "11" * 32, "hash_matches": False}
    rows += [
        fetched(None, "http://bad.example/gone", reason="http_gone", detail="HTTP 404"),
        fetched(None, "http://dead.example/x", reason="unresolved", detail="dead.example"),
        fetched(None, "http://bad.example/new", reason="hash_mismatch", detail="found", hash_matches=False),
    ]
    write_rows(made, "fetched", SHARD, FETCHED, rows)
    rejected = {"url": "file:///etc/passwd", "status": "rejected", "reason": "url_scheme", "list_row": 7}
    write_rows(made, "fetched", "rejected.tar", FETCHED, [rejected])
    next((made.root / "fetched").glob("rejected-*")).rename(made.root / "fetched" / "rejected.parquet")
    with made.locked():
        ingest(made)
    return made


def fetch(run: RunFolder, sql: str) -> list[tuple[Any, ...]]:
    with open_readonly(run) as connection:
        return connection.execute(sql).fetchall()


def test_every_url_is_there_and_pairs_are_found_by_it(run: RunFolder) -> None:
    assert fetch(run, "select status, count(*) from fetched group by 1 order by 1") == [
        ("failed_to_download", 3), ("rejected", 1), ("success", 63)
    ]  # fmt: skip
    assert fetch(run, "select uid, domain from fetched where url = 'http://bad.example/3'") == [
        (uid_of(SHARD, 43), "bad.example")
    ]
    assert fetch(run, "select count(*) from fetched f join pairs p using (uid) where f.url <> p.url") == [(0,)]


def test_a_bad_domain_stands_out_and_dead_ones_are_counted(run: RunFolder) -> None:
    columns = "n_scored, n_urls, n_failed, n_dead, n_hash_mismatch, n_shared_pictures"
    rows = {row[0]: row[1:] for row in fetch(run, f"select domain, {columns} from by_domain")}
    assert rows["bad.example"] == (20, 22, 2, 1, 2, 0)
    assert rows["dead.example"] == (0, 1, 1, 1, 0, 0)
    assert rows["p0.example"] == (2, 2, 0, 0, 0, 2)
    assert None not in rows  # a row that was not tried has no domain, and makes none
    tests = fetch(run, "select domain, base_rate, p_corrected from by_domain where p_corrected <= 0.05")
    assert [(domain, pytest.approx(1 / 43)) for domain, *_ in tests] == [("bad.example", tests[0][1])]
    assert tests[0][2] < 1e-9


def test_integrity_names_what_is_wrong(run: RunFolder) -> None:
    found = fetch(run, "select finding, n_urls, n_pairs, n_domains from integrity_by_kind")
    assert found == [
        ("same_picture", 3, 3, 2),
        ("hash_mismatch", 2, 1, 1),
        ("http_gone", 1, 0, 1),
        ("unresolved", 1, 0, 1),
        ("url_scheme", 1, 0, 0),
    ]
    assert fetch(run, "select count(*) from integrity_by_kind where meaning is null") == [(0,)]
    (detail,) = fetch(run, "select detail from integrity where finding = 'hash_mismatch' and uid is not null")[0]
    assert detail == f"published sha256:{'11' * 32}, downloaded sha256:{'00' * 32}"


def test_same_picture_counts_urls_domains_and_captions(run: RunFolder) -> None:
    columns = "image_sha256, n_pairs, n_urls, n_domains, n_captions, example_caption"
    assert fetch(run, f"select {columns} from same_picture") == [("aa" * 32, 3, 3, 2, 3, "ad 0")]


def test_a_run_that_knows_nothing_of_fetching_says_so(shared_run: RunFolder) -> None:
    assert fetch(shared_run, "select count(*) from fetched") == [(0,)]
    assert fetch(shared_run, "select count(*) from by_domain where n_urls is not null") == [(0,)]


def test_groups_are_tested_against_those_outside() -> None:
    tested = enrichment([10, 10, 1, 0], [8, 0, 1, 0], 100, 10)
    assert [one.base_rate for one in tested] == [pytest.approx(2 / 90), pytest.approx(10 / 90), None, None]
    assert tested[0].p_corrected is not None
    assert tested[0].p_corrected < 1e-8
    assert tested[1].p_value == 1.0
    assert enrichment([5], [5], 5, 5)[0].p_value is None  # nothing outside to compare with
    assert enrichment([], [], 0, 0) == []


def test_the_report_tells_it(run: RunFolder) -> None:
    with open_readonly(run) as connection:
        found = read_downloads(connection)
    assert {one.finding for one in found.findings} == {
        name for (name,) in fetch(run, "select finding from integrity_by_kind")
    }
    assert [one.name for one in found.domains] == ["bad.example"]
    write_report(run, run.root / "report.html")
    page = (run.root / "report.html").read_text(encoding="utf-8")
    section = page[page.index('id="downloads"') : page.index('id="problems"')]
    assert "bad.example" in section
    assert all(one.finding in section for one in found.findings)
