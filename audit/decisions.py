"""What people decide about pairs: kept in the database, stronger than every rule, carried over by every ingest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import duckdb

from roclip_audit.audit.store import connected, store_error
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import RunFolder

Verdict = Literal["keep", "drop"]


def decide(run: RunFolder, uid: str, verdict: Verdict | None, *, note: str | None = None) -> None:
    """Record a decision about one pair, in place of an earlier one; None takes it back.

    Args:
        run: the run folder; nothing may be scanning into it.
        uid: the whole uid of the pair.
        verdict: keep or drop.
        note: why.

    Raises:
        ConfigError: an unknown verdict, or no such pair.
        StoreLockedError: a scan is running, or another process has the database open.
        StoreError: the database is missing, damaged or of another version.
    """
    if verdict not in (None, "keep", "drop"):
        raise ConfigError(f"unknown verdict {verdict!r}; use keep or drop")
    with run.locked(), connected(run.database, read_only=False) as connection:
        if not connection.execute("select 1 from pairs where uid = ?", [uid]).fetchall():
            raise ConfigError(f"{uid}: no such pair in {run.root}")
        try:
            _write(connection, uid, verdict, note)
        except duckdb.Error as error:
            raise store_error(run.database, error) from error


def _write(connection: duckdb.DuckDBPyConnection, uid: str, verdict: Verdict | None, note: str | None) -> None:
    """Change ``decisions`` and its copy in ``store.scored`` in one transaction."""
    connection.begin()
    connection.execute("delete from decisions where uid = ?", [uid]).fetchall()
    if verdict is not None:
        now = datetime.now(UTC).replace(tzinfo=None)
        connection.execute("insert into decisions values (?, ?, ?, ?)", [uid, verdict, note, now]).fetchall()
    connection.execute("update store.scored set decision = ? where uid = ?", [verdict, uid]).fetchall()
    connection.commit()
