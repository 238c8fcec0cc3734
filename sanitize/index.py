"""The index stage: one row per sample of a shard, with where its image lies, its caption and its identity.

No image is decoded here. A sample without caption or image is a row too, not scored, with its reason in problems. A
shard that is no tar at all gives no rows and one problem, so that the scan goes on with the others; only a shard that
the operating system cannot read is an error (it may be readable the next time).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from roclip_audit.core.captions import (
    CAPTION_KEYS,
    IMAGE_EXTENSIONS,
    IndexConfig,
    derive_uid,
    read_texts,
    sha256_of,
)
from roclip_audit.core.problems import Problem, write_problems
from roclip_audit.core.run import RunFolder
from roclip_audit.core.samples import Sample, Stray, walk_samples
from roclip_audit.core.schema import PAIRS, PROBLEMS, Column
from roclip_audit.core.shards import Shard, open_shard
from roclip_audit.core.sidecar import Sidecar, SidecarError, read_sidecar, read_successes
from roclip_audit.core.tables import TableWriter, table_writer
from roclip_audit.core.tar import Buffer, Damage, storable
from roclip_audit.sanitize.fetched import Fetches, read_fetches, write_fetched

__all__ = ["IMAGE_EXTENSIONS", "INDEX_COLUMNS", "IndexConfig", "derive_uid", "index_shard", "write_empty_index"]

INDEX_COLUMNS: Final[tuple[Column, ...]] = tuple(
    column for column in PAIRS if column.name not in ("width", "height", "dhash")
)
MAX_STRAY_ROWS: Final = 100
"""Rows of ``not_a_pair`` for one shard; more are counted in one last row."""


def index_shard(shard: Shard, run: RunFolder, config: IndexConfig) -> dict[str, int]:
    """Write ``pairs/<id>.parquet`` and ``problems/index/<id>.parquet`` of one shard.

    Where img2dataset's parquet lies beside the shard, ``fetched/<id>.parquet`` as well.

    Cost: one read of the shard, a SHA-256 of each image and txt, a parse of each json. Memory: one group of rows, and
    about a hundred bytes for every key. The result depends on the shard, the files beside it and the config only.

    Returns:
        n_pairs: rows written; n_scored: those with a caption and an image member; n_problems: problem rows.

    Raises:
        ShardError: the shard cannot be read by this process, or changed since it was found.
    """
    with open_shard(shard) as buffer:
        return _index(shard, buffer, config, run)


def write_empty_index(shard: Shard, run: RunFolder, detail: str) -> None:
    """Write the index of a shard that could not be read: no pairs, one problem that says why."""
    with table_writer(run.file("pairs", f"{shard.id}.parquet"), INDEX_COLUMNS):
        pass
    problem = Problem(reason="shard_unreadable", detail=storable(detail), fatal=True)
    write_problems(run.file("problems/index", f"{shard.id}.parquet"), [problem], shard=shard.name, stage="index")


def _index(shard: Shard, buffer: Buffer, config: IndexConfig, run: RunFolder) -> dict[str, int]:
    pairs, problems = run.file("pairs", f"{shard.id}.parquet"), run.file("problems/index", f"{shard.id}.parquet")
    with table_writer(problems, PROBLEMS) as problem_table, table_writer(pairs, INDEX_COLUMNS) as pair_table:
        fetches = read_fetches(shard) if config.use_sidecars else None
        indexer = _Indexer(shard, buffer, config, pair_table, problem_table, fetches)
        indexer.run()
    write_fetched(shard, run, fetches, indexer.ordinals)
    return {"n_pairs": indexer.n_pairs, "n_scored": indexer.n_scored, "n_problems": indexer.n_problems}


@dataclass(slots=True)
class _Indexer:
    shard: Shard
    buffer: Buffer
    config: IndexConfig
    pairs: TableWriter
    problems: TableWriter
    fetches: Fetches | None = None
    ordinals: dict[str, list[int]] = field(default_factory=dict)
    """Key -> positions of its samples, kept only where it is known what was fetched."""
    n_pairs: int = 0
    n_scored: int = 0
    n_problems: int = 0
    n_strays: int = 0

    def run(self) -> None:
        sidecar = self._sidecar()
        seen: Counter[int] = Counter()
        for found in walk_samples(self.buffer):
            if isinstance(found, Damage):
                self._report(found.reason, found.detail, fatal=found.fatal)
            elif isinstance(found, Stray):
                self._add_stray(found)
            else:
                occurrence = seen[hash(found.raw_key)]
                seen[hash(found.raw_key)] += 1
                self._add(found, sidecar, occurrence)
        if self.n_strays > MAX_STRAY_ROWS:
            self._report("not_a_pair", f"and {self.n_strays - MAX_STRAY_ROWS:,} more members", fatal=False)
        if self.n_pairs == 0:
            self._report("no_pairs", f"{self.n_strays:,} members, none with a key and an extension", fatal=True)
        self._compare_counts(sidecar)

    def _add_stray(self, stray: Stray) -> None:
        self.n_strays += 1
        if self.n_strays <= MAX_STRAY_ROWS:
            self._report("not_a_pair", f"{storable(stray.member.name)}: {stray.why}", fatal=False)

    def _report(self, reason: str, detail: str, *, fatal: bool, sample: Sample | None = None) -> None:
        ordinal, key = (None, None) if sample is None else (sample.ordinal, sample.key)
        problem = Problem(reason=reason, detail=storable(detail), fatal=fatal, ordinal=ordinal, key=key)
        self.problems.add(problem.row(self.shard.name, "index"))
        self.n_problems += 1

    def _sidecar(self) -> Sidecar | None:
        if not self.config.use_sidecars:
            return None
        columns = CAPTION_KEYS if self.config.caption_key is None else (self.config.caption_key,)
        try:
            return read_sidecar(self.shard, columns=(*columns, "url", "uid"))
        except SidecarError as error:
            self._report("sidecar_invalid", str(error), fatal=False)
            return None

    def _compare_counts(self, sidecar: Sidecar | None) -> None:
        if sidecar is not None and sidecar.n_rows != self.n_pairs:
            detail = f"the parquet promises {sidecar.n_rows:,} pairs, the tar holds {self.n_pairs:,}"
            self._report("count_mismatch", detail, fatal=False)
        try:
            successes = read_successes(self.shard) if self.config.use_sidecars else None
        except SidecarError as error:
            self._report("sidecar_invalid", str(error), fatal=False)
            return
        if successes is not None and successes != self.n_pairs:
            detail = f"_stats.json promises {successes:,} pairs, the tar holds {self.n_pairs:,}"
            self._report("count_mismatch", detail, fatal=False)

    def _add(self, sample: Sample, sidecar: Sidecar | None, occurrence: int) -> None:
        texts = read_texts(self.buffer, sample, sidecar, occurrence, self.config)
        images: list[str] = [extension for extension in IMAGE_EXTENSIONS if extension in sample.members]
        for reason, detail, fatal in (*texts.issues, *_sample_issues(sample, images, occurrence)):
            self._report(reason, detail, fatal=fatal, sample=sample)
        if self.fetches is not None:
            self._look_up(self.fetches, sample, occurrence)
        image = sample.members[images[0]] if images else None
        sha256 = None if image is None else sha256_of(self.buffer, image)
        scored = image is not None and texts.caption is not None and bool(texts.caption.strip())
        self.pairs.add(
            (
                texts.uid or derive_uid(sample, texts, sha256),
                self.shard.name,
                sample.key,
                sample.ordinal,
                texts.caption,
                texts.url,
                texts.source,
                texts.uid is not None,
                images[0] if images else None,
                None if image is None else image.offset,
                None if image is None else image.size,
                None if sha256 is None else sha256.hex(),
                scored,
            )
        )
        self.n_pairs += 1
        self.n_scored += scored

    def _look_up(self, fetches: Fetches, sample: Sample, occurrence: int) -> None:
        self.ordinals.setdefault(sample.raw_key, []).append(sample.ordinal)
        mismatch = fetches.mismatch(sample.raw_key, occurrence)
        if mismatch is not None:
            self._report("hash_mismatch", mismatch, fatal=False, sample=sample)


def _sample_issues(sample: Sample, images: list[str], occurrence: int) -> Iterator[tuple[str, str, bool]]:
    if not images:
        yield "missing_image", f"members: {', '.join(list(sample.members)[:8]) or 'none'}", True
    elif len(images) > 1:
        yield "multiple_images", f"{', '.join(images)}; used {images[0]}", False
    if occurrence:
        yield "key_repeated", f"{occurrence:,} before it", False
