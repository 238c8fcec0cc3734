"""Write the answer to a query as a table for people, or as csv, json, jsonl, parquet or markdown for programs.

Everything is streamed: memory does not grow with the number of rows. Each format makes the text it carries harmless
for where it will be read: a caption cannot move the cursor of a terminal, start a formula in a spreadsheet or put HTML
into a page. JSON spells such characters as escapes, which mean the same; parquet carries every character as it is.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from roclip_audit.audit.escape import ellipsize, markdown_cell, spreadsheet_cell
from roclip_audit.audit.query import QueryResult, ResultColumn, finite
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import write_atomic
from roclip_audit.core.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

SAMPLE_ROWS = 1000
TERMINAL_ROWS = 1000
PIPED_CELL = 80
NARROWEST_CELL = 12

# Characters that JSON lets stand and core.terminal.printable does not.
_JSON_UNSAFE = re.compile(
    "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def number_text(value: float) -> str:
    """Return a number the way a table shows it: whole ones in full, others to four significant digits."""
    return format(value, ".4g") if isinstance(value, float) else str(value)


def _text(value: object) -> str:
    """Return any value as one line of text: booleans as SQL writes them, lists and structs as JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, dict)):
        return json.dumps(finite(value), ensure_ascii=False)
    return str(value)


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(number_text(value))
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def cell_text(value: object) -> str:
    """Return any value as a cell of a table for people: numbers rounded, null empty."""
    return number_text(value) if isinstance(value, float) else _text(_rounded(value))


def write_csv(result: QueryResult, stream: TextIO, *, raw: bool = False) -> None:
    """Write comma-separated values with a header line; null is the empty cell.

    Args:
        result: the answer.
        stream: opened with ``newline=""``.
        raw: leave text that a spreadsheet would run as a formula as it is.
    """
    guard = str if raw else spreadsheet_cell
    safe = printable if stream.isatty() else str
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([safe(guard(column.name)) for column in result.columns])
    guards = [str if column.is_number else guard for column in result.columns]
    for row in result.rows():
        writer.writerow([safe(guard(_text(value))) for guard, value in zip(guards, row, strict=True)])


def json_text(value: object) -> str:
    """Return JSON on one line that does nothing to a terminal; NaN and infinities become null."""
    text = json.dumps(finite(value), ensure_ascii=False, allow_nan=False)
    return text if text.isprintable() else _JSON_UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _objects(result: QueryResult) -> Iterator[str]:
    names = [column.name for column in result.columns]
    for row in result.rows():
        yield json_text(dict(zip(names, row, strict=True)))


def write_jsonl(result: QueryResult, stream: TextIO) -> None:
    """Write one JSON object per line; NaN and infinities become null."""
    for line in _objects(result):
        stream.write(line + "\n")


def write_json(result: QueryResult, stream: TextIO) -> None:
    """Write one JSON array of objects, one to a line; NaN and infinities become null."""
    separator = "[\n  "
    for line in _objects(result):
        stream.write(separator + line)
        separator = ",\n  "
    stream.write("[]\n" if separator.startswith("[") else "\n]\n")


def write_markdown(result: QueryResult, stream: TextIO) -> None:
    """Write a Markdown table; whatever is markup in a value shows as itself."""
    stream.write("| " + " | ".join(markdown_cell(column.name) for column in result.columns) + " |\n")
    stream.write("| " + " | ".join("---:" if column.is_number else "---" for column in result.columns) + " |\n")
    for row in result.rows():
        stream.write("| " + " | ".join(markdown_cell(cell_text(value)) for value in row) + " |\n")


def write_parquet(result: QueryResult, sink: Path | IO[bytes]) -> None:
    """Write a parquet file, types as DuckDB gives them; a file appears under its name only when it is complete."""
    if isinstance(sink, Path):
        write_atomic(sink, lambda path: _write_parquet(result, str(path)))
    else:
        _write_parquet(result, sink)


def _write_parquet(result: QueryResult, sink: str | IO[bytes]) -> None:
    import pyarrow.parquet as pq

    schema, batches = result.arrow()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_table(result: QueryResult, stream: TextIO) -> None:
    """Write a table for people: drawn by rich on a terminal, else aligned plain text.

    On a terminal at most TERMINAL_ROWS rows are shown, and the columns of a table that is too wide go one below the
    other. Elsewhere every row is written; the width of the columns comes from the first SAMPLE_ROWS rows.
    """
    if result.is_plan:
        for row in result.rows():
            stream.write("\n".join(printable(line) for line in str(row[-1]).splitlines()) + "\n")
    elif stream.isatty():
        _draw(result, stream)
    else:
        _align(result, stream)


def _widths(columns: Iterable[ResultColumn], rows: list[tuple[Any, ...]], widest: int) -> list[int]:
    from rich.cells import cell_len

    widths = []
    for i, column in enumerate(columns):
        texts = [column.name, *(cell_text(row[i]) for row in rows)]
        widths.append(max(cell_len(ellipsize(text, widest)) for text in texts))
    return widths


def _padded(text: str, width: int, column: ResultColumn) -> str:
    from rich.cells import cell_len

    shown = ellipsize(text, width)
    space = " " * (width - cell_len(shown))
    return space + shown if column.is_number else shown + space


def _align(result: QueryResult, stream: TextIO) -> None:
    rows = result.rows()
    sample = list(islice(rows, SAMPLE_ROWS))
    widths = _widths(result.columns, sample, PIPED_CELL)

    def write(cells: Iterable[str]) -> None:
        padded = (_padded(text, w, c) for text, w, c in zip(cells, widths, result.columns, strict=True))
        stream.write("  ".join(padded).rstrip() + "\n")

    write(column.name for column in result.columns)
    write("-" * width for width in widths)
    for row in sample:
        write(map(cell_text, row))
    for row in rows:
        write(map(cell_text, row))


def _draw(result: QueryResult, stream: TextIO) -> None:
    from rich.console import Console

    console = Console(file=stream, markup=False, highlight=False, emoji=False)
    rows = result.rows()
    shown = list(islice(rows, TERMINAL_ROWS))
    more = next(rows, None) is not None
    if len(result.columns) * (NARROWEST_CELL + 3) > console.width and len(result.columns) > 2:
        _draw_records(result.columns, shown, console.width, stream)
    else:
        _draw_table(result.columns, shown, console)
    if more:
        stream.write(f"the first {TERMINAL_ROWS:,} rows; --format csv or jsonl writes all\n")


def _draw_table(columns: tuple[ResultColumn, ...], rows: list[tuple[Any, ...]], console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(
            Text(printable(column.name)),
            justify="right" if column.is_number else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows:
        table.add_row(*(Text(ellipsize(cell_text(value), console.width)) for value in row))
    console.print(table)


def _draw_records(columns: tuple[ResultColumn, ...], rows: list[tuple[Any, ...]], width: int, stream: TextIO) -> None:
    names = [printable(column.name) for column in columns]
    margin = max(map(len, names)) + 2
    for i, row in enumerate(rows, 1):
        stream.write(f"-- row {i} ".ljust(min(width, 60), "-") + "\n")
        for name, value in zip(names, row, strict=True):
            stream.write(name.ljust(margin) + ellipsize(cell_text(value), max(20, width - margin)) + "\n")


TEXT_FORMATS: Mapping[str, Callable[[QueryResult, TextIO], None]] = {
    "table": write_table,
    "csv": write_csv,
    "json": write_json,
    "jsonl": write_jsonl,
    "markdown": write_markdown,
}
FORMATS = (*TEXT_FORMATS, "parquet")


@contextmanager
def _text_stream(out: Path | None) -> Iterator[TextIO]:
    """Yield stdout, or a file that replaces ``out`` when all went well."""
    if out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
        return
    temporary = out.with_name(f".tmp-{out.name}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def write_result(result: QueryResult, format: str, *, out: Path | None = None, raw: bool = False) -> None:
    """Write an answer to stdout, or to a file that appears only when it is complete.

    Args:
        result: the answer.
        format: one of FORMATS.
        out: the file, or None for stdout.
        raw: csv only: no guard against spreadsheet formulas.

    Raises:
        ConfigError: an unknown format, or binary output to a terminal, or the query fails on the way.
    """
    if format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}; use one of {', '.join(FORMATS)}")
    if format == "parquet":
        if out is None and sys.stdout.isatty():
            raise ConfigError("parquet is binary: name a file with --out, or redirect the output")
        write_parquet(result, sys.stdout.buffer if out is None else out)
        return
    with _text_stream(out) as stream:
        if format == "csv":
            write_csv(result, stream, raw=raw)
        else:
            TEXT_FORMATS[format](result, stream)
