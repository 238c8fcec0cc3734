"""Whole scans of small shards: killed and resumed, changed, locked, fed bad input, and run by one or two workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from roclip_audit.cli.scan import exit_code, scan_and_ingest
from roclip_audit.core.errors import ConfigError, StoreLockedError
from roclip_audit.core.progress import SilentReporter
from roclip_audit.core.run import RunFolder
from roclip_audit.sanitize.scan import ScanConfig, ScanReport
from tests.encoderkit import save_tiny_clip
from tests.shardkit import draw_samples, make_dataset, make_shard

N_PAIRS, N_SHARDS = 90, 3
SCAN = "from roclip_audit.cli.main import main; main()"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    make_dataset(folder, N_PAIRS, N_SHARDS, seed=0)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local-dir:{save_tiny_clip(tmp_path_factory.mktemp('model'))}"


def settings(shards: Path, model: str, out: Path, **changes: object) -> ScanConfig:
    return ScanConfig(**{"shards": (str(shards),), "out": out, "encoder": model, "workers": 2, **changes})  # type: ignore[arg-type]


def scanned(shards: Path, model: str, out: Path, **changes: object) -> ScanReport:
    return scan_and_ingest(settings(shards, model, out, **changes), SilentReporter())


def everything(out: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of all tables and views, by name; the path of the data may differ between runs."""
    with duckdb.connect(str(RunFolder(out).database), read_only=True) as connection:
        names = [row[0] for row in connection.execute("select table_name from duckdb_tables()").fetchall()]
        names += [
            row[0] for row in connection.execute("select view_name from duckdb_views() where not internal").fetchall()
        ]
        schema = dict(
            connection.execute(
                "select table_name, schema_name from duckdb_tables() union all "
                "select view_name, schema_name from duckdb_views() where not internal"
            ).fetchall()
        )
        return {name: connection.execute(f'from "{schema[name]}"."{name}"').fetchall() for name in sorted(set(names))}


@pytest.fixture(scope="module")
def whole(shards: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ScanReport]:
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, scanned(shards, model, out)


def test_every_pair_has_evidence(whole: tuple[Path, ScanReport]) -> None:
    out, report = whole
    assert (report.n_shards, report.n_pairs, report.n_scored, report.n_problems) == (N_SHARDS, N_PAIRS, N_PAIRS, 0)
    assert exit_code(report, fail_on=None) == 0
    found = everything(out)
    assert len(found["suspicion"]) == len(found["evidence"]) == N_PAIRS


def markers(out: Path) -> int:
    if not (out / "done").exists():
        return 0
    return sum(not path.name.startswith(".tmp-") for path in (out / "done").rglob("*.json"))


@pytest.mark.parametrize("n_markers", [1, 4, 6, 7])
def test_killed_and_resumed_equals_uninterrupted(
    n_markers: int, shards: Path, model: str, whole: tuple[Path, ScanReport], tmp_path: Path
) -> None:
    """Markers: three shards indexed, three encoded, one judgement; after the seventh campaigns and database miss."""
    out = tmp_path / "run"
    arguments = ["scan", str(shards), "--out", str(out), "--encoder", model, "--workers", "1", "--quiet"]
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", SCAN, *arguments])
    deadline = time.monotonic() + 120
    while markers(out) < n_markers and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    report = scanned(shards, model, out)
    assert report.reused >= n_markers
    assert everything(out) == everything(whole[0])


def test_the_number_of_workers_changes_nothing(
    shards: Path, model: str, whole: tuple[Path, ScanReport], tmp_path: Path
) -> None:
    scanned(shards, model, tmp_path / "one", workers=1)
    assert everything(tmp_path / "one") == everything(whole[0])


def test_only_what_depends_on_a_change_is_done_again(shards: Path, model: str, tmp_path: Path) -> None:
    data, out = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(shards, data)
    assert scanned(data, model, out).reused == 0
    assert scanned(data, model, out).reused == 2 * N_SHARDS + 2, "judgement and campaigns"
    assert scanned(data, model, out, pool_size=16).reused == 2 * N_SHARDS, "a pool is judged anew, not encoded"
    assert scanned(data, model, out, seed=1).reused == 2 * N_SHARDS, "the whole view leaves nothing to chance"
    changed = sorted(data.glob("*.tar"))[1]
    make_shard(changed, draw_samples(30, seed=9))
    assert scanned(data, model, out, pool_size=16).reused == 2 * (N_SHARDS - 1)
    other = f"local-dir:{save_tiny_clip(tmp_path / 'other', seed=1)}"
    assert scanned(data, other, out, pool_size=16).reused == N_SHARDS, "another encoder keeps the index"
    changed.unlink()
    report = scanned(data, other, out, pool_size=16)
    assert report.n_shards == N_SHARDS - 1
    assert len(everything(out)["pairs"]) == report.n_pairs


def test_a_second_scan_of_the_folder_is_turned_away(shards: Path, model: str, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").locked(), pytest.raises(StoreLockedError, match="process"):
        scanned(shards, model, tmp_path / "run")


def test_the_literal_contest_agrees_with_the_closed_form(
    shards: Path, model: str, whole: tuple[Path, ScanReport], tmp_path: Path
) -> None:
    scanned(shards, model, tmp_path / "run", contest="sampled", pool_size=8, rounds=400)
    scanned(shards, model, tmp_path / "closed", pool_size=8, rounds=400)
    query = "select uid, wins from evidence order by uid"
    wins = []
    for out in (tmp_path / "run", tmp_path / "closed"):
        with duckdb.connect(str(RunFolder(out).database), read_only=True) as connection:
            wins.append(dict(connection.execute(query).fetchall()))
    sampled, expected = wins
    for uid, mean in expected.items():
        share = mean / 400
        assert abs(sampled[uid] - mean) <= 5 * (400 * share * (1 - share)) ** 0.5 + 1e-6


def test_bad_input_becomes_rows_and_the_rest_is_scored(shards: Path, model: str, tmp_path: Path) -> None:
    data, out = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(shards, data)
    first, second, _ = sorted(data.glob("*.tar"))
    first.write_bytes(first.read_bytes()[: first.stat().st_size * 2 // 3])
    second.write_bytes(second.read_bytes().replace(b"\x89PNG", b"\x89PIG", 1))
    (data / "99999.tar").write_bytes(b"this is no tar" * 100)
    report = scanned(data, model, out)
    found = everything(out)
    reasons = {row[0] for row in duckdb_rows(out, "select distinct reason from problems")}
    assert {"tar_truncated", "tar_damaged", "image_undecodable"} <= reasons
    assert exit_code(report, fail_on=None) == 3
    assert (
        report.n_pairs == len(found["pairs"]) == report.n_scored + len(duckdb_rows(out, "from pairs where not scored"))
    )
    assert len(found["suspicion"]) == report.n_scored > 30


def duckdb_rows(out: Path, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(RunFolder(out).database), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def test_nothing_to_score_and_too_little_to_learn_from_are_said(model: str, tmp_path: Path) -> None:
    make_shard(tmp_path / "empty" / "00000.tar", [])
    with pytest.raises(ConfigError, match="no pair"):
        scanned(tmp_path / "empty", model, tmp_path / "run")
    make_dataset(tmp_path / "few", 12, 1, seed=0)
    with pytest.raises(ConfigError, match="12 scored pairs"):
        scanned(tmp_path / "few", "embedded", tmp_path / "run2")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"seed": 2**63}, "seed"), ({"seed": -1}, "seed"), ({"workers": 0}, "workers"), ({"contest": "won"}, "contest")],
)
def test_a_setting_that_cannot_work_is_refused_at_once(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        settings(tmp_path, "embedded", tmp_path / "run", **changes)


def test_an_encoder_beside_the_embedded_one_end_to_end(model: str, tmp_path: Path) -> None:
    make_dataset(tmp_path / "shards", 120, 2, seed=3)
    both = f"embedded+{model}"
    report = scanned(tmp_path / "shards", both, tmp_path / "run")
    assert report.n_scored == 120
    assert duckdb_rows(tmp_path / "run", "select encoder from runs") == [(both,)]
    assert scanned(tmp_path / "shards", both, tmp_path / "run").reused == 2 * 2 + 2
    first = duckdb_rows(tmp_path / "run", "select uid, q, statistic from evidence order by uid")
    assert scanned(tmp_path / "shards", "embedded", tmp_path / "run").reused == 2
    alone = duckdb_rows(tmp_path / "run", "select uid, q, statistic from evidence order by uid")
    assert [row[:2] for row in first] == [row[:2] for row in alone]
    assert [row[2] for row in first] != [row[2] for row in alone]


def test_the_embedded_encoder_end_to_end(tmp_path: Path) -> None:
    make_dataset(tmp_path / "shards", 150, 2, seed=3)
    report = scanned(tmp_path / "shards", "embedded", tmp_path / "run")
    rows = duckdb_rows(tmp_path / "run", "select suspicion, fdr, q, statistic, rival_caption from suspicion")
    assert report.n_scored == len(rows) == 150
    assert all(0 <= value <= 1 for row in rows for value in row[:4])
    assert all(row[4] for row in rows)
    assert scanned(tmp_path / "shards", "embedded", tmp_path / "run", seed=1).reused == 2, "views are drawn anew"
