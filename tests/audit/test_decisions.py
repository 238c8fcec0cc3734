"""Decisions go to a log that nothing overwrites; every reader sees them at once, and the database catches up."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import duckdb
import pytest

from roclip_audit.audit.decision_log import LOG_NAME, log_path, read_log
from roclip_audit.audit.decisions import decide, decide_all, fold, undo
from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.select import write_selection
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.errors import ConfigError, StoreLockedError
from roclip_audit.core.run import RunFolder
from tests.audit.runkit import uid_of

UID = uid_of("00000.tar", 0)
OTHER = uid_of("00001.tar", 1)


def rows(run: RunFolder, sql: str) -> list[tuple[Any, ...]]:
    with open_readonly(run) as connection:
        return connection.execute(sql).fetchall()


def stored(run: RunFolder) -> tuple[list[Any], list[Any]]:
    return (
        rows(run, "select verdict, note from decisions"),
        rows(run, f"select decision from suspicion where uid = '{UID}'"),
    )


def in_the_file(run: RunFolder) -> list[tuple[Any, ...]]:
    """Return the verdicts that another program finds, which opens the file without us."""
    with duckdb.connect(run.database, read_only=True) as connection:
        return connection.execute("select uid, decision from suspicion where decision is not null").fetchall()


def test_a_decision_can_be_made_changed_and_taken_back(run: RunFolder) -> None:
    decide(run, UID, "drop", note="a 'planted' \x1b[31m pair")
    assert stored(run) == ([("drop", "a 'planted' \x1b[31m pair")], [("drop",)])
    decide(run, UID, "keep")
    assert stored(run) == ([("keep", None)], [("keep",)])
    decide(run, UID, None)
    assert stored(run) == ([], [(None,)])
    assert not run.database.with_name(run.database.name + ".wal").exists()
    history = rows(run, "select line, verdict, note from decision_history order by line")
    assert history == [(0, "drop", "a 'planted' \x1b[31m pair"), (1, "keep", None), (2, "clear", None)]


def test_what_cannot_be_decided(run: RunFolder) -> None:
    with pytest.raises(ConfigError, match="no such pair"):
        decide(run, "f" * 32, "drop")
    with pytest.raises(ConfigError, match="unknown verdict"):
        decide_all(run, [UID], "perhaps")
    with pytest.raises(ConfigError, match="note"):
        decide(run, UID, "drop", note="x" * 3000)
    with pytest.raises(ConfigError, match="name"):
        decide(run, UID, "drop", reviewer="  x" * 40)
    assert stored(run) == ([], [(None,)])
    assert not log_path(run).exists()


def test_a_decision_is_seen_at_once_while_others_read_and_scan(run: RunFolder, tmp_path: Path) -> None:
    (flagged,) = rows(run, "select uid from suspicion where fdr <= 0.1 order by fdr limit 1")[0]
    before = rows(run, "select sum(n_flagged) from by_shard")[0][0]
    with run.locked(), open_readonly(run):
        decide(run, flagged, "keep", reviewer="anna")
        assert rows(run, "select uid, verdict, reviewer from decisions") == [(flagged, "keep", "anna")]
        assert rows(run, "select decision from suspicion where decision is not null") == [("keep",)]
        assert rows(run, "select sum(n_flagged) from by_shard") == [(before - 1,)]
        assert rows(run, "select sum(n_flagged) from by_domain") == [(before - 1,)]
        assert (flagged,) not in rows(run, "select uid from flagged")
        assert write_selection(run, "fdr <= 0.1", tmp_path / "selection.parquet").n_spared_by_decision == 1
    assert in_the_file(run) == []


def test_the_file_catches_up(run: RunFolder) -> None:
    with open_readonly(run):
        decide(run, UID, "drop")
        with pytest.raises(StoreLockedError):
            fold(run)
    assert in_the_file(run) == []
    fold(run)
    assert in_the_file(run) == [(UID, "drop")]
    with open_readonly(run) as connection:
        assert connection.execute("select count(*) from duckdb_views() where view_name = 'suspicion'").fetchall() == [
            (1,)
        ]
    decide(run, UID, None)
    assert in_the_file(run) == []
    ingest(run)
    assert len(rows(run, "from decision_history")) == 2


def test_a_new_scan_takes_the_log_along_and_drops_nothing_that_comes_meanwhile(run: RunFolder) -> None:
    decide_all(run, [UID], "drop")
    with run.locked():
        ingest(run)
        decide_all(run, [OTHER], "keep")
    assert in_the_file(run) == [(UID, "drop")]
    assert dict(rows(run, "select uid, decision from suspicion where decision is not null")) == {
        UID: "drop", OTHER: "keep",
    }  # fmt: skip


def test_a_database_that_was_copied_without_its_log_shows_what_it_has(run: RunFolder) -> None:
    decide(run, UID, "drop")
    log_path(run).unlink()
    assert stored(run) == ([("drop", None)], [("drop",)])


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_line_costs_itself_and_no_other(run: RunFolder, cut: int) -> None:
    decide_all(run, [UID], "drop", note="first")
    decide_all(run, [OTHER], "keep", note="torn by a crash")
    log = log_path(run)
    log.write_bytes(log.read_bytes()[:-cut])
    assert rows(run, "select uid, verdict from decisions") == [(UID, "drop")]
    decide_all(run, [OTHER], "drop", note="after the crash")
    assert dict(rows(run, "select note, verdict from decisions"))["after the crash"] == "drop"
    assert len(rows(run, "from decisions")) == 2


def test_lines_that_are_no_decisions_are_passed_over(run: RunFolder) -> None:
    decide_all(run, [UID], "drop")
    with log_path(run).open("ab") as log:
        log.write(
            b'\xff\xfe\n[]\n{}\n"x"\n{"uid": 1, "verdict": "explode", "reviewer": "", "at": "now", "action": ""}\n\n'
        )
    decide_all(run, [OTHER], "keep")
    assert [one.verdict for one in read_log(run)[0]] == ["drop", "keep"]
    assert len(rows(run, "from decisions")) == 2


def test_the_last_of_two_reviewers_wins_and_the_history_has_both(run: RunFolder) -> None:
    decide_all(run, [UID], "drop", reviewer="anna", note="planted")
    decide_all(run, [UID], "keep", reviewer="ben", note="no, a real boat")
    assert rows(run, "select verdict, reviewer, note from decisions") == [("keep", "ben", "no, a real boat")]
    history = rows(run, "select reviewer, verdict from decision_history order by line")
    assert history == [("anna", "drop"), ("ben", "keep")]


def test_undo_goes_back_action_by_action_and_leaves_the_others_alone(run: RunFolder) -> None:
    decide_all(run, [UID, OTHER], "drop", reviewer="anna", note="planted")
    decide_all(run, [UID, OTHER], "keep", reviewer="anna")
    assert undo(run, reviewer="ben") is None
    assert undo(run, reviewer="anna") == (2, 0)
    assert set(rows(run, "select uid, verdict, note from decisions")) == {
        (UID, "drop", "planted"), (OTHER, "drop", "planted"),
    }  # fmt: skip
    decide_all(run, [OTHER], "keep", reviewer="ben")
    assert undo(run, reviewer="anna") == (1, 1)
    assert rows(run, "select uid, verdict, reviewer from decisions") == [(OTHER, "keep", "ben")]
    assert undo(run, reviewer="anna") is None
    assert len(read_log(run)[0]) == 8


def test_writers_take_turns(run: RunFolder) -> None:
    """Several threads append long actions; every line is whole and every action in one piece."""
    uids = [uid for (uid,) in rows(run, "select uid from pairs")]

    def write(name: str) -> None:
        for _ in range(5):
            decide_all(run, uids, "drop", reviewer=name, note="n" * 500)

    threads = [threading.Thread(target=write, args=(f"r{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log_path(run).name == LOG_NAME
    found = read_log(run)[0]
    assert len(found) == 20 * len(uids) == log_path(run).read_bytes().count(b"\n")
    actions = [one.action for one in found]
    assert all(len(set(actions[i : i + len(uids)])) == 1 for i in range(0, len(actions), len(uids)))
