"""Every format carries the answer whole, and nothing in it acts on whoever reads it."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from roclip_audit.audit.formats import (
    FORMATS,
    write_csv,
    write_json,
    write_jsonl,
    write_markdown,
    write_parquet,
    write_result,
    write_table,
)
from roclip_audit.audit.query import run_query
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import RunFolder
from tests.audit.runkit import HOSTILE

TEXTS = list(HOSTILE.values())
QUERY = "select caption, suspicion, key, url from suspicion order by ordinal"
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def written(run: RunFolder, sql: str, write: object, **options: object) -> str:
    stream = io.StringIO(newline="")
    with run_query(run, sql) as result:
        write(result, stream, **options)  # type: ignore[operator]
    return stream.getvalue()


def test_csv_without_the_guard_gives_back_every_text(hostile_run: RunFolder) -> None:
    text = written(hostile_run, "select caption from suspicion order by ordinal", write_csv, raw=True)
    assert [row[0] for row in csv.reader(io.StringIO(text, newline=""))] == ["caption", *TEXTS]


def test_csv_guards_text_but_not_numbers(hostile_run: RunFolder) -> None:
    sql = "select caption, -1 as n, -0.5 as x, '-1' as \"=name\" from suspicion order by ordinal"
    rows = list(csv.reader(io.StringIO(written(hostile_run, sql, write_csv), newline="")))
    assert rows[0] == ["caption", "n", "x", "'=name"]
    for row, text in zip(rows[1:], TEXTS, strict=True):
        assert row == ["'" + text if text[0] in "=+-@\t\r\n" else text, "-1", "-0.5", "'-1"]


@pytest.mark.parametrize("lines", [False, True])
def test_json_gives_back_every_text_and_holds_no_control_character(hostile_run: RunFolder, lines: bool) -> None:
    text = written(hostile_run, QUERY, write_jsonl if lines else write_json)
    rows = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    assert [row["caption"] for row in rows] == TEXTS
    assert [row["key"] for row in rows] == [text[:200] for text in TEXTS]
    assert not CONTROL.search(text)


def test_json_of_odd_numbers_and_no_rows(shared_run: RunFolder) -> None:
    sql = """select 'nan'::double as a, ['inf'::double, 1] as b, {'c': 'nan'::float} as d, 1.5::decimal(9,3) as e,
        3::hugeint as f"""
    expected = [{"a": None, "b": [None, 1], "d": {"c": None}, "e": 1.5, "f": 3}]
    assert json.loads(written(shared_run, sql, write_json)) == expected
    assert written(shared_run, "select 1 as a where false", write_json) == "[]\n"
    assert written(shared_run, "select 1 as a where false", write_jsonl) == ""


def test_json_is_stable(shared_run: RunFolder) -> None:
    sql = "select * from suspicion order by uid"
    assert written(shared_run, sql, write_json) == written(shared_run, sql, write_json)


def test_markdown_has_one_line_a_row_and_no_markup(hostile_run: RunFolder) -> None:
    lines = written(hostile_run, QUERY, write_markdown).splitlines()
    assert len(lines) == len(TEXTS) + 2
    assert lines[1] == "| --- | ---: | --- | --- |"
    for line in lines:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 5
        assert "<" not in line
        assert not CONTROL.search(line)


def test_a_piped_table_is_aligned_and_safe(hostile_run: RunFolder) -> None:
    text = written(hostile_run, QUERY, write_table)
    lines = text.splitlines()
    assert len(lines) == len(TEXTS) + 2
    assert not CONTROL.search(text)
    assert "\\x1b[31mred" in text
    assert "[red]alarm[/red]" in text
    assert max(map(len, lines)) < 3 * 80 + 20


def test_a_piped_table_writes_all_rows(shared_run: RunFolder) -> None:
    text = written(shared_run, "select range as n, repeat('x', range::int // 1000) as t from range(3000)", write_table)
    assert len(text.splitlines()) == 3002


def test_numbers_are_shown_short_and_to_the_right(shared_run: RunFolder) -> None:
    sql = "select 0.123456 as x, 10000000 as n, [0.123456, 1] as l, null as z, true as b"
    head, rule, row = written(shared_run, sql, write_table).splitlines()
    assert head.split() == ["x", "n", "l", "z", "b"]
    assert row.split() == ["0.1235", "10000000", "[0.1235,", "1.0]", "true"]
    assert head.index("n") == row.index("10000000") + 7
    assert rule.startswith("------  --------")


def test_a_plan_keeps_its_lines(shared_run: RunFolder) -> None:
    assert len(written(shared_run, "explain select * from pairs", write_table).splitlines()) > 3


def test_parquet_keeps_text_and_types(hostile_run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with run_query(
        hostile_run, "select *, current_date as d, interval 1 day as i from suspicion order by ordinal"
    ) as result:
        write_parquet(result, path)
    table = pq.read_table(path)
    assert table["caption"].to_pylist() == TEXTS
    assert str(table.schema.field("q_by_view").type) == "list<element: double>"
    assert str(table.schema.field("d").type) == "date32[day]"
    assert table["i"].to_pylist()[0] == "1 day"
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_parquet_of_no_rows_has_the_columns(shared_run: RunFolder, tmp_path: Path) -> None:
    with run_query(shared_run, "select uid, fdr from suspicion where false") as result:
        write_parquet(result, tmp_path / "out.parquet")
    assert pq.read_schema(tmp_path / "out.parquet").names == ["uid", "fdr"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_appears_only_when_it_is_complete(shared_run: RunFolder, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    late = "select case when range = 50000 then error('late') else range end as n from range(100000)"
    with pytest.raises(ConfigError, match="late"), run_query(shared_run, late) as result:
        write_result(result, format, out=out)
    assert list(tmp_path.iterdir()) == []
    with run_query(shared_run, "select uid from suspicion") as result:
        write_result(result, format, out=out)
    assert list(tmp_path.iterdir()) == [out]
    assert out.stat().st_size > 0


def test_an_unknown_format(shared_run: RunFolder) -> None:
    with (
        run_query(shared_run, "select 1") as result,
        pytest.raises(ConfigError, match="unknown format 'xml'; use one of"),
    ):
        write_result(result, "xml")


PROGRAM = """
import sys
from pathlib import Path
from roclip_audit.audit.formats import write_result
from roclip_audit.audit.query import run_query
from roclip_audit.core.run import RunFolder
with run_query(RunFolder(Path(sys.argv[1])), sys.argv[2]) as result:
    write_result(result, sys.argv[3])
"""


def on_terminal(run: RunFolder, sql: str, format: str = "table", *, columns: int = 100) -> str:
    """Run a query in a process whose stdout is a terminal; return all that the terminal got."""
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm-256color"}
    received: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # how Linux says that the other end is closed
                return
            if not data:
                return
            received.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    command = [sys.executable, "-c", PROGRAM, str(run.root), sql, format]
    try:
        subprocess.run(command, stdout=slave, stderr=subprocess.DEVNULL, env=environment, check=True)
    finally:
        os.close(slave)
        reader.join(timeout=30)
        os.close(master)
    return b"".join(received).decode()


@pytest.mark.parametrize("format", ["table", "csv", "json", "markdown"])
def test_a_terminal_gets_no_control_sequence_of_a_caption(hostile_run: RunFolder, format: str) -> None:
    text = on_terminal(hostile_run, QUERY, format)
    for sequence in ("\x1b[31m", "\x1b]0;", "\x1b[2J", "\x9b", "\x00", "\u202e", "\x07", "\x1b]8"):
        assert sequence not in text
    assert "[red]alarm" in text.replace("\\[", "[").replace("\\]", "]")


def test_a_terminal_gets_a_table_that_fits(hostile_run: RunFolder) -> None:
    text = on_terminal(hostile_run, "select uid, caption, suspicion from suspicion", columns=70)
    plain = re.sub("\x1b\\[[0-9;]*m", "", text).replace("\r\n", "\n")
    assert len(plain.splitlines()) == len(TEXTS) + 2
    assert all(len(line) <= 70 for line in plain.splitlines())


def test_a_wide_answer_is_shown_as_records(hostile_run: RunFolder) -> None:
    text = on_terminal(hostile_run, "select * from suspicion order by ordinal", columns=80)
    assert text.count("-- row ") == len(TEXTS)
    assert "rival_text_similarity" in text


def test_a_terminal_gets_the_first_thousand_rows_and_a_word_about_it(shared_run: RunFolder) -> None:
    text = on_terminal(shared_run, "select range as n from range(5000)")
    assert "the first 1,000 rows" in text
    assert len(text.splitlines()) < 1010


def test_parquet_does_not_go_to_a_terminal(shared_run: RunFolder) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        on_terminal(shared_run, "select 1", "parquet")


def test_csv_needs_little_memory_for_many_rows(shared_run: RunFolder) -> None:
    program = PROGRAM + "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    peaks = []
    for n in (1_000, 1_000_000):
        sql = f"select range as n, repeat('x', 200) as t from range({n})"
        command = [sys.executable, "-c", program, str(shared_run.root), sql, "csv"]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True, text=True)
        peaks.append(int(done.stderr.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 100  # MiB; the rows are 200
