"""What the fetching left behind, taken into the run folder: one row for every URL of a shard, whether it gave a pair.

Read from the parquet that img2dataset writes beside a shard, which also holds the URLs that failed; whoever ran
img2dataset. Rows of the list that ``fetch`` did not even try come from its folder beside the shards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from roclip_audit.core.fetched import FETCH_REASONS, FOLDER, MAX_URL_CHARS, REJECTED_FILE, failure_of, found_sha256
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import FETCHED, REJECTED
from roclip_audit.core.shards import Shard
from roclip_audit.core.sidecar import Sidecar, SidecarError, read_sidecar
from roclip_audit.core.tables import arrow_schema, table_writer
from roclip_audit.core.tar import storable
from roclip_audit.core.terminal import printable

COLUMNS: Final = ("url", "error_message", "sha256", "published_hash", "list_row")
MAX_REJECTED_BYTES: Final = 1 << 30
_TEXT_LIMIT: Final = 300


@dataclass(frozen=True, slots=True)
class Fetches:
    """What the parquet beside a shard says about every URL."""

    sidecar: Sidecar
    """All its rows, those of failures too."""

    @property
    def is_known(self) -> bool:
        """Whether the parquet is one of a download at all: others hold captions only."""
        return "status" in self.sidecar.table.column_names

    def mismatch(self, key: str, occurrence: int) -> str | None:
        """Say how the content of a pair differs from what the list published; None if it does not, or nobody knows."""
        row = self.sidecar.row_of(key, occurrence)
        if row is None:
            return None
        published, sha256 = (self._text(row, name) for name in ("published_hash", "sha256"))
        if _matches(published, sha256) is not False:
            return None
        return f"published {published}, downloaded sha256:{sha256}"

    def _text(self, row: int, name: str) -> str | None:
        text = self.sidecar.text(row, (name,))
        return None if text is None else storable(printable(text, limit=_TEXT_LIMIT))

    def rows(self, shard: Shard, ordinals: dict[str, list[int]]) -> Iterator[tuple[object, ...]]:
        """Yield rows of FETCHED.

        Args:
            shard: the shard.
            ordinals: key -> positions of the samples with that key, in order.
        """
        table = self.sidecar.table
        seen: Counter[str] = Counter()
        numbers = table["list_row"].to_pylist() if _has_integers(table, "list_row") else None
        for row in range(table.num_rows):
            key, status = self._text(row, "key") or "", self._text(row, "status") or ""
            url = self.sidecar.text(row, ("url",))
            ordinal = None
            if status == "success":
                places = ordinals.get(key, ())
                ordinal = places[seen[key]] if seen[key] < len(places) else None
                seen[key] += 1
            yield (
                shard.name,
                key,
                ordinal,
                None if url is None else storable(url[:MAX_URL_CHARS]),
                status,
                *self._outcome(row, status),
                None if numbers is None or (numbers[row] or 0) < 0 else numbers[row],
            )

    def _outcome(self, row: int, status: str) -> tuple[object, ...]:
        """Return reason, detail, sha256, published_hash and hash_matches of one row."""
        sha256, published = self._text(row, "sha256"), self._text(row, "published_hash")
        if status == "success":
            return None, None, sha256, published, _matches(published, sha256)
        message = self.sidecar.text(row, ("error_message",))
        failure = failure_of(status, message)
        detail = storable(printable(failure.detail))
        if failure.reason == "hash_mismatch":
            return failure.reason, detail, found_sha256(detail), published, False
        return failure.reason, detail, None, published, None


def _has_integers(table: pa.Table, name: str) -> bool:
    return name in table.column_names and bool(pa.types.is_integer(table.schema.field(name).type))


def _matches(published: str | None, sha256: str | None) -> bool | None:
    kind, _, expected = (published or "").partition(":")
    return None if kind != "sha256" or not sha256 else expected.lower() == sha256.lower()


def read_fetches(shard: Shard) -> Fetches | None:
    """Read all rows of the parquet beside a shard; None if there is none, or it is none of a download.

    A parquet that cannot be read is reported where the captions are read from it.
    """
    try:
        sidecar = read_sidecar(shard, columns=COLUMNS, with_failures=True)
    except SidecarError:
        return None
    found = None if sidecar is None else Fetches(sidecar)
    return found if found is not None and found.is_known else None


def write_fetched(shard: Shard, run: RunFolder, fetches: Fetches | None, ordinals: dict[str, list[int]]) -> None:
    """Write ``fetched/<id>.parquet`` of one shard; nothing where nothing is known."""
    path = run.file("fetched", f"{shard.id}.parquet")
    if fetches is None:
        path.unlink(missing_ok=True)
        return
    with table_writer(path, FETCHED) as table:
        for row in fetches.rows(shard, ordinals):
            table.add(row)


def write_rejected(shards: Sequence[Shard], run: RunFolder) -> int:
    """Write ``fetched/rejected.parquet``: the rows of lists that ``fetch`` did not try, of all folders of shards.

    Returns:
        How many. A file of rejected rows that cannot be read, or is none of ours, counts as none.
    """
    folders = sorted({Path(shard.path).parent for shard in shards if not shard.is_remote})
    n = 0
    with table_writer(run.file("fetched", REJECTED_FILE), FETCHED) as table:
        for folder in folders:
            for row in _rejected(folder / FOLDER / REJECTED_FILE):
                table.add(row)
                n += 1
    return n


def _rejected(path: Path) -> Iterator[tuple[object, ...]]:
    names = arrow_schema(REJECTED).names
    try:
        if not path.is_file() or path.stat().st_size > MAX_REJECTED_BYTES:
            return
        with pq.ParquetFile(path) as file:
            if file.schema_arrow.names != names:
                return
            for batch in file.iter_batches(use_threads=False):
                for row in batch.cast(arrow_schema(REJECTED)).to_pylist():
                    url, detail = (
                        storable(printable(row[name] or "", limit=_TEXT_LIMIT)) for name in ("url", "detail")
                    )
                    reason = row["reason"] if row["reason"] in FETCH_REASONS else "other"
                    yield None, None, None, url or None, "rejected", reason, detail, None, None, None, row["list_row"]
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return
