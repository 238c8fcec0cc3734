"""What `roclip-audit doctor` says of sound, damaged and busy run folders."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from roclip_audit.audit.ingest import ingest
from roclip_audit.cli.doctor import check_hub_cache, check_run, check_weights
from roclip_audit.cli.main import app
from roclip_audit.core.environment import Check
from roclip_audit.core.run import RunFolder
from tests.audit.runkit import make_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = make_run(tmp_path / "audit")
    ingest(run)
    return run


def checks_of(run: RunFolder) -> dict[str, Check]:
    return {check.name: check for check in check_run(run.root)}


def doctor(run: RunFolder, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", "--audit", str(run.root), *options])
    return result.exit_code, result.stdout


def test_a_sound_run_folder(run: RunFolder) -> None:
    checks = checks_of(run)
    assert {check.status for check in checks.values()} == {"ok"}
    assert checks["database"].found == "40 pairs, as the manifest says"
    assert doctor(run)[0] == 0


def test_a_folder_that_is_not_there_is_fine(tmp_path: Path) -> None:
    (check,) = check_run(tmp_path / "none")
    assert (check.name, check.status) == ("run folder", "ok")
    assert not (tmp_path / "none").exists()


def test_an_unfinished_scan_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    checks = checks_of(RunFolder(tmp_path / "audit"))
    assert checks["database"].status == "warn"
    assert "resumes" in checks["database"].advice


def test_a_damaged_database_ends_with_4(run: RunFolder) -> None:
    run.database.write_bytes(b"not a database" * 1000)
    assert checks_of(run)["database"].status == "fail"
    assert doctor(run)[0] == 4


def test_a_missing_database_ends_with_4(run: RunFolder) -> None:
    run.database.unlink()
    assert doctor(run)[0] == 4


def test_a_damaged_manifest_ends_with_4(run: RunFolder) -> None:
    run.manifest.write_text("{")
    assert doctor(run)[0] == 4


def test_a_database_that_differs_from_the_manifest_ends_with_4(run: RunFolder) -> None:
    with duckdb.connect(run.database) as connection:
        connection.execute("delete from pairs where ordinal = 0 and shard = '00001.tar'")
    check = checks_of(run)["database"]
    assert (check.status, check.exit_code) == ("fail", 4)
    assert "1 shard, first 00001.tar" in check.found


def test_a_damaged_marker_names_the_file(run: RunFolder) -> None:
    run.mark_done("index", "a", "key", {})
    assert checks_of(run)["finished work"].found == "1 piece"
    marker = run.root / "done" / "index" / "a.json"
    marker.write_text("{")
    check = checks_of(run)["finished work"]
    assert check.status == "fail"
    assert str(marker) in check.found


def test_a_scan_under_way_is_a_warning_and_is_left_alone(run: RunFolder) -> None:
    with run.locked():
        assert checks_of(run)["lock"].status == "warn"
    assert checks_of(run)["lock"].status == "ok"


def test_the_weights_are_the_pinned_ones() -> None:
    checks = list(check_weights())
    assert [check.status for check in checks] == ["ok"] * 3


def test_the_hub_cache_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    assert check_hub_cache().status == "ok"


def test_json_has_every_check(run: RunFolder) -> None:
    code, out = doctor(run, "--json")
    checks = json.loads(out)
    assert code == 0
    assert {"python", "torch", "weights", "database"} <= {check["name"] for check in checks}
    assert {check["status"] for check in checks} <= {"ok", "warn"}


def test_hostile_shard_names_are_shown_not_obeyed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "audit")
    ingest(run)
    manifest = json.loads(run.manifest.read_text())
    manifest["shards"][0]["name"] = "\x1b[2J\n.tar"
    run.manifest.write_text(json.dumps(manifest))
    _, out = doctor(run)
    assert "\x1b" not in out
