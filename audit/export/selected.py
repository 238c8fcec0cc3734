"""Which pairs an export is about: the condition, checked, as SQL that every exporter builds its query from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from roclip_audit.audit.query import QueryResult, clear_errors, run_query
from roclip_audit.audit.select import check_predicate
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.progress import counted
from roclip_audit.core.run import RunFolder

LISTED = "order by risk desc, suspicion desc, uid"
"""The order of every list."""


def condition(where: str | None) -> str:
    """Return the condition in parentheses; all pairs if there is none."""
    return "(true)" if where is None else f"(\n{where}\n)"


def checked(run: RunFolder, where: str | None) -> int:
    """Check a condition over ``suspicion`` and count the pairs that it selects.

    Raises:
        ConfigError: it is no condition, or fails on some pair.
        StoreError: the database is missing, damaged or locked.
    """
    with open_readonly(run) as connection, clear_errors(run.database):
        if where is not None:
            check_predicate(connection, where)
        sql = f"select count(*) from suspicion where {condition(where)}"  # noqa: S608  # checked above
        return int(connection.execute(sql).fetchall()[0][0])


def unscored_note(run: RunFolder) -> tuple[str, ...]:
    """Return a note about the pairs without evidence, which no condition over ``suspicion`` selects."""
    with open_readonly(run) as connection, clear_errors(run.database):
        n = int(connection.execute("select count(*) from pairs where not scored").fetchall()[0][0])
    return (f"{counted(n, 'pairs')} without evidence left out (see the table problems)",) if n else ()


@contextmanager
def selected_rows(run: RunFolder, where: str | None, *, columns: str = "*") -> Iterator[QueryResult]:
    """Answer with the selected rows of ``suspicion``, the most risky first.

    Args:
        run: the run folder.
        where: a condition that has been ``checked``.
        columns: as SQL, our own.
    """
    sql = f"select {columns} from suspicion where {condition(where)} {LISTED}"  # noqa: S608
    with run_query(run, sql) as result:
        yield result
