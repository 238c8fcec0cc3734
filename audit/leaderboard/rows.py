"""The numbers of the leaderboard: one row per data set, encoder, detector, attack, rate, seed and metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from roclip_audit.core.errors import StoreError
from roclip_audit.core.schema import Column
from roclip_audit.core.tables import arrow_schema, table_writer

SCAN: Final = "scan"
CAMPAIGNS: Final = "campaigns"
ALL: Final = "all"
"""``detector`` of numbers about a scan as a whole and about its campaigns, and ``attack`` of numbers about all."""

COLUMNS: Final = (
    Column("data", "VARCHAR", "Name of the data set"),
    Column("encoder", "VARCHAR", "Encoder that the scan judged with"),
    Column("detector", "VARCHAR", "A column of evidence, a peer, scan or campaigns"),
    Column("attack", "VARCHAR", "The planted attack; all where a number is about the whole scan"),
    Column("rate", "DOUBLE", "Share of the pairs that the attack was planted in, as the sweep asked for it"),
    Column("seed", "UINTEGER", "Seed of the planting and of the scan"),
    Column("metric", "VARCHAR", "Name of the metric, docs/benchmark.md"),
    Column("value", "DOUBLE", "The number"),
    Column("low", "DOUBLE", "Lower end of its 95 % interval; null if it has none"),
    Column("high", "DOUBLE", "Upper end of its 95 % interval; null if it has none"),
    Column("n_planted", "UINTEGER", "Planted pairs that it rests on"),
    Column("n_clean", "UINTEGER", "Pairs left alone that it rests on"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number; the fields are ``COLUMNS``."""

    data: str
    encoder: str
    detector: str
    attack: str
    rate: float
    seed: int
    metric: str
    value: float
    low: float | None
    high: float | None
    n_planted: int
    n_clean: int


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as parquet, in place only when complete."""
    with table_writer(path, COLUMNS) as table:
        for row in rows:
            table.add(astuple(row))


def read_rows(paths: Sequence[Path]) -> list[Row]:
    """Read the rows of several files, in their order.

    Raises:
        StoreError: a file is missing, damaged or has other columns.
    """
    names = [field.name for field in fields(Row)]
    rows: list[Row] = []
    for path in paths:
        try:
            table = pq.ParquetFile(path).read(columns=names).cast(arrow_schema(COLUMNS))
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise StoreError(f"{path}: not a table of the leaderboard ({error}); delete it and run again") from error
        rows += [Row(**values) for values in table.to_pylist()]
    return rows
