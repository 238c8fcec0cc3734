"""Opening the database: what is refused, and with which words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from roclip_audit.audit.relations import SCHEMA_VERSION
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.errors import EXIT_STORE, StoreError, StoreLockedError
from roclip_audit.core.run import RunFolder


def refused(run: RunFolder) -> str:
    with pytest.raises(StoreError) as found, open_readonly(run) as connection:
        connection.execute("select * from pairs").fetchall()
    assert found.value.exit_code == EXIT_STORE
    return str(found.value)


def test_a_missing_database_says_which_command_makes_it(tmp_path: Path) -> None:
    assert f"run `roclip-audit scan SHARDS --out {tmp_path}` first" in refused(RunFolder(tmp_path))


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 20_000, b"SQLite format 3\x00" + bytes(9000)])
def test_another_file(run: RunFolder, content: bytes) -> None:
    run.database.write_bytes(content)
    assert "damaged" in refused(run)


def test_a_folder_in_its_place(run: RunFolder) -> None:
    run.database.unlink()
    run.database.mkdir()
    assert "no database here" in refused(run)


def test_a_truncated_database(run: RunFolder) -> None:
    content = run.database.read_bytes()
    run.database.write_bytes(content[:8192])
    assert "damaged" in refused(run)


def test_a_database_with_a_damaged_head(run: RunFolder) -> None:
    content = bytearray(run.database.read_bytes())
    content[12] ^= 0xFF
    run.database.write_bytes(content)
    assert "run the same scan again" in refused(run)


def test_a_database_of_something_else(run: RunFolder) -> None:
    run.database.unlink()
    with duckdb.connect(run.database) as connection:
        connection.execute("create table t(a int)").fetchall()
    assert "not a database of roclip-audit" in refused(run)


@pytest.mark.parametrize(
    ("version", "advice"), [(SCHEMA_VERSION + 1, "upgrade"), (0, "run the same scan again"), (None, "run the same")]
)
def test_a_database_of_another_version(run: RunFolder, version: int | None, advice: str) -> None:
    with duckdb.connect(run.database) as connection:
        connection.execute("update runs set schema_version = ?", [version]).fetchall()
    assert advice in refused(run)


def test_a_database_that_another_process_writes_to(run: RunFolder) -> None:
    holder = f"import duckdb; c = duckdb.connect({str(run.database)!r}); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        with pytest.raises(StoreLockedError, match="in use by another process"), open_readonly(run):
            pass
        process.stdin.write("\n")


@pytest.mark.parametrize(
    "sql",
    [
        "insert into decisions values ('a', 'drop', null, null)",
        "delete from pairs",
        "drop view suspicion",
        "create table t(a int)",
        "attach '{tmp}/new.duckdb' as new",
        "copy pairs to '{tmp}/new.csv'",
        "export database '{tmp}/new'",
        "select * from read_csv('{tmp}/secret.csv')",
        "select * from '{tmp}/secret.csv'",
        "select * from read_text('{tmp}/secret.csv')",
        "select * from read_blob('{tmp}/secret.csv')",
        "select * from glob('{tmp}/*')",
        "select * from sniff_csv('{tmp}/secret.csv')",
        "explain analyze copy pairs to '{tmp}/new.csv'",
        "set enable_external_access = true",
        "set threads = 1",
        "reset lock_configuration",
        "install httpfs",
        "load httpfs",
        "select * from variable_of_this_process",
    ],
)
def test_the_connection_is_shut_in(run: RunFolder, sql: str) -> None:
    folder = run.root.parent
    (folder / "secret.csv").write_text("a,b\n1,2\n")
    before = sorted(folder.iterdir())
    variable_of_this_process = __import__("polars").DataFrame({"a": [1]})  # noqa: F841
    with open_readonly(run) as connection, pytest.raises(duckdb.Error):
        connection.execute(sql.format(tmp=folder)).fetchall()
    assert sorted(folder.iterdir()) == before


def test_external_access_opens_files_and_nothing_else(run: RunFolder) -> None:
    (run.root.parent / "list.csv").write_text("a,b\n1,2\n")
    with open_readonly(run, allow_external=True) as connection:
        assert connection.execute(f"select b from read_csv('{run.root.parent}/list.csv')").fetchall() == [(2,)]
        for sql in ("set threads = 1", "load httpfs", "delete from pairs"):
            with pytest.raises(duckdb.Error):
                connection.execute(sql).fetchall()
