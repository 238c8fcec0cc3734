"""What the database knows of the log of decisions: its own copy, and on top of it what was decided since.

The file is written by one process while nobody reads it, and a decision must not wait for that. So a reader's
connection compares the log with the copy that the file holds, and where the log is longer it puts temporary relations
of the same names before those of the file: ``decision_history``, ``decisions``, and every view that shows a decision.
Temporary names win over those of the file, so every query sees what was decided a moment ago.

Cost: nothing while the copy is complete. Else the join makes the order-by-limit query over 1,000,000 pairs slower
(benchmarks/bench_review.py), until ``fold`` or the next ingest.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from roclip_audit.audit.decision_log import Decision, log_bytes, read_log
from roclip_audit.audit.relations import shadow_statements
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import DECISION_HISTORY
from roclip_audit.core.tables import arrow_schema

_NOW = "select uid, verdict from decision_history qualify row_number() over (partition by uid order by line desc) = 1"


def insert_history(connection: duckdb.DuckDBPyConnection, decisions: Sequence[Decision], *, first_line: int) -> None:
    """Append lines of the log to ``decision_history``."""
    if not decisions:
        return
    names = [column.name for column in DECISION_HISTORY if column.name != "line"]
    columns: dict[str, list[object]] = {name: [getattr(one, name) for one in decisions] for name in names}
    rows = {"line": list(range(first_line, first_line + len(decisions)))} | columns
    connection.register("incoming", pa.table(rows, schema=arrow_schema(DECISION_HISTORY)))
    connection.execute("insert into decision_history by name select * from incoming").fetchall()
    connection.unregister("incoming")


def folded_bytes(connection: duckdb.DuckDBPyConnection) -> int:
    """Return how much of the log the database file holds."""
    return int(connection.execute("select bytes from store.decision_log").fetchall()[0][0])


class CurrentDecisions:
    """Temporary relations on one connection that show the log as it is now.

    Attributes:
        n_lines: decisions read so far; grows with every refresh that finds new ones.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, run: RunFolder) -> None:
        """Put the relations before those of the file and read the whole log."""
        self.n_lines = 0
        self._connection = connection
        self._run = run
        self._end = 0
        database = connection.execute("select current_database()").fetchall()[0][0]
        scored = f'"{database}".store.scored'
        self._do("create temp table decided_now (pair ubigint, verdict varchar)")
        self._do(
            "create temp view scored_now as select s.* replace (n.verdict as decision) "  # noqa: S608  # our own names
            f"from {scored} s left join decided_now n on n.pair = s.pair"
        )
        for statement in shadow_statements("scored_now"):
            self._do(statement)
        self.refresh()

    def _do(self, sql: str) -> None:
        self._connection.execute(sql).fetchall()

    def refresh(self) -> bool:
        """Read what was appended since; return whether there was anything.

        Raises:
            StoreError: the log cannot be read.
        """
        size = log_bytes(self._run)
        if size == self._end:
            return False
        if size < self._end:  # another log was put in its place
            self.n_lines, self._end = 0, 0
            self._do("delete from decision_history")
        decisions, self._end = read_log(self._run, start=self._end)
        insert_history(self._connection, decisions, first_line=self.n_lines)
        self.n_lines += len(decisions)
        self._do("delete from decided_now")
        self._do(f"insert into decided_now select p.pair, n.verdict from ({_NOW}) n join pairs p using (uid) "  # noqa: S608
                 "where n.verdict <> 'clear'")  # fmt: skip
        return bool(decisions)


def show_current_decisions(connection: duckdb.DuckDBPyConnection, run: RunFolder) -> None:
    """Make a connection show what was decided since the database file last heard of the log.

    A run whose log is gone (a database that was copied alone) shows what the file holds.

    Raises:
        StoreError: the log cannot be read.
    """
    size = log_bytes(run)
    if size and size != folded_bytes(connection):
        CurrentDecisions(connection, run)


def fold_decisions(connection: duckdb.DuckDBPyConnection, run: RunFolder) -> None:
    """Copy the log into the database file in one transaction; the connection may write, the caller holds the run.

    Raises:
        StoreError: the log cannot be read.
    """
    decisions, n_bytes = read_log(run)
    connection.begin()
    for statement in (
        "delete from decision_history",
        "update store.scored set decision = null where decision is not null",
    ):
        connection.execute(statement).fetchall()
    insert_history(connection, decisions, first_line=0)
    connection.execute(
        "update store.scored set decision = d.verdict from decisions d where d.uid = store.scored.uid"
    ).fetchall()
    connection.execute("update store.decision_log set bytes = ?", [n_bytes]).fetchall()
    connection.commit()
