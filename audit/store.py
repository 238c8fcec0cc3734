"""Open the database of a run: read-only and shut in by default, with errors that say what to do.

DuckDB allows one writing process or many reading ones. Nobody here writes for long: ``ingest`` builds a new file and
moves it into place, and decisions go to a log of their own (audit/decision_log.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from roclip_audit.audit.decision_tables import show_current_decisions
from roclip_audit.audit.relations import SCHEMA_VERSION
from roclip_audit.core.errors import StoreError, StoreLockedError
from roclip_audit.core.run import RunFolder

_SEALED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_persistent_secrets": False,
    "python_enable_replacements": False,
    "lock_configuration": True,
}


def first_line(error: Exception) -> str:
    """Return the first line of DuckDB's message, which is the sentence; the rest points into the query."""
    return str(error).split("\n", 1)[0]


def is_damage(error: Exception, database: Path) -> bool:
    """Tell whether an error of a query speaks of the database file rather than of the query.

    By its text, because errors that occur in the middle of an answer come through Arrow, without DuckDB's class.
    """
    text = str(error)
    if text.startswith("IO Error"):
        return str(database) in text
    return text.startswith(("Serialization Error", "FATAL Error")) or "Corrupt database" in text


def store_error(path: Path, error: Exception) -> StoreError:
    """Translate an error of opening or reading a database file into what the user can do."""
    if "Could not set lock" in str(error) or "different configuration" in str(error):
        return StoreLockedError(f"{path}: in use by another process ({first_line(error)}); wait for it, then try again")
    return StoreError(
        f"{path}: damaged or written by another version of DuckDB ({first_line(error)}); "
        "move it away and run the same scan again: it only builds the database anew"
    )


def check_version(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Refuse a database with other tables than this version knows.

    Raises:
        StoreError: it is not ours, or of another schema version.
    """
    try:
        found = connection.execute("select schema_version from runs").fetchall()
    except (duckdb.CatalogException, duckdb.BinderException) as error:
        raise StoreError(f"{path}: not a database of roclip-audit ({first_line(error)})") from error
    version = found[0][0] if found else None
    if version is None or version < SCHEMA_VERSION:
        raise StoreError(
            f"{path}: has schema version {version}, this roclip-audit reads {SCHEMA_VERSION}; "
            "run the same scan again: it only builds the database anew"
        )
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path}: has schema version {version}, this roclip-audit reads {SCHEMA_VERSION}; "
            "it was written by a newer roclip-audit: upgrade to read it"
        )


@contextmanager
def connected(path: Path, *, read_only: bool, allow_external: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect to a database file and close it at the end.

    Raises:
        StoreLockedError: another process is writing (or, to write, has it open).
        StoreError: the file is missing, damaged or of another version.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no database here; run `roclip-audit scan SHARDS --out {path.parent}` first")
    try:
        connection = duckdb.connect(
            path, read_only=read_only, config=_SEALED | {"enable_external_access": allow_external}
        )
    except duckdb.Error as error:
        raise store_error(path, error) from error
    try:
        try:
            check_version(connection, path)
        except duckdb.Error as error:
            raise store_error(path, error) from error
        yield connection
    finally:
        connection.close()


def refuse_if_written_to(path: Path) -> None:
    """Make sure that no other process is writing to a database file; one that cannot be read is written by nobody.

    Raises:
        StoreLockedError: another process is writing to it.
    """
    try:
        duckdb.connect(path, read_only=True, config=_SEALED).close()
    except duckdb.Error as error:
        found = store_error(path, error)
        if isinstance(found, StoreLockedError):
            raise found from error


@contextmanager
def open_readonly(run: RunFolder, *, allow_external: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect to a run's database so that no query can change it, nor anything else.

    Decisions are shown as they stand in the log now.

    Queries cannot read or write files, install or load extensions, see this process's variables or change settings.

    Args:
        run: the run folder.
        allow_external: let queries read and write files (``read_csv``, ``copy ... to``); settings stay locked and
            extensions are still neither downloaded nor loaded.

    Raises:
        StoreLockedError: another process is writing to the database.
        StoreError: it is missing, damaged or of another version.
    """
    with connected(run.database, read_only=True, allow_external=allow_external) as connection:
        show_current_decisions(connection, run)
        yield connection
