"""Decisions are written once, in both places that show them, and never while a scan runs."""

from __future__ import annotations

from typing import Any, cast

import pytest

from roclip_audit.audit.decisions import Verdict, decide
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.errors import ConfigError, StoreLockedError
from roclip_audit.core.run import RunFolder
from tests.audit.runkit import uid_of

UID = uid_of("00000.tar", 0)


def stored(run: RunFolder) -> tuple[list[Any], list[Any]]:
    with open_readonly(run) as connection:
        return (
            connection.execute("select verdict, note from decisions").fetchall(),
            connection.execute(f"select decision from suspicion where uid = '{UID}'").fetchall(),
        )


def test_a_decision_can_be_made_changed_and_taken_back(run: RunFolder) -> None:
    decide(run, UID, "drop", note="a 'planted' \x1b[31m pair")
    assert stored(run) == ([("drop", "a 'planted' \x1b[31m pair")], [("drop",)])
    decide(run, UID, "keep")
    assert stored(run) == ([("keep", None)], [("keep",)])
    decide(run, UID, None)
    assert stored(run) == ([], [(None,)])
    assert not run.database.with_name(run.database.name + ".wal").exists()


def test_what_cannot_be_decided(run: RunFolder) -> None:
    with pytest.raises(ConfigError, match="no such pair"):
        decide(run, "f" * 32, "drop")
    with pytest.raises(ConfigError, match="unknown verdict"):
        decide(run, UID, cast("Verdict", "perhaps"))
    assert stored(run) == ([], [(None,)])


def test_nothing_is_decided_while_a_scan_runs(run: RunFolder) -> None:
    with run.locked(), pytest.raises(StoreLockedError):
        decide(run, UID, "drop")
