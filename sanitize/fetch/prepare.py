"""Turn a list into what img2dataset gets: sound rows with their provenance, the others aside with their reasons.

Every column of the list is kept. Names that img2dataset uses for its own columns get ``list_`` in front
(``original_width`` of DataComp becomes ``list_original_width``); what is neither text nor a number is kept as JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.fetched import Failure
from roclip_audit.core.problems import MAX_DETAIL_CHARS
from roclip_audit.core.schema import REJECTED
from roclip_audit.core.tables import TableWriter, table_writer
from roclip_audit.core.tar import storable
from roclip_audit.sanitize.fetch.rows import caption_failure, published_hash, shown, url_failure
from roclip_audit.sanitize.fetch.settings import HASH_KINDS, Columns
from roclip_audit.sanitize.fetch.urllist import BATCH_ROWS, ListRow, UrlList, read_rows

URL_NAMES: Final = ("url", "image_url", "img_url", "image")
CAPTION_NAMES: Final = ("caption", "text", "alt", "alt_text", "title")
HASH_NAMES: Final = ("published_hash", "sha256", "sha512", "sha1", "md5")
ROWS_PER_FILE: Final = 1_000_000
"""img2dataset reads one file of the list at a time into memory."""
_RESERVED: Final = frozenset(
    {"key", "caption", "url", "width", "height", "original_width", "original_height", "status", "error_message"}
    | {"exif", "md5", "sha256", "sha512", "published_hash", "list_file", "list_row"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which column of the list is what; ``kept`` maps the others' names to their names in the shards."""

    url: str
    caption: str
    published_hash: str | None
    hash_kind: str | None
    kept: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What became of a list.

    Attributes:
        n_rows: rows of the list; n_accepted of them will be fetched.
        n_hashes: accepted rows with a published hash.
        rejected: reason -> number of the other rows.
        n_by_file: accepted rows by file handed to img2dataset.
        columns: additional columns that img2dataset keeps.
    """

    n_rows: int
    n_accepted: int
    n_hashes: int
    rejected: dict[str, int]
    n_by_file: list[int]
    columns: list[str]

    def n_shards(self, pairs_per_shard: int) -> int:
        """Return how many shards img2dataset will make."""
        return sum(-(-n // pairs_per_shard) for n in self.n_by_file)


def roles_of(source: UrlList, columns: Columns) -> Roles:
    """Find out which column of a list is what.

    Raises:
        ConfigError: a named column is not there, or none has a usual name.
    """
    names = list(source.columns)
    url = _needed(names, "--url-col", _role(names, columns.url, URL_NAMES, "--url-col"))
    caption = _role(names, columns.caption, CAPTION_NAMES, "--caption-col", besides=url)
    caption = _needed(names, "--caption-col", caption)
    published = _role(names, columns.published_hash, HASH_NAMES, "--hash-col")
    kept = _kept(source, {url, caption, published})
    kind = published.lower() if published is not None and published.lower() in HASH_KINDS else None
    return Roles(url=url, caption=caption, published_hash=published, hash_kind=kind, kept=kept)


def _names(names: list[str]) -> str:
    return ", ".join(shown(name[:40]) for name in names[:20]) or "none"


def _needed(names: list[str], option: str, found: str | None) -> str:
    if found is None:
        raise ConfigError(f"name a column with {option}; the list has {_names(names)}")
    return found


def _role(
    names: list[str], chosen: str | None, usual: tuple[str, ...], option: str, *, besides: str | None = None
) -> str | None:
    if chosen is not None:
        if chosen not in names:
            raise ConfigError(f"{option}: the list has no column {chosen!r}; it has {_names(names)}")
        return chosen
    lower = {name.lower(): name for name in reversed(names) if name != besides}
    return next((lower[name] for name in usual if name in lower), None)


def _kept(source: UrlList, taken: set[str | None]) -> dict[str, str]:
    kept: dict[str, str] = {}
    for number, name in enumerate(source.columns):
        if name in taken:
            continue
        plain = storable(name) if name.isprintable() and 0 < len(name) <= 100 else f"column_{number}"
        while plain in _RESERVED or plain in kept.values() or plain.startswith("__"):
            plain = f"list_{plain}"
        kept[name] = plain
    return kept


def _plain_type(type_: pa.DataType) -> pa.DataType:
    """Return the type that a kept column has in the shards: text, number or truth."""
    if pa.types.is_integer(type_) and not pa.types.is_uint64(type_):
        return pa.int64()
    if pa.types.is_floating(type_):
        return pa.float64()
    return pa.bool_() if pa.types.is_boolean(type_) else pa.string()


def _schema(source: UrlList, roles: Roles) -> pa.Schema:
    fields = [("url", pa.string()), ("caption", pa.string())]
    fields += [(new, _plain_type(source.columns[name])) for name, new in roles.kept.items()]
    fields += [("list_file", pa.string()), ("list_row", pa.int64())]
    if roles.published_hash is not None:
        fields.append(("published_hash", pa.string()))
    return pa.schema(fields)


def prepare(source: UrlList, columns: Columns, folder: Path, *, pairs_per_shard: int) -> Prepared:
    """Write ``list/NNNNN.parquet`` and ``rejected.parquet`` into a folder.

    Args:
        source: the list.
        columns: names the user gave.
        folder: empty, or left from an attempt that was killed here.
        pairs_per_shard: the files of the list are cut at multiples of it.

    Raises:
        ConfigError: a column is missing, a file cannot be read, or no row will do.
    """
    roles = roles_of(source, columns)
    rows_per_file = max(1, ROWS_PER_FILE // pairs_per_shard) * pairs_per_shard
    with table_writer(folder / "rejected.parquet", REJECTED) as rejected:
        writer = _Writer(folder / "list", _schema(source, roles), rows_per_file, roles, rejected)
        for file in source.files:
            for row in read_rows(file):
                writer.add(file.name, row)
        writer.close()
    if not writer.n_by_file:
        reasons = ", ".join(f"{reason} ({n:,})" for reason, n in writer.failures.most_common(5))
        raise ConfigError(f"{source.files[0]}: none of {writer.n_rows:,} rows can be fetched: {reasons or 'no rows'}")
    return Prepared(
        n_rows=writer.n_rows,
        n_accepted=sum(writer.n_by_file),
        n_hashes=writer.n_hashes,
        rejected=dict(writer.failures.most_common()),
        n_by_file=writer.n_by_file,
        columns=[name for name in writer.schema.names if name not in ("url", "caption")],
    )


@dataclass(slots=True)
class _Writer:
    folder: Path
    schema: pa.Schema
    rows_per_file: int
    roles: Roles
    rejected: TableWriter
    n_rows: int = 0
    n_hashes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    n_by_file: list[int] = field(default_factory=list)
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _file: pq.ParquetWriter | None = None

    def add(self, file: str, row: ListRow) -> None:
        self.n_rows += 1
        found = row.failure or self._accepted(file, row)
        if isinstance(found, Failure):
            self.failures[found.reason] += 1
            url = row.cells.get(self.roles.url)
            cell = shown(url) if isinstance(url, str) else None
            self.rejected.add((storable(file), row.number, cell, found.reason, shown(found.detail[:MAX_DETAIL_CHARS])))
            return
        self.n_hashes += found.get("published_hash") is not None
        self._rows.append(found)
        if len(self._rows) >= min(BATCH_ROWS, self.rows_per_file):
            self._flush()

    def _accepted(self, file: str, row: ListRow) -> dict[str, Any] | Failure:
        cells, roles = row.cells, self.roles
        url, caption = cells.get(roles.url), cells.get(roles.caption)
        failure = url_failure(url) or caption_failure(caption)
        if failure is not None:
            return failure
        accepted: dict[str, Any] = {
            "url": str(url).strip(" "),
            "caption": storable(caption) if isinstance(caption, str) else None,
        }
        accepted |= {new: _cell(cells.get(name), self.schema.field(new).type) for name, new in roles.kept.items()}
        accepted |= {"list_file": storable(file), "list_row": row.number}
        if roles.published_hash is not None:
            published = published_hash(cells.get(roles.published_hash), roles.hash_kind)
            if isinstance(published, Failure):
                return published
            accepted["published_hash"] = published
        return accepted

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        for piece in self._pieces(rows):
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                name = f"{len(self.n_by_file):05d}.parquet"
                self._file = pq.ParquetWriter(self.folder / name, self.schema, compression="zstd")
                self.n_by_file.append(0)
            self._file.write_table(pa.Table.from_pylist(piece, schema=self.schema))
            self.n_by_file[-1] += len(piece)
            if self.n_by_file[-1] >= self.rows_per_file:
                self._end_file()

    def _pieces(self, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        while rows:
            room = self.rows_per_file - (self.n_by_file[-1] if self._file is not None else 0)
            yield rows[:room]
            rows = rows[room:]

    def _end_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        self._flush()
        self._end_file()


def _cell(value: object, type_: pa.DataType) -> object:
    """Return a cell as it fits the column: another type's value is kept as text, or left out of a number's column."""
    if value is None:
        return None
    if pa.types.is_boolean(type_):
        return value if isinstance(value, bool) else None
    if pa.types.is_floating(type_):
        return float(value) if isinstance(value, int | float) else None
    if pa.types.is_integer(type_):
        return value if isinstance(value, int) and abs(value) < 1 << 63 else None
    if isinstance(value, str):
        return storable(value)
    return storable(json.dumps(value, default=str, ensure_ascii=False))
