"""A second look: what is the same, what changed, what is gone, and on which domain."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.progress import SilentReporter
from roclip_audit.sanitize.fetch.guard import Limits
from roclip_audit.sanitize.fetch.recheck import RecheckConfig, drift_by_domain, recheck
from tests.sanitize.fetch.webkit import Web, sha256_of
from tests.shardkit import make_shard, sample, write_sidecars

HERE = Limits(timeout_s=15, deadline_s=20, allowed=("127.0.0.1/32",))


def make_out(folder: Path, web: Web, paths: list[str], number: int = 0) -> None:
    """Write a shard as img2dataset leaves it after fetching these paths, each with the hash of its number's picture."""
    samples = []
    for i, path in enumerate(paths):
        digits = "".join(filter(str.isdigit, path.partition("?")[0]))
        meta = {"key": f"{number:04d}{i:05d}", "url": web.url(path), "status": "success",
                "sha256": sha256_of(int(digits or 0))}  # fmt: skip
        samples.append(sample(str(meta["key"]), meta=meta))
    shard = make_shard(folder / f"{number:05d}.tar", samples)
    write_sidecars(shard, samples)


def test_what_changed_is_told_and_nothing_is_touched(web: Web, tmp_path: Path) -> None:
    paths = [f"good/{i}.png" for i in range(4)] + ["later/7.png", "page/1", "missing/1", "error/1"]
    make_out(tmp_path, web, paths[:5])
    make_out(tmp_path, web, paths[5:], number=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    web.changed = True
    report = recheck(RecheckConfig(out=tmp_path, limits=HERE), SilentReporter())
    assert (report.n_known, report.n_checked) == (8, 8)
    assert (report.n_same, report.n_changed, report.n_gone, report.n_failed) == (4, 2, 1, 1)
    assert report.reasons == {"hash_mismatch": 1, "not_an_image": 1, "http_gone": 1, "http_error": 1}
    (drift,) = report.domains
    assert (drift.domain, drift.n_checked, drift.n_changed, drift.n_gone) == ("127.0.0.1", 8, 2, 1)
    rows = {row["url"]: row for row in pq.read_table(report.file).to_pylist()}
    changed = rows[web.url("later/7.png")]
    assert (changed["outcome"], changed["sha256_before"], changed["sha256_now"]) == (
        "changed", sha256_of(7), sha256_of(1_000_007)
    )  # fmt: skip
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    summary = json.loads(Path(report.file).with_suffix(".json").read_text())
    assert (summary["n_changed"], summary["domains"][0]["domain"]) == (2, "127.0.0.1")


def test_each_recheck_has_its_own_files_and_the_seed_chooses_the_sample(web: Web, tmp_path: Path) -> None:
    make_out(tmp_path, web, [f"good/{i}.png" for i in range(30)])
    reports = [
        recheck(RecheckConfig(out=tmp_path, sample=5, limits=HERE, seed=seed), SilentReporter()) for seed in (1, 1, 2)
    ]
    assert len({report.file for report in reports}) == 3
    urls = [pq.read_table(report.file)["url"].to_pylist() for report in reports]
    assert urls[0] == urls[1] != urls[2]
    assert [report.n_checked for report in reports] == [5, 5, 5]
    assert len(list((tmp_path / "fetch" / "rechecks").iterdir())) == 6


def test_a_folder_without_hashes_is_refused(tmp_path: Path) -> None:
    make_shard(tmp_path / "00000.tar", [sample("a")])
    with pytest.raises(ConfigError, match="SHA-256"):
        recheck(RecheckConfig(out=tmp_path), SilentReporter())
    with pytest.raises(ConfigError, match="at least 1"):
        RecheckConfig(out=tmp_path, sample=0)


def test_a_domain_that_changed_stands_out_and_dead_links_do_not_count_against_it() -> None:
    outcomes = [(f"d{i}.example", "same") for i in range(20) for _ in range(20)]
    outcomes += [("bought.example", "changed")] * 8 + [("d3.example", "changed"), ("dead.example", "gone")]
    found = drift_by_domain(outcomes)
    assert [one.domain for one in found] == ["bought.example", "d3.example", "dead.example"]
    assert found[0].p_corrected < 1e-9
    assert found[1].p_corrected > 0.05
    assert found[2].p_value == 1.0
