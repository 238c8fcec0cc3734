"""The results in a notebook: right rows, nothing held open, nothing heavy imported before it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import roclip_audit.audit as package
from roclip_audit.audit import open_audit
from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.store import connected
from roclip_audit.core.errors import ConfigError, ShardError, StoreError, StoreLockedError
from roclip_audit.core.run import RunFolder
from tests.audit.exportkit import drawn_run, hold_lock
from tests.audit.runkit import uid_of

UID = uid_of("00000.tar", 3)


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, roclip_audit.audit; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"duckdb", "polars", "pyarrow", "numpy", "PIL", "torch"} & set(found)


def test_the_package_says_what_it_has() -> None:
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing  # type: ignore[attr-defined]


def test_suspicion_selects_and_sorts(shared_run: RunFolder) -> None:
    audit = open_audit(shared_run.root)
    everything = audit.suspicion()
    assert everything["risk"].is_sorted(descending=True)
    some = audit.suspicion(where="suspicion > 0.5", columns=["uid", "suspicion"], limit=5)
    expected = everything.filter(pl.col("suspicion") > 0.5).select("uid", "suspicion").head(5)
    assert some.equals(expected)


def test_tables_are_frames(shared_run: RunFolder) -> None:
    audit = open_audit(str(shared_run.root))
    assert len(audit.evidence) == len(audit.suspicion())
    assert audit.campaigns.columns[:2] == ["campaign", "kind"]
    assert audit.problems["reason"].unique().to_list() == ["missing_caption"]
    assert audit.sql("select 1 + 1 as two").item() == 2


@pytest.mark.parametrize(
    "ask",
    [
        lambda audit: audit.sql("drop table pairs"),
        lambda audit: audit.sql("from read_csv('/etc/passwd')"),
        lambda audit: audit.suspicion("true) union (select 1"),
        lambda audit: audit.suspicion(columns=["uid", 'uid" from pairs --']),
        lambda audit: audit.suspicion(limit=-1),
        lambda audit: audit.embeddings(["0" * 32], kind="sound"),
        lambda audit: audit.image("nothing like it"),
    ],
)
def test_what_is_wrong_is_refused(shared_run: RunFolder, ask: object) -> None:
    with pytest.raises(ConfigError):
        ask(open_audit(shared_run.root))  # type: ignore[operator]


def test_nothing_is_held_open_between_calls(run: RunFolder) -> None:
    audit = open_audit(run.root)
    before = len(audit.suspicion())
    with connected(run.database, read_only=False) as connection:  # refused while anybody reads
        connection.execute("delete from store.scored where rowid = 0").fetchall()
    assert len(audit.suspicion()) == before - 1
    ingest(run)  # what a scan does at its end
    assert len(audit.suspicion()) == before


def test_it_answers_no_more_after_its_block(shared_run: RunFolder) -> None:
    with open_audit(shared_run.root) as audit:
        assert len(audit.sql("from runs")) == 1
    with pytest.raises(ConfigError, match="closed"):
        audit.sql("from runs")


def test_a_folder_without_a_run_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="roclip-audit scan"):
        open_audit(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_embeddings_come_in_the_order_asked_for(tmp_path: Path) -> None:
    run = drawn_run(tmp_path)
    audit = open_audit(run.root)
    uids = [uid_of("00001.tar", 2), uid_of("00000.tar", 0), uid_of("00001.tar", 2)]
    for kind in ("image", "text"):
        stored = [
            np.load(next((run.root / "embeddings").glob(f"{shard}-*.{kind}.npy"))).astype(np.float32)[row]
            for shard, row in (("00001", 2), ("00000", 0), ("00001", 2))
        ]
        rows = np.stack([one[0] if kind == "image" else one for one in stored])
        found = audit.embeddings(uids, kind=kind)  # type: ignore[arg-type]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, rows / np.linalg.norm(rows, axis=1, keepdims=True), rtol=1e-5)
    assert audit.embeddings(uids, kind="text", space="aligned").shape == (3, 6)
    with pytest.raises(ConfigError, match="no scored pair"):
        audit.embeddings(["0" * 32])


def test_embeddings_wait_for_no_scan(tmp_path: Path) -> None:
    run = drawn_run(tmp_path)
    with hold_lock(run), pytest.raises(StoreLockedError, match="a scan is writing"):
        open_audit(run.root).embeddings([UID])


def test_images_are_read_out_of_the_shards(tmp_path: Path) -> None:
    run = drawn_run(tmp_path)
    audit = open_audit(run.root)
    assert audit.image(UID).size == (64, 64)
    assert audit.image("00000.tar/000000003").tobytes() == audit.image(UID[:12]).tobytes()
    shard = tmp_path / "shards" / "00000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"IDAT", b"IDAX"))
    with pytest.raises(ShardError, match="changed since the scan"):
        audit.image(UID)
