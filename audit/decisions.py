"""Decide about pairs: write to the log of decisions, and let the database file catch up where nobody is reading it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import duckdb

from roclip_audit.audit.decision_log import (
    Verdict,
    default_reviewer,
    log_bytes,
    new_decisions,
    open_log,
    take_back_last,
)
from roclip_audit.audit.decision_tables import fold_decisions, folded_bytes
from roclip_audit.audit.store import connected, open_readonly, store_error
from roclip_audit.core.errors import ConfigError, StoreLockedError
from roclip_audit.core.run import RunFolder

_UNKNOWN = "select unnest($uids) as uid except select uid from pairs limit 1"


def decide(
    run: RunFolder, uid: str, verdict: Verdict | None, *, note: str | None = None, reviewer: str | None = None
) -> None:
    """Record a decision about one pair, in place of an earlier one; None takes it back.

    It counts at once, also while a scan runs or others read the database.

    Args:
        run: the run folder.
        uid: the whole uid of the pair.
        verdict: keep or drop.
        note: why.
        reviewer: who; the user of this process by default.

    Raises:
        ConfigError: an unknown verdict, no such pair, or a note that is too long.
        StoreLockedError: another process is writing to the database.
        StoreError: the database is missing, damaged or of another version, or the log cannot be written.
    """
    decide_all(run, [uid], verdict or "clear", note=note, reviewer=reviewer)
    with suppress(StoreLockedError):
        fold(run)


def decide_all(
    run: RunFolder, uids: Sequence[str], verdict: str, *, note: str | None = None, reviewer: str | None = None
) -> str:
    """Record one decision about several pairs as one action, in the log alone; return the action's name.

    Raises:
        ConfigError: an unknown verdict, no such pair, or a note that is too long.
        StoreLockedError: another process is writing to the database.
        StoreError: the database is missing, damaged or of another version, or the log cannot be written.
    """
    lines = new_decisions(uids, verdict, reviewer=reviewer or default_reviewer(), note=note)
    if not lines:
        raise ConfigError("no pairs to decide about")
    with open_readonly(run) as connection:
        unknown = connection.execute(_UNKNOWN, {"uids": list(uids)}).fetchall()
    if unknown:
        raise ConfigError(f"{unknown[0][0]}: no such pair in {run.root}")
    with open_log(run) as log:
        log.append(lines)
    return lines[0].action


def undo(run: RunFolder, *, reviewer: str | None = None) -> tuple[int, int] | None:
    """Take back the last action of a reviewer that still stands.

    Returns:
        The number of pairs restored, and of those left alone because somebody decided about them since; None if there
        is nothing to take back.

    Raises:
        StoreError: the log cannot be read or written.
    """
    name = reviewer or default_reviewer()
    with open_log(run) as log:
        found = take_back_last(log.read(), name)
        if found is None:
            return None
        lines, n_left = found
        log.append(lines)
    return len(lines), n_left


def fold(run: RunFolder) -> None:
    """Copy the log into the database file, so that programs which open the file alone see it, and queries are fast.

    Raises:
        StoreLockedError: a scan is running, or another process has the database open.
        StoreError: the database is missing, damaged or of another version, or the log cannot be read.
    """
    with run.locked(), connected(run.database, read_only=False) as connection:
        try:
            if folded_bytes(connection) != log_bytes(run):
                fold_decisions(connection, run)
        except duckdb.Error as error:
            raise store_error(run.database, error) from error
