"""A rule, decisions and missing evidence become one row per pair; nothing but a condition is accepted as a rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roclip_audit.audit.decisions import decide
from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.select import write_selection
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import RunFolder
from roclip_audit.core.selection import open_selection
from tests.audit.runkit import fake, make_run, uid_of


def selected(path: Path) -> dict[str, str | None]:
    """Return uid -> reason, checking what every selection has to hold."""
    rows = pq.read_table(path).to_pylist()
    assert all(row["keep"] == (row["reason"] is None) for row in rows)
    return {row["uid"]: row["reason"] for row in rows}


def scores(run: RunFolder) -> list[dict[str, Any]]:
    with open_readonly(run) as connection:
        return connection.sql("select uid, suspicion, fdr, caption from suspicion").to_dicts()  # type: ignore[no-any-return]


def test_the_rule_removes_what_it_names(shared_run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "selection.parquet"
    report = write_selection(shared_run, "fdr <= 0.3", path)
    named = {row["uid"] for row in scores(shared_run) if row["fdr"] <= 0.3}
    found = selected(path)
    assert {uid for uid, reason in found.items() if reason} == named
    assert {reason for reason in found.values() if reason} == {"where: fdr <= 0.3"}
    assert (report.n_pairs, report.n_removed, report.n_by_rule) == (60, len(named), len(named))
    assert report.n_kept + report.n_removed == report.n_pairs
    removed = [row["suspicion"] for row in scores(shared_run) if row["uid"] in named]
    kept = [row["suspicion"] for row in scores(shared_run) if row["uid"] not in named]
    assert report.expected_sound_removed == pytest.approx(sum(1 - s for s in removed))
    assert report.expected_mismatched_kept == pytest.approx(sum(kept))


def test_one_row_per_pair_in_the_order_of_the_scan(shared_run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "selection.parquet"
    write_selection(shared_run, "fdr <= 0.3", path)
    table = pq.read_table(path)
    assert {field.name: str(field.type) for field in table.schema} == {
        "shard": "string",
        "ordinal": "uint32",
        "uid": "string",
        "keep": "bool",
        "reason": "string",
    }
    with open_readonly(shared_run) as connection:
        pairs = connection.execute("select shard, ordinal, uid from pairs order by pair").fetchall()
    assert [(row["shard"], row["ordinal"], row["uid"]) for row in table.to_pylist()] == pairs


def test_curate_can_read_it(shared_run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "selection.parquet"
    write_selection(shared_run, "fdr <= 0.3", path)
    selection = open_selection(path)
    assert sum(len(selection.of_shard(f"{i:05d}.tar").keep) for i in range(3)) == 60


def test_decisions_beat_the_rule_both_ways(run: RunFolder, tmp_path: Path) -> None:
    rows = sorted(scores(run), key=lambda row: float(row["fdr"]))
    spared, condemned = rows[0]["uid"], rows[-1]["uid"]
    decide(run, spared, "keep")
    decide(run, condemned, "drop")
    report = write_selection(run, "fdr <= 0.3", tmp_path / "s.parquet", remove_unscored=True)
    found = selected(tmp_path / "s.parquet")
    assert found[spared] is None
    assert found[condemned] == "decision: drop"
    assert (report.n_spared_by_decision, report.n_by_decision) == (1, 1)
    assert report.n_removed == report.n_by_rule + report.n_by_decision + report.n_unscored_removed


def test_unscored_pairs_stay_unless_asked_for(tmp_path: Path) -> None:
    pairs = [fake("a cat"), fake(None), fake("a dog", scored=False, problem="image_truncated"), fake("x", scored=False)]
    run = make_run(tmp_path / "audit", {"a.tar": pairs})
    ingest(run)
    report = write_selection(run, "false", tmp_path / "s.parquet")
    assert (report.n_kept, report.n_unscored, report.n_unscored_removed) == (4, 3, 0)
    report = write_selection(run, "false", tmp_path / "s.parquet", remove_unscored=True)
    assert (report.n_kept, report.n_unscored_removed) == (1, 3)
    assert list(selected(tmp_path / "s.parquet").values()) == [
        None,
        "unscored: missing_caption",
        "unscored: image_truncated",
        "unscored: unknown",
    ]
    kept = uid_of("a.tar", 1)
    decide(run, kept, "keep")
    write_selection(run, "false", tmp_path / "s.parquet", remove_unscored=True)
    assert selected(tmp_path / "s.parquet")[kept] is None


@pytest.mark.parametrize(
    "where",
    [
        "true",
        "suspicion > 0.5 and caption ilike '%cat%' or (n_duplicates > 1)",
        "fdr <= 0.1 -- the default",
        "fdr <= 0.1 /* c */",
        "uid in (select uid from rivals where margin > 0)",
        "suspicion > (select avg(suspicion) from suspicion)",
        "list_contains([x for x in q_by_view if x > 0.9], q)",
        "caption = 'it''s; -- not the end'",
        "true) or (false",
    ],
)
def test_conditions(shared_run: RunFolder, tmp_path: Path, where: str) -> None:
    report = write_selection(shared_run, where, tmp_path / "s.parquet")
    with open_readonly(shared_run) as connection:
        expected = connection.execute(f"select count(*) from suspicion where ({where}\n)").fetchall()[0][0]
    assert report.n_by_rule == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "one condition"),
        ("  \n", "one condition"),
        ("-- only a comment", "."),
        ("fdr", "of type DOUBLE"),
        ("null", "of type"),
        ("'true'", "of type VARCHAR"),
        ("fdr <= 0.1; drop table pairs", "syntax error"),
        ("true); drop table pairs; select (1", "."),
        ("true) union select 1 from (select 1", "one condition"),
        ("true) union all select uid from pairs where (true", "one condition"),
        ("true) group by all having (true", "one condition"),
        ("true) order by (1", "one condition"),
        ("true) limit (1", "one condition"),
        ("true) qualify (row_number() over () < 2", "one condition"),
        ("true) window w as (order by 1", "."),
        ("$where = 'x'", "one condition"),
        ("?", "one condition"),
        ("nope > 1", "Candidate bindings"),
        ("caption::int > 3", "Conversion Error"),
        ("suspicion > avg(suspicion)", "Error"),
        ("row_number() over () < 3", "window"),
        ("uid in (select column0 from read_csv('/etc/passwd'))", "file system"),
        ("exists (from '/etc/passwd')", "does not exist"),
        ("uid in (from glob('/*'))", "file system"),
        ("fdr <= 0.1 /* c", "unterminated"),
        ("'", "unterminated"),
    ],
)
def test_everything_else_is_refused(shared_run: RunFolder, tmp_path: Path, where: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_selection(shared_run, where, tmp_path / "s.parquet")
    assert list(tmp_path.iterdir()) == []


_PART = st.sampled_from(
    ["true", "fdr <= 0.1", ")", "(", ";", "--", "or", "and", "union", "select 1", "'", '"', "/*", "*/"]
)


@given(st.lists(_PART, max_size=6).map(" ".join))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_accepted_selects_every_pair_once(shared_run: RunFolder, tmp_path: Path, where: str) -> None:
    try:
        report = write_selection(shared_run, where, tmp_path / "s.parquet")
    except ConfigError:
        return
    assert report.n_pairs == 60
    assert report.n_kept + report.n_removed == 60
    assert len(selected(tmp_path / "s.parquet")) == 60
