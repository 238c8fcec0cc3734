"""Read-only connections that several requests share, which follow the database when a new scan replaces it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import duckdb

from roclip_audit.audit.decision_tables import CurrentDecisions
from roclip_audit.audit.query import clear_error
from roclip_audit.audit.store import connected
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import RunFolder

AT_ONCE: Final = 3
LIMIT_S: Final = 10.0
"""Longest time of one query; most take a tenth of a second with a million pairs."""


class Connections:
    """A few connections to one run; each shows the decisions as they are when it is handed out."""

    def __init__(self, run: RunFolder, *, limit_s: float = LIMIT_S) -> None:
        self._run = run
        self._limit_s = limit_s
        self._turn = threading.Semaphore(AT_ONCE)
        self._state = threading.Condition()
        self._idle: list[tuple[duckdb.DuckDBPyConnection, CurrentDecisions]] = []
        self._n_out = 0
        self._open = ExitStack()
        self._stamp = (0, 0)

    @property
    def stamp(self) -> tuple[int, int]:
        """Changes when the database is replaced."""
        return self._stamp

    @contextmanager
    def use(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Hand out a connection for one piece of work, which is stopped when it takes too long.

        Raises:
            ConfigError: the query is wrong or takes too long.
            StoreError: the database is missing, damaged, locked or of another version.
        """
        with self._turn:
            connection, decisions = self._take()
            timer = threading.Timer(self._limit_s, connection.interrupt)
            try:
                decisions.refresh()
                timer.start()
                yield connection
            except duckdb.InterruptException as error:
                raise ConfigError(f"stopped: the query took longer than {self._limit_s:.0f} s") from error
            except duckdb.Error as error:
                raise clear_error(error, self._run.database) from error
            finally:
                timer.cancel()
                self._give_back(connection, decisions)

    def _take(self) -> tuple[duckdb.DuckDBPyConnection, CurrentDecisions]:
        with self._state:
            stamp = self._stamp_now()
            if stamp != self._stamp:
                # DuckDB opens a path that is open already as the file that it was: all have to be closed first.
                while self._n_out:
                    self._state.wait()
                self.close()
                self._stamp = stamp
            if self._idle:
                found = self._idle.pop()
            else:
                connection = self._open.enter_context(connected(self._run.database, read_only=True))
                found = connection, CurrentDecisions(connection, self._run)
            self._n_out += 1
            return found

    def _give_back(self, connection: duckdb.DuckDBPyConnection, decisions: CurrentDecisions) -> None:
        with self._state:
            self._n_out -= 1
            self._idle.append((connection, decisions))
            self._state.notify_all()

    def _stamp_now(self) -> tuple[int, int]:
        try:
            found = self._run.database.stat()
        except FileNotFoundError:
            return (0, 0)  # opening it will say what to do
        return found.st_ino, found.st_mtime_ns

    def close(self) -> None:
        """Close all connections; later uses open new ones."""
        self._idle.clear()
        self._open.close()
        self._open = ExitStack()
