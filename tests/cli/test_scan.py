"""`roclip-audit scan`: what it prints and what it ends with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from roclip_audit.audit.findings import Findings
from roclip_audit.cli.main import app
from roclip_audit.cli.scan import exit_code
from roclip_audit.cli.summary import describe
from roclip_audit.core.run import RunFolder
from roclip_audit.sanitize.scan import ScanReport
from roclip_audit.sanitize.suspicion import Interval

CLEAN = ScanReport(
    n_shards=7,
    n_pairs=6881,
    n_scored=6881,
    n_problems=12,
    n_unreadable_shards=0,
    contamination=Interval(0.064, 0.051, 0.079),
    n_flagged=420,
    expected_sound=38.4,
    seconds=111.6,
    reused=0,
)
NOTHING = Findings(campaigns=(), problems=())
UNREAD = dataclasses.replace(CLEAN, n_scored=6879, n_unreadable_shards=1)


@pytest.mark.parametrize(
    ("report", "fail_on", "code"),
    [(CLEAN, None, 0), (CLEAN, 0.064, 0), (CLEAN, 0.05, 1), (CLEAN, 0.0, 1), (UNREAD, None, 3), (UNREAD, 0.05, 3)],
)
def test_exit_codes(report: ScanReport, fail_on: float | None, code: int) -> None:
    assert exit_code(report, fail_on) == code


def test_the_report_in_words() -> None:
    facts = dict(describe(CLEAN, NOTHING, Path("run")))
    assert facts == {
        "scanned": "6,881 pairs in 7 shards, 1 min 52 s",
        "mismatched": "about 6.4 % (5.1 % to 7.9 %)",
        "flagged": "420 pairs, of them about 38 sound (fdr <= 0.1)",
        "campaigns": "0",
        "problems": "12",
        "database": str(Path("run") / "audit.duckdb"),
    }


def test_what_could_not_be_read_and_what_was_reused_is_said() -> None:
    facts = dict(describe(dataclasses.replace(UNREAD, reused=15), NOTHING, Path("run")))
    assert facts["unread"].startswith("2 pairs without evidence, 1 unreadable shard")
    assert facts["resumed"] == "15 pieces of work finished before"


def test_nothing_to_scan_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["scan", str(tmp_path / "none"), "--out", str(tmp_path / "audit"), "--quiet"])
    assert result.exit_code == 2
    assert "none" in result.stderr


def test_a_busy_run_folder_ends_with_4_at_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "audit")
    with run.locked():
        result = CliRunner().invoke(app, ["scan", str(tmp_path), "--out", str(run.root), "--quiet"])
    assert result.exit_code == 4
    assert "another scan" in result.stderr
