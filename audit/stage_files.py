"""Read what the stages of a scan left behind, shard by shard, in the declared columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from roclip_audit.audit.manifest import ShardEntry
from roclip_audit.core.errors import StoreError
from roclip_audit.core.fetched import REJECTED_FILE
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import (
    CAMPAIGN_PAIRS,
    CAMPAIGNS,
    EVIDENCE,
    FETCHED,
    NEIGHBOURS,
    PAIRS,
    PROBLEMS,
    RIVALS,
    Column,
)
from roclip_audit.core.tables import arrow_schema

_ENCODED = tuple(column for column in PAIRS if column.name in {"ordinal", "width", "height", "dhash", "scored"})
_INDEXED = tuple(column for column in PAIRS if column.name not in {"width", "height", "dhash", "scored", "uid"})
_UIDS = tuple(column for column in PAIRS if column.name in {"ordinal", "uid"})
_CAMPAIGN_FILES = {
    "campaigns": ("campaigns/campaigns.parquet", CAMPAIGNS),
    "campaign_pairs": ("campaigns/pairs.parquet", CAMPAIGN_PAIRS),
}
ABOUT_PAIRS = {"evidence": EVIDENCE, "rivals": RIVALS, "neighbours": NEIGHBOURS}
_RERUN = "run the same scan again, it redoes what is missing"


def read_stage(run: RunFolder, stage: str, shard: ShardEntry, columns: Sequence[Column]) -> pa.Table:
    """Read one stage's file of one shard, in the declared columns and types, rows as they lie.

    Raises:
        StoreError: the file is missing, damaged or has other columns; names it.
    """
    return _read(run.root / stage / f"{shard.id}.parquet", columns)


def _read(path: Path, columns: Sequence[Column]) -> pa.Table:
    schema = arrow_schema(columns)
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=schema.names).select(schema.names).cast(schema)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: missing; {_RERUN}") from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(f"{path}: cannot be read ({reason}); delete it and {_RERUN}") from error


def _left_out(run: RunFolder, stage: str, shard: ShardEntry, n_expected: int) -> bool:
    """Tell whether a stage that had nothing to write about a shard wrote no file either."""
    return n_expected == 0 and not (run.root / stage / f"{shard.id}.parquet").exists()


def read_pairs(run: RunFolder, shard: ShardEntry) -> pa.Table:
    """Join what index, encode and uid resolution know about a shard's pairs: PAIRS, in ordinal order.

    Raises:
        StoreError: a file is missing or damaged, or they are not about the same pairs.
    """
    if _left_out(run, "pairs", shard, shard.n_pairs):
        return arrow_schema(PAIRS).empty_table()
    tables = [
        read_stage(run, "pairs", shard, _INDEXED),
        read_stage(run, "embeddings", shard, _ENCODED),
        read_stage(run, "uids", shard, _UIDS),
    ]
    indexed, encoded, uids = (table.sort_by("ordinal") for table in tables)
    if not indexed["ordinal"].equals(encoded["ordinal"]) or not indexed["ordinal"].equals(uids["ordinal"]):
        raise StoreError(f"{run.root}: pairs, embeddings and uids of {shard.name} are about different pairs; {_RERUN}")
    joined = {name: indexed[name] for name in indexed.column_names}
    joined |= {name: encoded[name] for name in encoded.column_names}
    joined["uid"] = uids["uid"]
    return pa.table({column.name: joined[column.name] for column in PAIRS})


def _numbered(table: pa.Table, pairs: pa.Table, where: str) -> pa.Table:
    """Put the number of the pair in front of rows that name it by uid."""
    lookup = pc.SetLookupOptions(value_set=pairs["uid"].combine_chunks())
    found = pc.call_function("index_in", [table["uid"]], lookup)
    if found.null_count:
        raise StoreError(f"{where}: {found.null_count} rows are about pairs that the shard does not have; {_RERUN}")
    return table.add_column(0, "pair", pairs["pair"].take(found))


def read_about(run: RunFolder, stage: str, shard: ShardEntry, pairs: pa.Table) -> pa.Table:
    """Read a stage's rows about the scored pairs of a shard, with the number of the pair in front.

    Args:
        run: the run folder.
        stage: evidence, rivals or neighbours.
        shard: the shard.
        pairs: what the database knows of its pairs: pair, uid, scored.

    Raises:
        StoreError: the file is missing or damaged, or is about pairs that the shard does not have.
    """
    columns = ABOUT_PAIRS[stage]
    if _left_out(run, stage, shard, pairs["scored"].to_pylist().count(True)):
        return _numbered(arrow_schema(columns).empty_table(), pairs, stage)
    table = read_stage(run, stage, shard, columns)
    return _numbered(table, pairs, str(run.root / stage / f"{shard.id}.parquet"))


def read_problems(run: RunFolder, shard: ShardEntry) -> Iterator[pa.Table]:
    """Yield the problems of a shard, stage by stage, rows as the stage wrote them."""
    for stage in ("problems/index", "problems/encode"):
        if (run.root / stage / f"{shard.id}.parquet").exists():
            yield read_stage(run, stage, shard, PROBLEMS)


def read_fetched(run: RunFolder, shards: Sequence[ShardEntry]) -> Iterator[pa.Table]:
    """Yield what is known of the fetching of these shards, one table a shard that has something.

    Raises:
        StoreError: a file is damaged.
    """
    for shard in shards:
        if (run.root / "fetched" / f"{shard.id}.parquet").exists():
            yield read_stage(run, "fetched", shard, FETCHED)


def read_rejected(run: RunFolder) -> pa.Table | None:
    """Read the rows of lists that were not tried; nothing if the scan knows of none.

    Raises:
        StoreError: the file is damaged.
    """
    path = run.root / "fetched" / REJECTED_FILE
    return _read(path, FETCHED) if path.exists() else None


def read_campaigns(run: RunFolder, table: str) -> pa.Table | None:
    """Read what the campaign step found; nothing if the scan has no such step.

    Args:
        run: the run folder.
        table: campaigns or campaign_pairs.

    Raises:
        StoreError: the file is damaged or has other columns.
    """
    name, columns = _CAMPAIGN_FILES[table]
    path = run.root / name
    return _read(path, columns) if path.exists() else None
