"""`roclip-audit report`: the file, what is said about it, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from roclip_audit.audit.ingest import ingest
from roclip_audit.cli.main import app
from tests.audit.runkit import make_run


def test_the_page_is_written_and_its_absent_pictures_are_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "audit")
    ingest(run)
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", "--audit", str(run.root), "--out", str(out), "--thumbnails", "3"])
    assert result.exit_code == 0, result.output
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert str(out) in result.stdout
    assert "not to be had" in result.stdout
    result = CliRunner().invoke(app, ["report", "--audit", str(run.root), "--out", str(out), "--json"])
    found = json.loads(result.stdout)
    assert (found["path"], found["bytes"], found["pictures"]) == (str(out), out.stat().st_size, 0)


def test_without_a_run_it_ends_with_4_and_writes_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", "--audit", str(tmp_path / "none"), "--out", str(tmp_path / "a.html")])
    assert result.exit_code == 4
    assert not (tmp_path / "a.html").exists()
