"""One reading statement in, values out, errors in one line."""

from __future__ import annotations

import math
from typing import Any

import pytest

from roclip_audit.audit.query import run_query
from roclip_audit.core.errors import EXIT_USAGE, ConfigError, StoreError
from roclip_audit.core.run import RunFolder


def ask(run: RunFolder, sql: str, *, allow_external: bool = False) -> list[tuple[Any, ...]]:
    with run_query(run, sql, allow_external=allow_external) as result:
        return list(result.rows())


@pytest.mark.parametrize(
    "sql",
    [
        "select 1",
        "SELECT 1;",
        "-- which?\nselect 1 -- this",
        "with x as (select 1) select * from x",
        "from pairs select count(*)",
        "table runs",
        "values (1)",
        "describe suspicion",
        "show tables",
        "show all tables",
        "summarize runs",
        "explain select * from suspicion",
        "explain analyze select count(*) from suspicion",
    ],
)
def test_reading_statements(shared_run: RunFolder, sql: str) -> None:
    assert ask(shared_run, sql)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("", "expected one SQL statement, found none"),
        ("-- nothing", "expected one SQL statement, found none"),
        ("select 1; select 2", "expected one SQL statement, found 2"),
        ("select 1; drop table pairs", "expected one SQL statement, found 2"),
        ("delete from pairs", "DELETE statements are refused"),
        ("with x as (select 1) insert into decisions select * from x", "INSERT statements are refused"),
        ("set threads = 1", "SET statements are refused"),
        ("pragma version", "PRAGMA statements are refused"),
        ("call duckdb_tables()", "CALL statements are refused"),
        ("attach 'x' as x", "ATTACH statements are refused"),
        ("install httpfs", "LOAD statements are refused"),
        ("copy pairs to 'x.csv'", "--allow-external"),
        ("create temp table t as select 1", "CREATE statements are refused"),
        ("pivot pairs on shard", "PIVOT and other composed statements are refused"),
        ("select $1", "write the values into it"),
        ("selec 1", 'syntax error at or near "selec"'),
        ("select * from nope", "tables and views: runs, shards, pairs"),
        ("select suspition from suspicion", 'Candidate bindings: "suspicion"'),
        ("select * from read_csv('/etc/passwd')", "--allow-external"),
        ("select caption::int from pairs", "Conversion Error"),
        ("select error('boom')", "boom"),
    ],
)
def test_refusals_are_one_line_and_say_what_to_do(shared_run: RunFolder, sql: str, message: str) -> None:
    with pytest.raises(ConfigError) as found:
        ask(shared_run, sql)
    assert message in str(found.value)
    assert "\n" not in str(found.value)
    assert found.value.exit_code == EXIT_USAGE


def test_an_error_on_the_way_is_translated_too(shared_run: RunFolder) -> None:
    sql = "select case when range = 50000 then error('late') else range end from range(100000)"
    with pytest.raises(ConfigError, match="late"):
        ask(shared_run, sql)


def test_damage_found_on_the_way_is_the_databases(run: RunFolder) -> None:
    content = bytearray(run.database.read_bytes())
    for i in range(0x3000 + 0x40000, len(content), 4096):  # the blocks of data, not the heads
        content[i] ^= 0xFF
    run.database.write_bytes(content)
    with pytest.raises(StoreError):
        ask(run, "select * from pairs")


def test_external_access_is_a_choice(run: RunFolder) -> None:
    target = run.root.parent / "out.csv"
    ask(run, f"copy (select uid from pairs) to '{target}'", allow_external=True)
    assert len(target.read_text().splitlines()) == 61
    assert ask(run, f"select count(*) from read_csv('{target}')", allow_external=True) == [(60,)]


def test_values_come_as_python_or_as_duckdb_prints_them(shared_run: RunFolder) -> None:
    sql = """select null, true, 1::utinyint, 170141183460469231731687303715884105727::hugeint, 0.5, 1.0::decimal(3,1),
        1.5::float, 'text', [1.5, null], {'a': [1], 'b': 'x'}, date '2026-01-02', timestamp '2026-01-02 03:04:05',
        'infinity'::timestamp, interval '1 month 2 days', 'a'::blob, map {'k': 1}, uuid '0-0-0-0-0',
        timestamptz '2026-01-02 03:04:05+00', [date '2026-01-02'], 10::bignum""".replace("uuid '0-0-0-0-0',", "")
    (row,) = ask(shared_run, sql)
    assert row[:10] == (None, True, 1, 2**127 - 1, 0.5, 1.0, 1.5, "text", [1.5, None], {"a": [1], "b": "x"})
    assert row[10:13] == ("2026-01-02", "2026-01-02 03:04:05", "infinity")
    assert row[13:16] == ("1 month 2 days", "a", "{k=1}")
    assert row[17:] == ("[2026-01-02]", "10")


def test_nan_and_infinity_stay_numbers(shared_run: RunFolder) -> None:
    ((nan, inf),) = ask(shared_run, "select 'nan'::double, '-inf'::double")
    assert math.isnan(nan)
    assert inf == -math.inf


def test_repeated_column_names_are_numbered(shared_run: RunFolder) -> None:
    with run_query(shared_run, "select 1 as a, 2 as a, 3 as a_2, 4 as a") as result:
        assert [column.name for column in result.columns] == ["a", "a_2", "a_2_2", "a_3"]
        assert result.arrow()[0].names == ["a", "a_2", "a_2_2", "a_3"]


def test_large_answers_are_streamed(shared_run: RunFolder) -> None:
    with run_query(shared_run, "select range from range(1000000000)") as result:
        rows = result.rows()
        assert [next(rows)[0] for _ in range(3)] == [0, 1, 2]
