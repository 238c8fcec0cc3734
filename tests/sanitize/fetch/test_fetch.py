"""From a list to shards: with a stand-in for img2dataset always, with the real one in the long lane.

Both run behind the same driver and guard, in a process of their own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from roclip_audit.core.errors import ConfigError, RoclipAuditError, StoreLockedError
from roclip_audit.core.progress import SilentReporter
from roclip_audit.core.run import RunFolder
from roclip_audit.core.shards import expand_shards
from roclip_audit.sanitize.fetch.engine import find_interpreter
from roclip_audit.sanitize.fetch.fetch import fetch, locked
from roclip_audit.sanitize.fetch.guard import Limits
from roclip_audit.sanitize.fetch.settings import FetchConfig
from roclip_audit.sanitize.index import IndexConfig, index_shard
from tests.sanitize.fetch.webkit import Web, caption_of, sha256_of

HERE = Limits(max_bytes=300_000, timeout_s=15, deadline_s=20, allowed=("127.0.0.1/32",))
BAD = {
    "missing/1": "http_gone",
    "error/1": "http_error",
    "page/1": "not_an_image",
    "broken/1": "truncated",
    "truncated/1": "truncated",
    "announced/1": "too_large",
    "endless/1": "too_large",
    "loop/1": "redirects",
    "optout/1?tag=noai": "opted_out",
    "redirect/1?to=http://169.254.169.254/latest": "address_refused",
}


def rows_of(web: Web, n_good: int = 6) -> list[dict[str, Any]]:
    """Return a list with good rows, rows whose picture changed, and every kind of bad one."""
    rows: list[dict[str, Any]] = [
        {"url": web.url(f"good/{i}.png"), "caption": caption_of(i), "uid": f"{i:032x}", "sha256": sha256_of(i),
         "licence": "cc0", "width": 48}
        for i in range(n_good)
    ]  # fmt: skip
    rows += [{"url": web.url(f"good/{i}.png"), "caption": "x", "sha256": sha256_of(i + 1)} for i in (100, 101)]
    rows.append({"url": web.url("redirect/x?to=" + quote(web.url("good/9.png"))), "caption": "moved"})
    rows += [{"url": web.url(path), "caption": path} for path in BAD]
    rows += [{"url": "file:///etc/passwd", "caption": "x"}, {"url": "=1+1", "caption": "x"}]
    return rows


def write_list(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def config_of(tmp_path: Path, rows: list[dict[str, Any]], engine: Path, **options: Any) -> FetchConfig:
    chosen = {"limits": HERE, "pairs_per_shard": 10, "threads": 8, "img2dataset": engine} | options
    return FetchConfig(urls=write_list(tmp_path, rows), out=tmp_path / "out", **chosen)


def sidecar_rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["url"]: row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()}


def check_fetched(web: Web, config: FetchConfig) -> None:
    """Fetch, and check everything that is promised about what lies in the folder."""
    report = fetch(config, SilentReporter())
    assert (report.n_rows, report.n_pairs, report.n_failed, report.n_rejected) == (21, 7, 12, 2)
    assert report.n_lost == 14
    assert (report.n_shards, report.n_unfinished, report.reused) == (2, 0, 0)
    assert (report.n_hashes, report.n_verified) == (8, 6)
    assert report.rejected == {"url_scheme": 2}
    expected = {web.url(path): reason for path, reason in BAD.items()}
    found = sidecar_rows(config.out)
    for url, reason in expected.items():
        assert found[url]["error_message"].startswith(f"{reason}: "), found[url]["error_message"]
    assert report.hosts["too_large"] == {"127.0.0.1": 2}
    changed = found[web.url("good/100.png")]
    assert changed["error_message"] == f"hash_mismatch: found sha256 {sha256_of(100)}"
    good = found[web.url("good/3.png")]
    assert (good["sha256"], good["published_hash"]) == (sha256_of(3), f"sha256:{sha256_of(3)}")
    assert (good["uid"], good["licence"], good["list_width"], good["list_row"]) == (f"{3:032x}", "cc0", "48", 4)
    assert not list(config.out.glob("_tmp"))
    check_index(config.out)
    again = fetch(config, SilentReporter())
    assert (again.reused, again.n_pairs, again.failures) == (2, report.n_pairs, report.failures)


def check_index(out: Path) -> None:
    """The folder is indexed as it is, and every URL is accounted for."""
    run = RunFolder(out.parent / "run")
    pairs, fetched = [], []
    for shard in expand_shards([str(out)]):
        index_shard(shard, run, IndexConfig())
        pairs += pq.read_table(run.file("pairs", f"{shard.id}.parquet")).to_pylist()
        fetched += pq.read_table(run.file("fetched", f"{shard.id}.parquet")).to_pylist()
    assert len(fetched) == 19
    urls = {(row["shard"], row["ordinal"]): row["url"] for row in fetched if row["ordinal"] is not None}
    assert urls == {(row["shard"], row["ordinal"]): row["url"] for row in pairs}
    assert sum(row["hash_matches"] is True for row in fetched) == 6
    assert sum(row["hash_matches"] is False for row in fetched) == 2
    assert sum(row["uid_given"] for row in pairs) == 6


def test_a_list_becomes_shards_and_every_row_is_accounted_for(web: Web, standin: Path, tmp_path: Path) -> None:
    check_fetched(web, config_of(tmp_path, rows_of(web), standin))


@pytest.mark.slow
def test_the_same_with_the_real_img2dataset(web: Web, img2dataset: Path, tmp_path: Path) -> None:
    rows = rows_of(web)
    check_fetched(web, config_of(tmp_path, rows, img2dataset))


def test_mismatches_are_kept_on_demand_and_reported_by_the_index(web: Web, standin: Path, tmp_path: Path) -> None:
    rows = [{"url": web.url(f"good/{i}.png"), "caption": "x", "sha256": sha256_of(i + i % 2)} for i in range(4)]
    config = config_of(tmp_path, rows, standin, keep_mismatches=True)
    report = fetch(config, SilentReporter())
    assert (report.n_pairs, report.n_verified, report.n_lost) == (4, 2, 0)
    run = RunFolder(tmp_path / "run")
    (shard,) = expand_shards([str(config.out)])
    index_shard(shard, run, IndexConfig())
    problems = pq.read_table(run.file("problems/index", f"{shard.id}.parquet")).to_pylist()
    assert [(row["reason"], row["fatal"]) for row in problems] == [("hash_mismatch", False)] * 2


def test_a_shard_that_fails_is_reported_and_done_by_the_next_run(web: Web, standin: Path, tmp_path: Path) -> None:
    """img2dataset ends with 0 after a shard that failed."""
    rows = [{"url": web.url(f"good/{i}.png"), "caption": "x"} for i in range(25)]
    config = config_of(tmp_path, rows, standin)
    with locked(config.out):
        (config.out / "fail-1").touch()
    report = fetch(config, SilentReporter())
    assert (report.n_shards, report.n_unfinished, report.n_pairs) == (3, 1, 15)
    (config.out / "fail-1").unlink()
    n_asked = len(web.requests)
    report = fetch(config, SilentReporter())
    assert (report.n_unfinished, report.n_pairs, report.reused) == (0, 25, 2)
    assert len(web.requests) - n_asked == 10


def test_nothing_finished_is_an_error_with_the_last_words(web: Web, standin: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, [{"url": web.url("good/1.png"), "caption": "x"}], standin)
    with locked(config.out):
        (config.out / "fail-0").touch()
    with pytest.raises(RoclipAuditError, match="finished no shard"):
        fetch(config, SilentReporter())


def test_half_written_shards_do_not_stay(web: Web, standin: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, [{"url": web.url("good/1.png"), "caption": "x"}], standin)
    fetch(config, SilentReporter())
    (config.out / "00007.tar").write_bytes(b"half")
    (config.out / "00007.parquet").write_bytes(b"half")
    (config.out / "00008.tar").write_bytes(b"half")
    (config.out / "00008_stats.json").write_bytes(b'{"count": ')
    fetch(config, SilentReporter())
    names = sorted(path.name for path in config.out.iterdir())
    assert names == ["00000.parquet", "00000.tar", "00000_stats.json", "fetch"]


def test_another_list_or_setting_is_refused_and_nothing_is_touched(web: Web, standin: Path, tmp_path: Path) -> None:
    rows = [{"url": web.url("good/1.png"), "caption": "x"}]
    config = config_of(tmp_path, rows, standin)
    fetch(config, SilentReporter())
    before = {path.name: path.read_bytes() for path in config.out.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match="another list"):
        fetch(replace(config, image_size=64), SilentReporter())
    with pytest.raises(ConfigError, match="another list"):
        fetch(config_of(tmp_path, [*rows, *rows], standin), SilentReporter())
    assert {path.name: path.read_bytes() for path in config.out.iterdir() if path.is_file()} == before


def test_foreign_folders_and_second_fetches_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").touch()
    with pytest.raises(ConfigError, match=r"holds mine\.jpg"), locked(tmp_path / "photos"):
        pass
    with locked(tmp_path / "out"), pytest.raises(StoreLockedError), locked(tmp_path / "out"):
        pass


INTERRUPTED = """
import sys
from roclip_audit.cli.main import main
main(sys.argv[1:])
"""


def _start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _workers(out: Path) -> list[int]:
    """Return the processes that work for a fetch into ``out``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{out}/fetch/driver.json" in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_interrupted_it_leaves_no_process_and_no_half_shard_and_resumes(
    web: Web, standin: Path, tmp_path: Path, number: signal.Signals
) -> None:
    rows = [{"url": web.url(f"good/{i}.png"), "caption": "x"} for i in range(10)]
    rows += [{"url": web.url("silent/1"), "caption": "x"}]
    config = config_of(tmp_path, rows, standin)
    process = _start(
        ["fetch", config.urls, str(config.out), "--img2dataset", str(standin), "--allow-address", "127.0.0.1",
         "--pairs-per-shard", "10", "--max-bytes", "300000", "--timeout", "60", "--deadline", "80", "-q"]
    )  # fmt: skip
    _until(lambda: (config.out / "00000_stats.json").exists() and "/silent/1" in web.requests, process)
    assert _workers(config.out)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command resumes" in errors
        assert sorted(path.name for path in config.out.glob("*.tar")) == ["00000.tar"]
    deadline = time.monotonic() + 20
    while _workers(config.out) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _workers(config.out) == []
    web.stopped.set()
    n_asked = len(web.requests)
    report = fetch(replace(config, limits=HERE._replace(timeout_s=0.5)), SilentReporter())
    assert (report.reused, report.n_pairs, report.n_unfinished) == (1, 10, 0)
    assert len(web.requests) - n_asked == 1


# Where img2dataset is


def test_the_interpreter_is_found_from_the_program(tmp_path: Path) -> None:
    plain, long = tmp_path / "img2dataset", tmp_path / "long"
    plain.write_text(f"#!{sys.executable}\nimport sys\n")
    long.write_text(f"#!/bin/sh\n'''exec' \"{sys.executable}\" \"$0\" \"$@\"\n' '''\nimport sys\n")
    assert find_interpreter(plain) == find_interpreter(long) == Path(sys.executable)
    assert find_interpreter(Path(sys.executable)) == Path(sys.executable)


def test_without_img2dataset_the_message_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path, [{"url": "http://a.example/1", "caption": "x"}], Path("/nowhere/img2dataset"))
    with pytest.raises(ConfigError, match="cannot be read"):
        fetch(config, SilentReporter())
    bare = tmp_path / "bare"
    bare.write_text(f"#!{sys.executable}\n")
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    if find_spec_finds_nothing():
        with pytest.raises(ConfigError, match=r"pip install 'roclip-audit\[fetch\]'[\s\S]*uv tool install"):
            find_interpreter(None)
    assert not (tmp_path / "out").exists()


def find_spec_finds_nothing() -> bool:
    import shutil

    return shutil.which("img2dataset") is None


@pytest.mark.slow
def test_two_thousand_urls_and_hundreds_of_placeholders(web: Web, img2dataset: Path, tmp_path: Path) -> None:
    rows = [{"url": web.url(f"good/{i}.png"), "caption": caption_of(i), "sha256": sha256_of(i)} for i in range(1500)]
    rows += [{"url": web.url(f"placeholder/{i}.png"), "caption": caption_of(i)} for i in range(300)]
    rows += [{"url": web.url(f"missing/{i}.png"), "caption": caption_of(i)} for i in range(150)]
    rows += [{"url": web.url(f"good/{i}.png"), "caption": "x", "sha256": sha256_of(i + 1)} for i in range(2000, 2050)]
    config = config_of(tmp_path, rows, img2dataset, pairs_per_shard=500, threads=32, processes=2)
    report = fetch(config, SilentReporter())
    assert (report.n_pairs, report.n_verified, report.n_unfinished) == (1800, 1500, 0)
    assert report.failures == {"http_gone": 150, "hash_mismatch": 50}
    found = [row["sha256"] for row in sidecar_rows(config.out).values() if "/placeholder/" in row["url"]]
    assert len(found) == 300
    assert len(set(found)) == 1


@pytest.mark.slow
def test_a_pixel_bomb_does_not_reach_the_decoder(web: Web, img2dataset: Path, tmp_path: Path) -> None:
    rows = [{"url": web.url("bomb/1"), "caption": "x"}, {"url": web.url("good/1.png"), "caption": "x"}]
    report = fetch(config_of(tmp_path, rows, img2dataset), SilentReporter())
    assert report.failures == {"too_large": 1}
