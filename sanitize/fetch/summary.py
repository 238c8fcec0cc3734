"""What a fetch left behind: which shards are finished, and why the other URLs gave no pair."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from roclip_audit.core.errors import StoreError
from roclip_audit.core.fetched import failure_of

BATCH_ROWS: Final = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchReport:
    """What a fetch did.

    Attributes:
        n_rows: rows of the list.
        n_pairs: URLs that gave a pair.
        n_failed: URLs that were tried and gave none; ``failures`` says why.
        n_rejected: rows that were not tried; ``rejected`` says why.
        n_shards, n_unfinished: shards that should be there, and those of them that are not finished.
        n_verified: pairs whose content has the published hash.
        n_hashes: URLs that were to be tried and have a published hash.
        hosts: why -> the hosts that fail most for it, with counts.
        reused: shards that were finished before.
        img2dataset: its version.
        seconds: wall time.
    """

    n_rows: int
    n_pairs: int
    n_failed: int
    n_rejected: int
    n_shards: int
    n_unfinished: int
    n_hashes: int
    n_verified: int
    failures: dict[str, int]
    rejected: dict[str, int]
    hosts: dict[str, dict[str, int]]
    reused: int
    img2dataset: str
    seconds: float

    @property
    def n_lost(self) -> int:
        """Rows of the list that gave no pair, for whatever reason."""
        return self.n_rows - self.n_pairs


def finished_shards(out: Path) -> list[Path]:
    """Return the tars that img2dataset finished: those with statistics beside them."""
    return sorted(tar for tar in out.glob("*.tar") if tar.with_name(f"{tar.stem}_stats.json").exists())


def remove_unfinished(out: Path) -> int:
    """Remove what a stopped img2dataset left half written, so that ``out`` can be scanned; return how many shards."""
    n = 0
    for tar in out.glob("*.tar"):
        if not _stats(tar):
            tar.with_name(f"{tar.stem}_stats.json").unlink(missing_ok=True)
            tar.with_suffix(".parquet").unlink(missing_ok=True)
            tar.unlink()
            n += 1
    for parquet in out.glob("*.parquet"):
        if not parquet.with_suffix(".tar").exists():
            parquet.unlink()
    return n


def _stats(tar: Path) -> dict[str, Any] | None:
    """Return a shard's statistics, None if they were not written to their end."""
    try:
        stats = json.loads(tar.with_name(f"{tar.stem}_stats.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stats if isinstance(stats, dict) and isinstance(stats.get("count"), int) else None


def n_finished_rows(out: Path) -> int:
    """Return how many URLs the finished shards account for."""
    return sum(stats["count"] for tar in finished_shards(out) if (stats := _stats(tar)) is not None)


def fetched_rows(tar: Path, *columns: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of the parquet beside a shard, one for every URL that was tried, with those columns it has.

    Raises:
        StoreError: it is missing or damaged.
    """
    path = tar.with_suffix(".parquet")
    try:
        with pq.ParquetFile(path) as file:
            wanted = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=wanted, use_threads=False):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); delete it with its tar and fetch again") from error


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the URLs of all finished shards."""

    n_pairs: int
    n_verified: int
    failures: dict[str, int]
    hosts: dict[str, dict[str, int]]


def tally(out: Path) -> Tally:
    """Count what became of the URLs; memory grows with the number of hosts that fail."""
    n_pairs = n_verified = 0
    failures: Counter[str] = Counter()
    hosts: dict[str, Counter[str]] = {}
    for tar in finished_shards(out):
        for row in fetched_rows(tar, "url", "status", "error_message", "published_hash", "sha256"):
            if row["status"] == "success":
                n_pairs += 1
                n_verified += row.get("published_hash") is not None and _agrees(row) is not False
                continue
            reason = failure_of(row["status"] or "", row["error_message"]).reason
            failures[reason] += 1
            hosts.setdefault(reason, Counter())[host_of(row["url"])] += 1
    worst = {reason: dict(hosts[reason].most_common(3)) for reason, _ in failures.most_common()}
    return Tally(n_pairs, n_verified, dict(failures.most_common()), worst)


def _agrees(row: dict[str, Any]) -> bool | None:
    kind, _, published = str(row["published_hash"]).partition(":")
    return published == row.get("sha256") if kind == "sha256" else None


def host_of(url: str | None) -> str:
    """Return the host of a URL that was accepted, lower case."""
    from urllib.parse import urlsplit

    try:
        return urlsplit(url or "").hostname or ""
    except ValueError:
        return ""
