"""``sql``, ``show`` and ``curate`` as people call them: exit codes, streams, files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from roclip_audit.audit.decisions import decide
from roclip_audit.audit.ingest import ingest
from roclip_audit.cli.main import app
from roclip_audit.core.run import RunFolder
from roclip_audit.core.shards import expand_shards
from tests.audit.runkit import edit_manifest, make_run, pairs_of, uid_of
from tests.shardkit import make_dataset

HEADLINE = "select uid, caption, suspicion, fdr, rival_caption from suspicion order by suspicion desc limit 20"


def call(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=stdin)


def sql(run: RunFolder, *arguments: str, stdin: str | None = None) -> Result:
    return call("sql", "--audit", str(run.root), *arguments, stdin=stdin)


def test_the_query_of_the_readme(shared_run: RunFolder) -> None:
    result = sql(shared_run, HEADLINE)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["uid", "caption", "suspicion", "fdr", "rival_caption"]
    assert len(lines) == 22


def test_a_query_from_stdin_or_a_file(shared_run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("select count(*) as n\nfrom pairs;\n")
    assert json.loads(sql(shared_run, "-", "--json", stdin="select count(*) as n from pairs").stdout) == [{"n": 60}]
    assert json.loads(sql(shared_run, "-f", str(tmp_path / "q.sql"), "--json").stdout) == [{"n": 60}]


@pytest.mark.parametrize("arguments", [[], ["select 1", "-f", "x.sql"], ["-f", "missing.sql"]])
def test_no_query_or_two(shared_run: RunFolder, arguments: list[str]) -> None:
    result = sql(shared_run, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_formats_agree(shared_run: RunFolder, tmp_path: Path) -> None:
    query = "select uid, caption, suspicion from suspicion order by uid"
    rows = json.loads(sql(shared_run, query, "--format", "json").stdout)
    lines = [json.loads(line) for line in sql(shared_run, query, "--format", "jsonl").stdout.splitlines()]
    table = list(csv.DictReader(io.StringIO(sql(shared_run, query, "--format", "csv").stdout)))
    sql(shared_run, query, "--format", "parquet", "--out", str(tmp_path / "out.parquet"))
    assert rows == lines == pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [{**row, "suspicion": float(row["suspicion"])} for row in table] == rows
    assert len(sql(shared_run, query, "--format", "markdown").stdout.splitlines()) == len(rows) + 2


def test_parquet_on_stdout(shared_run: RunFolder) -> None:
    command = [sys.executable, "-m", "roclip_audit.cli.main", "sql", "--audit", str(shared_run.root)]
    done = subprocess.run([*command, "from suspicion", "--format", "parquet"], stdout=subprocess.PIPE, check=True)
    assert pq.read_table(io.BytesIO(done.stdout)).num_rows > 0


def test_errors_are_one_line_with_an_exit_code(shared_run: RunFolder, tmp_path: Path) -> None:
    wrong = sql(shared_run, "select * from nope")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "tables and views: runs" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1
    missing = call("sql", "select 1", "--audit", str(tmp_path))
    assert missing.exit_code == 4
    assert "roclip-audit scan" in missing.stderr


def test_an_error_that_quotes_a_caption_steers_nothing(hostile_run: RunFolder) -> None:
    result = sql(hostile_run, "select caption::int from suspicion")
    assert result.exit_code == 2
    assert "\x1b" not in result.stderr
    assert "\\x1b[31m" in result.stderr


def test_external_access_is_asked_for(shared_run: RunFolder, tmp_path: Path) -> None:
    query = f"copy (select uid from pairs) to '{tmp_path / 'out.csv'}'"
    assert sql(shared_run, query).exit_code == 2
    assert not (tmp_path / "out.csv").exists()
    assert sql(shared_run, query, "--allow-external").exit_code == 0
    assert (tmp_path / "out.csv").exists()


def test_show(shared_run: RunFolder) -> None:
    uid = uid_of("00000.tar", 0)
    result = call("show", uid[:12], "--audit", str(shared_run.root))
    assert result.exit_code == 0
    assert uid in result.stdout
    assert json.loads(call("show", uid, "--audit", str(shared_run.root), "--json").stdout)["uid"] == uid
    assert call("show", "nope", "--audit", str(shared_run.root)).exit_code == 2


def test_show_without_the_shards_still_shows_the_text(shared_run: RunFolder, tmp_path: Path) -> None:
    image = tmp_path / "sheet.png"
    result = call("show", "00000.tar/0000", "--audit", str(shared_run.root), "--image", str(image))
    assert result.exit_code == 3
    assert "suspicion" in result.stdout
    assert "shard not found" in result.stderr
    assert not image.exists()


@pytest.fixture
def scanned(tmp_path: Path) -> RunFolder:
    """A run over two real shards, with the fingerprints that they have."""
    folder = tmp_path / "shards"
    shards = make_dataset(folder, n_pairs=20, n_shards=2, seed=0)
    run = make_run(tmp_path / "audit", {path.name: pairs_of(path) for path in shards}, shard_folder=folder)
    entries = json.loads(run.manifest.read_text())["shards"]
    fingerprints = {shard.name: shard.fingerprint for shard in expand_shards([str(folder)])}
    edit_manifest(run, shards=[entry | {"fingerprint": fingerprints[entry["name"]]} for entry in entries])
    ingest(run)
    return run


def members(*folders: Path) -> dict[str, str]:
    """Return member name -> hash over all tars of some folders."""
    found: dict[str, str] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.tar"))):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                assert member.name not in found
                found[member.name] = hashlib.sha256(content.read()).hexdigest()
    return found


def test_curate_splits_the_shards_by_the_rule(scanned: RunFolder) -> None:
    folder, out = scanned.root.parent / "shards", scanned.root.parent / "curated"
    spared = json.loads(sql(scanned, "select uid, key from suspicion where fdr <= 0.5 limit 1", "--json").stdout)[0]
    decide(scanned, spared["uid"], "keep")
    result = call(
        "curate", str(folder), str(out), "--where", "fdr <= 0.5", "--audit", str(scanned.root), "--json", "-q"
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    named = {
        row["key"] for row in json.loads(sql(scanned, "select key from suspicion where fdr <= 0.5", "--json").stdout)
    }
    named -= {spared["key"]}
    removed = members(out / "quarantine")
    assert {name.split(".")[0] for name in removed} == named
    assert members(out) | removed == members(folder)
    assert not members(out).keys() & removed.keys()
    assert report["selection"]["n_removed"] == report["curation"]["n_removed"] == len(named)
    reasons = pq.read_table(out / "quarantine" / "reasons.parquet").to_pylist()
    assert {row["reason"] for row in reasons} == {"where: fdr <= 0.5"}


def test_a_dry_run_writes_nothing(scanned: RunFolder) -> None:
    folder, out = scanned.root.parent / "shards", scanned.root.parent / "curated"
    before = sorted(path.name for path in scanned.root.parent.rglob("*"))
    arguments = [
        "curate",
        str(folder),
        str(out),
        "--where",
        "suspicion > 0.5",
        "--audit",
        str(scanned.root),
        "--dry-run",
    ]
    result = call(*arguments)
    assert result.exit_code == 0
    assert "nothing written" in result.stdout
    assert sorted(path.name for path in scanned.root.parent.rglob("*")) == before


@pytest.mark.parametrize("where", ["fdr", "true) union select 1 from (select 1", "nope = 1", ""])
def test_curate_refuses_what_is_no_condition(scanned: RunFolder, where: str) -> None:
    folder, out = scanned.root.parent / "shards", scanned.root.parent / "curated"
    assert call("curate", str(folder), str(out), "--where", where, "--audit", str(scanned.root)).exit_code == 2
    assert not out.exists()


def test_curate_refuses_shards_that_changed_since_the_scan(scanned: RunFolder) -> None:
    folder, out = scanned.root.parent / "shards", scanned.root.parent / "curated"
    os.utime(folder / "00001.tar", ns=(1, 1))
    result = call("curate", str(folder), str(out), "--where", "fdr <= 0.5", "--audit", str(scanned.root))
    assert result.exit_code == 4
    assert "changed since the scan" in result.stderr
    assert not out.exists()


def test_show_with_a_contact_sheet(scanned: RunFolder) -> None:
    image = scanned.root.parent / "sheet.png"
    result = call("show", uid_of("00000.tar", 0), "--audit", str(scanned.root), "--image", str(image))
    assert result.exit_code == 0
    with Image.open(image) as sheet:
        assert sheet.format == "PNG"
