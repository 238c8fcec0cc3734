"""Write the kept pairs of shards into new shards, and the others into a quarantine, byte for byte.

::

    out/
      00000.tar ...            kept pairs: headers, data and padding of every member as they were, in their order
      00000_stats.json ...     {"successes": n}, as img2dataset and DataComp read it
      00000.parquet ...        img2dataset's rows of the kept pairs, if the input had them
      sizes.json, __len__      numbers of pairs, as open_clip reads them
      subset.npy               uids of the kept pairs, DataComp's sorted u8,u8 array
      meta.json                as DataComp's resharder leaves it
      manifest.json            what was made of what: hashes of inputs, selection and every new shard
      quarantine/00000.tar ...         the pairs that were left out
      quarantine/other-00000.tar ...   members that belong to no pair
      quarantine/reasons.parquet       core.schema.QUARANTINE

Kept and removed together are the input, member by member. What follows the damage in a broken tar is in neither; the
report counts its bytes. Nothing is decoded, renamed or re-encoded, and the output does not depend on time or place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from roclip_audit import __version__
from roclip_audit.core.errors import ConfigError, StoreError
from roclip_audit.core.progress import Progress
from roclip_audit.core.run import write_json
from roclip_audit.core.samples import Sample, Stray, walk_samples
from roclip_audit.core.schema import QUARANTINE
from roclip_audit.core.selection import Selection, ShardSelection, open_selection
from roclip_audit.core.shards import Shard, open_shard
from roclip_audit.core.staging import refuse_used_folder, staged_folder
from roclip_audit.core.subset import subset_array, write_subset
from roclip_audit.core.tables import TableWriter, table_writer
from roclip_audit.core.tar import Damage, storable
from roclip_audit.core.tarwrite import TarSeries, WrittenTar
from roclip_audit.sanitize.carried import CarriedRows

NOT_A_PAIR: Final = "not_a_pair"
NOT_SELECTED: Final = "not_selected"
"""Reason of a removed pair whose selection gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCount:
    """What a shard holds and what becomes of it."""

    name: str
    fingerprint: str
    size: int
    n_pairs: int
    n_kept: int
    n_not_a_pair: int
    n_unread_bytes: int
    """Bytes after the damage of a broken tar: in neither output nor quarantine."""
    damage: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateReport:
    """What a curation did, or would do."""

    n_pairs: int
    n_kept: int
    n_removed: int
    n_not_a_pair: int
    n_unread_bytes: int
    reasons: Mapping[str, int]
    """Reason -> removed pairs."""
    shards: tuple[ShardCount, ...]
    written: tuple[WrittenTar, ...]
    """Empty on a dry run."""
    quarantined: tuple[WrittenTar, ...]
    notes: tuple[str, ...]
    """Things of the input that could not be carried over."""


def curate(
    shards: Sequence[Shard],
    selection: Path,
    out: Path,
    *,
    pairs_per_shard: int = 10_000,
    dry_run: bool = False,
    where: str | None = None,
    fingerprints: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> CurateReport:
    """Copy the kept pairs of ``shards`` into new shards in ``out``, the others into ``out/quarantine``.

    Everything is checked against the selection before anything is written, and ``out`` appears in one step when it is
    complete. Cost: the headers of all shards twice, their content once; no decoding. Memory: one shard's selection,
    16 bytes for every kept pair, and the parquet rows of one new shard.

    Args:
        shards: the shards that the selection was made for, all of them.
        selection: parquet with columns shard, ordinal, uid, keep, reason, one row per pair of the shards.
        out: a folder that does not exist, or is empty.
        pairs_per_shard: at least 1; a new shard may hold fewer (core.tarwrite says why).
        dry_run: only check and count.
        where: the predicate behind the selection, for the manifest.
        fingerprints: shard name -> fingerprint at the time of the scan; a shard that differs is refused.
        progress: told the pairs of each shard once they are copied.

    Raises:
        ConfigError: ``out`` is in use, or shards and selection do not name the same shards.
        StoreError: the selection is damaged, or a shard is no longer what was scanned.
        ShardError: a shard cannot be read.
    """
    if pairs_per_shard < 1:
        raise ConfigError(f"pairs per shard {pairs_per_shard}: must be at least 1")
    refuse_used_folder(out)
    chosen = open_selection(selection)
    _same_shards(shards, chosen)
    _unchanged(shards, fingerprints or {})
    counts, reasons = _survey(shards, chosen)
    n_kept = sum(count.n_kept for count in counts)
    report = CurateReport(
        n_pairs=sum(count.n_pairs for count in counts),
        n_kept=n_kept,
        n_removed=sum(count.n_pairs for count in counts) - n_kept,
        n_not_a_pair=sum(count.n_not_a_pair for count in counts),
        n_unread_bytes=sum(count.n_unread_bytes for count in counts),
        reasons=dict(sorted(reasons.items())),
        shards=counts,
        written=(),
        quarantined=(),
        notes=(),
    )
    if dry_run:
        return report
    with staged_folder(out) as folder, _Copier.opened(folder, pairs_per_shard, n_kept) as copier:
        for shard in shards:
            copier.copy(shard, chosen.of_shard(shard.name), progress)
        return copier.finish(report, {"selection_sha256": chosen.sha256, "where": where})


def _same_shards(shards: Sequence[Shard], selection: Selection) -> None:
    names = {shard.name for shard in shards}
    if unknown := sorted(selection.spans.keys() - names):
        raise ConfigError(
            f"{selection.path}: has pairs of {len(unknown):,} shards that were not given, the first is {unknown[0]!r}; "
            "name the same shards as for the scan"
        )


def _unchanged(shards: Sequence[Shard], fingerprints: Mapping[str, str]) -> None:
    for shard in shards:
        if fingerprints.get(shard.name, shard.fingerprint) != shard.fingerprint:
            raise StoreError(f"{shard.path}: changed since the scan; scan again")


def _survey(shards: Sequence[Shard], selection: Selection) -> tuple[tuple[ShardCount, ...], Counter[str]]:
    """Count what every shard holds and check it against the selection."""
    reasons: Counter[str] = Counter()
    counts = []
    for shard in shards:
        rows = selection.of_shard(shard.name)
        count = _count(shard, n_kept=sum(rows.keep))
        if count.n_pairs != len(rows.keep):
            raise StoreError(
                f"{shard.path}: holds {count.n_pairs:,} pairs, the selection has {len(rows.keep):,}; scan again"
            )
        reasons.update(reason or NOT_SELECTED for keep, reason in zip(rows.keep, rows.reasons, strict=True) if not keep)
        counts.append(count)
    return tuple(counts), reasons


def _count(shard: Shard, *, n_kept: int) -> ShardCount:
    n_pairs = n_strays = 0
    damage: Damage | None = None
    with open_shard(shard) as buffer:
        for found in walk_samples(buffer):
            if isinstance(found, Damage):
                damage = found
            else:
                n_pairs += isinstance(found, Sample)
                n_strays += isinstance(found, Stray)
    return ShardCount(
        name=shard.name,
        fingerprint=shard.fingerprint,
        size=shard.size,
        n_pairs=n_pairs,
        n_kept=n_kept,
        n_not_a_pair=n_strays,
        n_unread_bytes=0 if damage is None else damage.n_unread,
        damage=None if damage is None else damage.detail,
    )


@dataclass(slots=True)
class _Copier:
    """The second pass: three series of tars and what goes with them."""

    folder: Path
    kept: TarSeries
    removed: TarSeries
    others: TarSeries
    reasons: TableWriter
    carried: CarriedRows
    uids: list[npt.NDArray[np.void]]

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, pairs_per_shard: int, n_kept: int) -> Iterator[_Copier]:
        """Open the outputs; they are closed, complete or not, when the block ends."""
        quarantine = folder / "quarantine"
        quarantine.mkdir()
        width = 5 if n_kept < 50_000 * pairs_per_shard else 8
        with (
            TarSeries(folder, pairs_per_shard, width=width) as kept,
            TarSeries(quarantine, pairs_per_shard, width=width) as removed,
            TarSeries(quarantine, pairs_per_shard, prefix="other-", width=width) as others,
            table_writer(quarantine / "reasons.parquet", QUARANTINE) as reasons,
        ):
            yield cls(folder, kept, removed, others, reasons, CarriedRows(folder), [])

    def copy(self, shard: Shard, rows: ShardSelection, progress: Progress | None) -> None:
        """Copy one shard."""
        self.carried.begin(shard)
        kept_before: bool | None = None  # of the sample just before in this shard
        with open_shard(shard) as buffer:
            for found in walk_samples(buffer):
                if isinstance(found, Stray):
                    name = self.others.add_member(buffer, found.member)
                    self.reasons.add((None, shard.name, storable(found.member.name), None, NOT_A_PAIR, name))
                elif isinstance(found, Sample):
                    keep = rows.keep[found.ordinal]
                    series = self.kept if keep else self.removed
                    name = series.add_sample(buffer, found, follows_last=keep is kept_before)
                    self._note(shard, found, rows, name)
                    kept_before = keep
        self.uids.append(subset_array([uid for uid, keep in zip(rows.uids, rows.keep, strict=True) if keep]))
        if progress is not None:
            progress.advance(len(rows.keep))

    def _note(self, shard: Shard, sample: Sample, rows: ShardSelection, name: str) -> None:
        self.carried.see(sample, name if rows.keep[sample.ordinal] else None)
        if not rows.keep[sample.ordinal]:
            uid, reason = rows.uids[sample.ordinal], rows.reasons[sample.ordinal] or NOT_SELECTED
            self.reasons.add((uid, shard.name, sample.key, sample.ordinal, reason, name))

    def finish(self, report: CurateReport, made_from: Mapping[str, object]) -> CurateReport:
        """Close everything and write the files about the whole; return the full report."""
        for series in (self.kept, self.removed, self.others):
            series.close()
        self.carried.finish()
        write_subset(self.folder / "subset.npy", self.uids)
        _write_counts(self.folder, self.kept, n_processed=report.n_pairs)
        write_json(self.folder / "quarantine" / "sizes.json", {tar.name: tar.n_samples for tar in self.removed.written})
        done = replace(
            report,
            written=tuple(self.kept.written),
            quarantined=(*self.removed.written, *self.others.written),
            notes=tuple(self.carried.notes),
        )
        manifest = {"roclip_audit": __version__, "pairs_per_shard": self.kept.samples_per_tar, **made_from}
        write_json(self.folder / "manifest.json", manifest | asdict(done))
        return done


def _write_counts(folder: Path, kept: TarSeries, *, n_processed: int) -> None:
    """Write the numbers of pairs in the forms of open_clip, img2dataset and DataComp."""
    total = sum(tar.n_samples for tar in kept.written)
    for tar in kept.written:
        stats = {"count": tar.n_samples, "successes": tar.n_samples, "failed_to_download": 0, "failed_to_resize": 0}
        write_json(folder / f"{tar.name.removesuffix('.tar')}_stats.json", stats)
    write_json(folder / "sizes.json", {tar.name: tar.n_samples for tar in kept.written})
    (folder / "__len__").write_text(f"{total}\n", encoding="utf-8")
    meta = {
        "output_shard_count": len(kept.written),
        "output_shard_format": f"{{:0{kept.width}d}}.tar",
        "output_count": total,
        "processed_count": n_processed,
        "shard_size": kept.samples_per_tar,
        "subset_file": "subset.npy",
        "worker_success": 1,
    }
    write_json(folder / "meta.json", meta)
