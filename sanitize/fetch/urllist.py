"""Read lists of URLs and captions row by row: parquet (DataComp's metadata too), csv, tsv, jsonl, plain or gzipped.

A list is a stranger's text: lines without end, quotes that never close, NULs and bytes that are not UTF-8 cost the row
that has them, not the list. Memory: one batch of rows.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.fetched import Failure
from roclip_audit.core.patterns import natural_key

ENDINGS: Final = (".parquet", ".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")
MAX_LINE_CHARS: Final = 1 << 20
MAX_COLUMNS: Final = 200
BATCH_ROWS: Final = 8_192
_PEEKED_LINES: Final = 1_000


@dataclass(frozen=True, slots=True)
class ListRow:
    """One row: its number in the file, from 1 (without a header), and its cells, or why it could not be read."""

    number: int
    cells: Mapping[str, Any]
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class UrlList:
    """The files of a list and the columns of the first of them, name -> Arrow type."""

    files: tuple[Path, ...]
    columns: Mapping[str, pa.DataType]


def find_list(spec: str) -> UrlList:
    """Find the files of a list: one file, the lists of a folder, or a glob.

    Raises:
        ConfigError: there is none, one has no known ending, or the first cannot be read.
    """
    path = Path(spec)
    if path.is_dir():
        found = [one for one in path.iterdir() if one.name.endswith(ENDINGS) and not one.name.startswith(".")]
    elif path.is_file():
        found = [path]
    else:
        found = [Path(one) for one in glob(spec)]  # noqa: PTH207 - a pattern may be absolute
    if not found:
        raise ConfigError(f"{spec}: no list of URLs here (known endings: {', '.join(ENDINGS)})")
    files = tuple(sorted(found, key=lambda one: natural_key(str(one))))
    for file in files:
        if not file.name.endswith(ENDINGS):
            raise ConfigError(f"{file}: unknown ending; known are {', '.join(ENDINGS)}")
    columns = _columns_of(files[0])
    if len(columns) > MAX_COLUMNS:
        raise ConfigError(f"{files[0]}: {len(columns)} columns, the limit is {MAX_COLUMNS}")
    return UrlList(files, columns)


def read_rows(file: Path) -> Iterator[ListRow]:
    """Yield the rows of one file of a list.

    Raises:
        ConfigError: the file cannot be read, or ends in the middle (gzip, parquet).
    """
    try:
        if file.name.endswith(".parquet"):
            yield from _parquet_rows(file)
        elif ".jsonl" in file.name:
            yield from _jsonl_rows(file)
        else:
            yield from _csv_rows(file)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{file}: cannot be read ({reason})") from error


def _columns_of(file: Path) -> dict[str, pa.DataType]:
    try:
        if file.name.endswith(".parquet"):
            schema = pq.read_schema(file)
            return {name: schema.field(index).type for index, name in enumerate(schema.names)}
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from error
    if ".jsonl" in file.name:
        rows = itertools.islice(read_rows(file), _PEEKED_LINES)
        return dict.fromkeys((name for row in rows for name in row.cells), pa.string())
    first = next(iter(read_rows(file)), None)
    return {} if first is None else dict.fromkeys(first.cells, pa.string())


# parquet


def _parquet_rows(file: Path) -> Iterator[ListRow]:
    number = 0
    with pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
            try:
                rows = [ListRow(number + i, cells) for i, cells in enumerate(batch.to_pylist(), 1)]
            except UnicodeDecodeError:
                rows = [_decoded(batch.slice(i, 1), number + i + 1) for i in range(batch.num_rows)]
            number += batch.num_rows
            yield from rows


def _decoded(row: pa.RecordBatch, number: int) -> ListRow:
    """Read one row of a batch in which some text is not UTF-8."""
    try:
        return ListRow(number, row.to_pylist()[0])
    except UnicodeDecodeError:
        return ListRow(number, {}, Failure("row_malformed", "not UTF-8"))


# lines


@dataclass(slots=True)
class _Lines:
    """The lines of a text file, none longer than MAX_LINE_CHARS; the rest of a longer one is passed over."""

    source: IO[str]
    was_cut: bool = False
    """Whether one of the lines since this was last set to False was cut."""
    _left_over: bool = field(default=False)

    def __iter__(self) -> Iterator[str]:
        while line := self.source.readline(MAX_LINE_CHARS):
            ended = line.endswith("\n") or len(line) < MAX_LINE_CHARS
            if not self._left_over:
                self.was_cut = self.was_cut or not ended
                yield line
            self._left_over = not ended


@contextmanager
def _opened(file: Path) -> Iterator[_Lines]:
    opener: Any = gzip.open if file.name.endswith(".gz") else open
    with opener(file, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as source:
        yield _Lines(source)


def _jsonl_rows(file: Path) -> Iterator[ListRow]:
    with _opened(file) as lines:
        for number, line in enumerate(lines, 1):
            cut, lines.was_cut = lines.was_cut, False
            if line.strip():
                yield _jsonl_row(number, line, cut=cut)


def _jsonl_row(number: int, line: str, *, cut: bool) -> ListRow:
    if cut:
        return ListRow(number, {}, Failure("row_malformed", f"a line of more than {MAX_LINE_CHARS:,} characters"))
    try:
        line.encode("utf-8")
        cells = json.loads(line)
    except UnicodeEncodeError:
        return ListRow(number, {}, Failure("row_malformed", "not UTF-8"))
    except (ValueError, RecursionError):
        return ListRow(number, {}, Failure("row_malformed", "not JSON"))
    if not isinstance(cells, dict):
        return ListRow(number, {}, Failure("row_malformed", "no JSON object"))
    return ListRow(number, cells)


def _csv_rows(file: Path) -> Iterator[ListRow]:
    is_tsv = ".tsv" in file.name
    with _opened(file) as lines:
        # Quotes in a tsv are mostly those of the captions: one that never closes must not swallow the rest.
        reader = csv.reader(lines, delimiter="\t" if is_tsv else ",", quoting=csv.QUOTE_NONE if is_tsv else 0)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise ConfigError(f"{file}: no header ({error})") from error
        if len(set(header)) != len(header):
            raise ConfigError(f"{file}: two columns have one name")
        for number in itertools.count(1):
            lines.was_cut = False
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield ListRow(number, {}, Failure("row_malformed", str(error)))
                continue
            if fields:
                yield _csv_row(number, header, [_unquoted(one) for one in fields] if is_tsv else fields, lines)


def _csv_row(number: int, header: Sequence[str], fields: Sequence[str], lines: _Lines) -> ListRow:
    if lines.was_cut:
        return ListRow(number, {}, Failure("row_malformed", f"a line of more than {MAX_LINE_CHARS:,} characters"))
    if len(fields) != len(header):
        return ListRow(number, {}, Failure("row_malformed", f"{len(fields)} fields, the header has {len(header)}"))
    try:
        "".join(fields).encode("utf-8")
    except UnicodeEncodeError:
        return ListRow(number, {}, Failure("row_malformed", "not UTF-8"))
    return ListRow(number, dict(zip(header, fields, strict=True)))


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text.startswith('"') and text.endswith('"')
    return text[1:-1].replace('""', '"') if quoted else text
