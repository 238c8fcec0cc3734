"""The database holds what the stages wrote, in order, or says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roclip_audit.audit import ingest as ingest_module
from roclip_audit.audit.decisions import decide
from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.relations import TABLES
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.errors import StoreError, StoreLockedError
from roclip_audit.core.run import RunFolder
from tests.audit.runkit import FakePair, edit_manifest, fake, make_run, random_shards, shard_id, uid_of


def rows(run: RunFolder, sql: str) -> list[tuple[Any, ...]]:
    with open_readonly(run) as connection:
        return connection.execute(sql).fetchall()


def dump(run: RunFolder) -> dict[str, list[tuple[Any, ...]]]:
    """Return every table as it lies on disk."""
    return {table.name: rows(run, f"select * from {table.name} order by rowid") for table in TABLES}


def written(run: RunFolder, stage: str) -> list[dict[str, Any]]:
    """Return what a stage wrote, shard by shard."""
    found = []
    for shard in sorted((run.root / stage).glob("*.parquet")):
        found += pq.read_table(shard).to_pylist()
    return found


def test_every_pair_is_there_in_the_order_of_the_scan(run: RunFolder) -> None:
    found = rows(run, "select shard, ordinal, pair, uid, caption, scored, width from pairs")
    expected = [
        (row["shard"], row["ordinal"], number, row["uid"], row["caption"], row["scored"], 64 if row["scored"] else None)
        for number, row in enumerate(written(run, "pairs"))
    ]
    assert found == expected


@pytest.mark.parametrize("stage", ["evidence", "rivals", "neighbours"])
def test_what_was_measured_is_there_unchanged(run: RunFolder, stage: str) -> None:
    with open_readonly(run) as connection:
        found = connection.sql(f"from {stage}").to_arrow_table().to_pylist()
    key = ("uid", "kind", "rank") if stage == "neighbours" else ("uid", "rank") if stage == "rivals" else ("uid",)
    order = lambda row: tuple(row[name] for name in key)  # noqa: E731
    assert sorted(found, key=order) == sorted(written(run, stage), key=order)


def test_suspicion_joins_the_first_rival(run: RunFolder) -> None:
    first = {row["uid"]: row for row in written(run, "rivals") if row["rank"] == 1}
    captions = {row["uid"]: row["caption"] for row in written(run, "pairs")}
    found = rows(run, "select uid, rival_uid, rival_caption, rival_margin from suspicion")
    assert len(found) == len(first)
    for uid, rival_uid, caption, margin in found:
        assert (rival_uid, margin) == (first[uid]["rival_uid"], first[uid]["margin"])
        assert caption == captions[rival_uid]


def test_problems_keep_their_order_and_stage(run: RunFolder) -> None:
    found = rows(run, "select shard, ordinal, reason from problems")
    expected = [(row["shard"], row["ordinal"], row["reason"]) for row in written(run, "problems/index")]
    assert found == expected


def test_the_report_counts_what_is_there(run: RunFolder) -> None:
    report = ingest(run)
    assert report.n_pairs == 60
    assert report.n_scored == len(written(run, "evidence"))
    assert report.n_rivals == len(written(run, "rivals"))
    assert report.n_neighbours == len(written(run, "neighbours"))
    assert report.n_problems == len(written(run, "problems/index"))
    stored = rows(run, "select n_pairs, n_scored, n_problems from runs")
    assert stored == [(report.n_pairs, report.n_scored, report.n_problems)]


def test_ingesting_twice_is_ingesting_once(run: RunFolder) -> None:
    before = dump(run)
    ingest(run)
    assert dump(run) == before


def test_the_result_does_not_depend_on_the_size_of_a_batch(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dump(run)
    monkeypatch.setattr(ingest_module, "BATCH_PAIRS", 7)
    ingest(run)
    assert dump(run) == before


def test_a_shard_that_could_not_be_read_has_no_files(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "audit", {"a.tar": [fake("a cat"), fake("a dog")], "broken.tar": [], "c.tar": [fake("x")]}
    )
    for stage in ("pairs", "embeddings", "uids", "evidence", "rivals", "neighbours"):
        (run.root / stage / f"{shard_id('broken.tar')}.parquet").unlink()
    assert ingest(run).n_pairs == 3
    expected = [("a.tar", 2, 2), ("broken.tar", 0, 0), ("c.tar", 1, 1)]
    assert rows(run, "select shard, n_pairs, n_scored from by_shard") == expected


def test_a_shard_without_scored_pairs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "audit", {"a.tar": [fake("a cat"), fake("a dog")], "b.tar": [fake(None)]})
    for stage in ("evidence", "rivals", "neighbours"):
        (run.root / stage / f"{shard_id('b.tar')}.parquet").unlink()
    report = ingest(run)
    assert (report.n_pairs, report.n_scored) == (3, 2)


def test_a_run_without_any_pair(tmp_path: Path) -> None:
    run = make_run(tmp_path / "audit", {"a.tar": []})
    assert ingest(run).n_pairs == 0
    assert rows(run, "select count(*) from suspicion") == [(0,)]


def test_decisions_survive_a_new_scan(run: RunFolder) -> None:
    kept, gone = uid_of("00000.tar", 0), uid_of("00001.tar", 1)
    decide(run, kept, "keep", note="looked at it")
    decide(run, gone, "drop")
    make_run(run.root, {"00000.tar": random_shards(n_shards=1, n_pairs=20, seed=1)["00000.tar"]})
    report = ingest(run)
    assert (report.n_decisions, report.n_stale_decisions) == (2, 1)
    assert rows(run, "select uid, verdict, note from decisions order by verdict desc") == [
        (kept, "keep", "looked at it"),
        (gone, "drop", None),
    ]
    assert rows(run, f"select decision from suspicion where uid = '{kept}'") == [("keep",)]


def test_what_a_writer_left_that_died_is_not_taken_for_the_new_files(run: RunFolder) -> None:
    dying = (
        "import duckdb, os, sys\n"
        f"c = duckdb.connect({str(run.database)!r})\n"
        "c.execute(\"update store.scored set decision = 'drop'\").fetchall()\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", dying], check=False)
    log = run.database.with_name(run.database.name + ".wal")
    assert log.exists()
    assert ingest(run).n_decisions == 0
    assert not log.exists()
    assert rows(run, "select uid from suspicion where decision is not null") == []


def test_readers_keep_the_old_database_until_they_ask_again(run: RunFolder) -> None:
    with open_readonly(run) as connection:
        make_run(run.root, {"a.tar": [fake("one cat")]})
        ingest(run)
        assert connection.execute("select count(*) from pairs").fetchall() == [(60,)]
    assert rows(run, "select count(*) from pairs") == [(1,)]


def test_a_failed_ingest_leaves_the_old_database_and_no_rubbish(run: RunFolder) -> None:
    before = dump(run)
    (run.root / f".tmp-1-{run.database.name}").write_bytes(b"of a process that was killed")
    (run.root / "rivals" / f"{shard_id('00002.tar')}.parquet").unlink()
    with pytest.raises(StoreError, match=r"rivals.*missing; run the same scan again"):
        ingest(run)
    assert dump(run) == before
    assert not list(run.root.glob(".tmp-*"))


def test_without_a_manifest_there_is_no_finished_scan(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no finished scan here.*roclip-audit scan"):
        ingest(RunFolder(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1, "shards": 3}'])
def test_a_damaged_manifest(run: RunFolder, text: str) -> None:
    run.manifest.write_text(text)
    with pytest.raises(StoreError, match=r"manifest.json: damaged"):
        ingest(run)


@pytest.mark.parametrize("stage", ["pairs", "embeddings", "uids", "evidence", "neighbours", "problems/index"])
def test_a_damaged_file_is_named(run: RunFolder, stage: str) -> None:
    path = run.root / stage / f"{shard_id('00001.tar')}.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(StoreError, match=path.name):
        ingest(run)


def test_a_file_with_other_columns_is_named(run: RunFolder) -> None:
    path = run.root / "evidence" / f"{shard_id('00001.tar')}.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["fdr"]), path)
    with pytest.raises(StoreError, match=path.name):
        ingest(run)


def test_stages_that_disagree_about_the_pairs(run: RunFolder) -> None:
    path = run.root / "embeddings" / f"{shard_id('00001.tar')}.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(StoreError, match="different pairs"):
        ingest(run)


def test_evidence_of_another_shard(run: RunFolder) -> None:
    folder = run.root / "evidence"
    (folder / f"{shard_id('00000.tar')}.parquet").replace(folder / f"{shard_id('00001.tar')}.parquet")
    with pytest.raises(StoreError, match=r"missing|does not have"):
        ingest(run)


def test_a_scored_pair_without_evidence(run: RunFolder) -> None:
    path = run.root / "evidence" / f"{shard_id('00001.tar')}.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(StoreError, match="no evidence"):
        ingest(run)


def test_a_rival_that_is_no_pair_of_the_run(run: RunFolder) -> None:
    path = run.root / "rivals" / f"{shard_id('00001.tar')}.parquet"
    table = pq.read_table(path)
    strangers = ["f" * 32] * table.num_rows
    pq.write_table(table.set_column(2, "rival_uid", [strangers]), path)
    with pytest.raises(StoreError, match=r"rivals of .* do not fit"):
        ingest(run)


def test_two_pairs_with_one_uid(run: RunFolder) -> None:
    path = run.root / "uids" / f"{shard_id('00001.tar')}.parquet"
    table = pq.read_table(path)
    uids = table["uid"].to_pylist()
    uids[3] = uid_of("00000.tar", 0)
    pq.write_table(table.set_column(table.column_names.index("uid"), "uid", [uids]), path)
    with pytest.raises(StoreError, match="one uid"):
        ingest(run)


def test_a_previous_database_that_cannot_be_read_is_built_anew_with_the_decisions(run: RunFolder) -> None:
    decide(run, uid_of("00000.tar", 0), "drop")
    run.database.write_bytes(b"x" * 20_000)
    assert ingest(run).n_decisions == 1
    assert rows(run, "select decision from suspicion where decision is not null") == [("drop",)]


def test_a_previous_database_that_somebody_writes_to(run: RunFolder) -> None:
    holder = f"import duckdb; c = duckdb.connect({str(run.database)!r}); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        with pytest.raises(StoreLockedError, match="in use by another process"):
            ingest(run)
        process.stdin.write("\n")


def test_the_manifest_becomes_the_row_about_the_run(run: RunFolder) -> None:
    edit_manifest(
        run, contamination={"estimate": 0.25, "low": 0.125, "high": 0.5}, seed=7, parameters={"b": 1, "a": [2]}
    )
    ingest(run)
    found = rows(run, "select schema_version, encoder, views, pool_size, rounds, seed, parameters from runs")
    assert found[0][:6] == (7, "embedded", ["whole", "inner", "blur", "silhouette"], 256, 32, 7)
    assert found[0][6] == '{"a": [2], "b": 1}'
    assert rows(run, "select estimate, low, high from contamination") == [(0.25, 0.125, 0.5)]


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_PAIR = st.builds(
    FakePair,
    caption=_TEXT,
    key=_TEXT,
    url=st.none() | _TEXT,
    suspicion=st.none() | st.floats(0, 1),
    scored=st.just(True),
)


@given(
    st.dictionaries(st.sampled_from(["a.tar", "b/c.tar", "ü.tar", "[x]*.tar"]), st.lists(_PAIR, max_size=4), min_size=1)
)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, shards: dict[str, list[FakePair]]) -> None:
    run = make_run(tmp_path_factory.mktemp("any") / "au[d]it*", shards)
    ingest(run)
    expected = [
        (shard, i, pair.key, pair.caption, pair.url) for shard, pairs in shards.items() for i, pair in enumerate(pairs)
    ]
    assert rows(run, "select shard, ordinal, key, caption, url from pairs order by pair") == expected


def test_the_database_is_a_plain_duckdb_file(run: RunFolder) -> None:
    with duckdb.connect(os.fspath(run.database), read_only=True) as connection:
        assert connection.execute("select count(*) from suspicion").fetchall()[0][0] > 0


def test_campaigns_come_with_their_pairs(tmp_path: Path) -> None:
    shards = {"00000.tar": [fake("a cat"), fake("a dog"), fake("a boat")]}
    run = make_run(tmp_path / "audit", shards, campaigns={"a boat": [("00000.tar", 2), ("00000.tar", 0)]})
    ingest(run)
    assert rows(run, "select campaign, kind, label, n_pairs from campaigns") == [(1, "captions", "a boat", 2)]
    assert rows(run, "select caption from campaign_pairs join suspicion using (uid) order by all") == [
        ("a boat",),
        ("a cat",),
    ]


def test_a_run_without_a_campaign_step_has_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "audit", {"00000.tar": [fake("a cat"), fake("a dog")]})
    ingest(run)
    assert rows(run, "select (select count(*) from campaigns) + (select count(*) from campaign_pairs)") == [(0,)]
