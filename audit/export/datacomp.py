"""A keep list in DataComp's form: the subset file that its resharder takes.

The resharder finds a pair by the ``uid`` of its json alone. Two things follow. A pair without a uid of its own, whose
uid the scan derived, is never found. And where several pairs carry one uid (anybody can copy one), it copies all of
them: such a uid is listed only if all its pairs are to stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from roclip_audit.audit.export.base import ExportReport, ExportRequest
from roclip_audit.audit.export.selected import checked, condition
from roclip_audit.audit.manifest import read_manifest
from roclip_audit.audit.query import BATCH_ROWS, clear_errors
from roclip_audit.audit.select import write_selection
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.errors import ConfigError, StoreError
from roclip_audit.core.progress import Reporter
from roclip_audit.core.run import RunFolder
from roclip_audit.core.subset import subset_array, write_subset


class DataCompSubset:
    """A sorted ``.npy`` of 128-bit uids, dtype ``u8,u8``."""

    name: ClassVar[str] = "datacomp"
    makes: ClassVar[Literal["file", "folder"]] = "file"
    options: ClassVar[frozenset[str]] = frozenset({"remove", "remove_unscored"})

    def check(self, request: ExportRequest) -> None:
        """Refuse two rules at once."""
        if request.where is not None and request.remove is not None:
            raise ConfigError("--where names the pairs to keep, --remove those to leave out: use one of them")
        if request.remove_unscored and request.remove is None:
            raise ConfigError("--remove-unscored goes with --remove")

    def write(self, run: RunFolder, request: ExportRequest, target: Path, reporter: Reporter) -> ExportReport:
        """Write the list; a decision to drop beats the rule, and with ``remove`` one to keep does too.

        Memory: about 50 bytes a pair that is kept, and the rows of one shard.
        """
        with TemporaryDirectory(prefix="roclip-audit-") as folder:
            selection = Path(folder) / "selection.parquet"
            if request.where is None:
                rule = "false" if request.remove is None else request.remove
                write_selection(run, rule, selection, remove_unscored=request.remove_unscored)
            else:
                _write_kept(run, request.where, selection)
            found = _survey(run, selection)
            n_listed = write_subset(target, found.parts)
        return ExportReport(
            format=self.name,
            out=request.out,
            n_pairs=found.n_kept,
            facts=(("uids", f"{n_listed:,}"), ("of", f"{found.n_pairs:,} pairs")),
            notes=tuple(found.notes()),
        )


def _write_kept(run: RunFolder, where: str, path: Path) -> None:
    """Write a selection that keeps what a condition names, without what was decided ``drop``."""
    checked(run, where)
    sql = f"""
        select p.uid, h.uid is not null and d.verdict is distinct from 'drop' as keep
        from pairs p left join decisions d on d.uid = p.uid
        left join (select uid from suspicion where {condition(where)}) h on h.uid = p.uid order by p.pair
    """  # noqa: S608  # checked
    with open_readonly(run) as connection, clear_errors(run.database):
        reader = connection.sql(sql).to_arrow_reader(BATCH_ROWS)
        with pq.ParquetWriter(path, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)


@dataclass(slots=True)
class _Survey:
    """What a selection keeps, in the uids that the shards' json has."""

    n_pairs: int = 0
    n_kept: int = 0
    n_derived: int = 0
    n_torn: int = 0
    """Uids that several pairs carry, some of them to be left out."""
    parts: list[npt.NDArray[np.void]] = field(default_factory=list)

    def notes(self) -> Iterator[str]:
        if self.n_torn:
            yield (
                f"{self.n_torn:,} uids are carried by several pairs of which some are to go: they are not listed, "
                "because the resharder would copy all of them"
            )
        if self.n_derived:
            yield (
                f"{self.n_derived:,} of the pairs have no uid in their shard: DataComp's resharder does not find them; "
                "use roclip-audit curate"
            )


def _survey(run: RunFolder, selection: Path) -> _Survey:
    """Turn kept pairs into uids that name nothing else."""
    carried: dict[str, bool] = {}  # uid that several pairs carry -> whether all of them stay
    for rows in _pairs(run, selection):
        carried.update((row.own, True) for row in rows if row.is_given and row.final != row.own)
    if carried:
        for row in chain.from_iterable(_pairs(run, selection)):
            if row.is_given and row.own in carried:
                carried[row.own] = carried[row.own] and row.keep
    found = _Survey(n_torn=sum(not keep for keep in carried.values()))
    for rows in _pairs(run, selection):
        kept = [row for row in rows if row.keep]
        found.n_pairs += len(rows)
        found.n_kept += len(kept)
        found.n_derived += sum(not row.is_given for row in kept)
        names = (row.own if row.is_given else row.final for row in kept)
        found.parts.append(subset_array([name for name in names if name not in carried]))
    found.parts.append(subset_array([own for own, all_stay in carried.items() if all_stay]))
    return found


class _Row(NamedTuple):
    """A pair: its uid in the database, its uid before repeated ones were told apart, and what becomes of it."""

    final: str
    own: str
    is_given: bool
    keep: bool


def _pairs(run: RunFolder, selection: Path) -> Iterator[list[_Row]]:
    """Yield the pairs of every shard."""
    selected = _rows(selection)
    for shard in read_manifest(run).shards:
        here = list(islice(selected, shard.n_pairs))
        path = run.root / "pairs" / f"{shard.id}.parquet"
        if not here and not path.exists():  # a shard that could not be read
            continue
        try:
            table = pq.read_table(path, columns=["ordinal", "uid", "uid_given"]).sort_by("ordinal")
        except (OSError, KeyError, pa.ArrowException) as error:
            raise StoreError(f"{path}: cannot be read ({error}); run the same scan again") from error
        if len(table) != len(here):
            raise StoreError(f"{path}: holds {len(table):,} pairs, the database {len(here):,}; run the same scan again")
        own = zip(table["uid"].to_pylist(), table["uid_given"].to_pylist(), strict=True)
        yield [_Row(final, uid, given, keep) for (final, keep), (uid, given) in zip(here, own, strict=True)]


def _rows(selection: Path) -> Iterator[tuple[str, bool]]:
    with pq.ParquetFile(selection) as file:
        for batch in file.iter_batches(columns=["uid", "keep"]):
            yield from zip(batch["uid"].to_pylist(), batch["keep"].to_pylist(), strict=True)
