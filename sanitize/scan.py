"""The scan: index, encode, align, contest, evidence, suspicion; every finished piece of work is kept and reused.

A piece of work has a key: a hash over everything that its result depends on (the shard's fingerprint, the encoder's,
the settings, the version of this code). It is skipped if its completion marker holds that key. So the same command
resumes a killed scan, and a changed shard, encoder or setting redoes what depends on it and nothing else.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

import roclip_audit
from roclip_audit.core.captions import IndexConfig
from roclip_audit.core.errors import ConfigError, ShardError
from roclip_audit.core.parallel import one_thread_each
from roclip_audit.core.progress import Reporter
from roclip_audit.core.run import RunFolder, work_key, write_json
from roclip_audit.core.schema import FLAG_FDR
from roclip_audit.core.shards import Shard, expand_shards
from roclip_audit.sanitize.align import AlignConfig
from roclip_audit.sanitize.campaigns.choice import CampaignConfig
from roclip_audit.sanitize.campaigns.search import find_campaigns
from roclip_audit.sanitize.contest import ContestConfig
from roclip_audit.sanitize.dataset import load_dataset
from roclip_audit.sanitize.detail import Detail
from roclip_audit.sanitize.encode import EncodeConfig, encode_shard
from roclip_audit.sanitize.encoders import Encoder, build_encoders
from roclip_audit.sanitize.evidence import EvidenceConfig
from roclip_audit.sanitize.fetched import write_rejected
from roclip_audit.sanitize.index import index_shard, write_empty_index
from roclip_audit.sanitize.judge import Judging, align_run, judge_run
from roclip_audit.sanitize.suspicion import Interval, SuspicionConfig
from roclip_audit.sanitize.traits import TraitConfig

REVISIONS: Final = {"index": 3, "encode": 4, "judge": 22, "campaigns": 9}
"""Raise a stage's number when its code changes what it writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanConfig:
    """What a user chooses; every other setting is a default of the stage that owns it.

    Attributes:
        shards: specifications, see ``core.shards.expand_shards``.
        out: run folder.
        encoder: specification, see ``sanitize.encoders``.
        seed: of everything random.
        workers: threads; changes nothing in the result.
        contest: ``closed`` or ``sampled``.
        pool_size: captions in a pool, P.
        rounds: pools, M.
        folds: folds of the alignment, K.
        caption_key: key of the caption in the json; None: txt first, then caption or text.
        max_pixels: larger images are not decoded.
    """

    shards: tuple[str, ...]
    out: Path
    encoder: str = "embedded"
    seed: int = 0
    workers: int = 1
    contest: str = "closed"
    pool_size: int = 256
    rounds: int = 32
    folds: int = 5
    caption_key: str | None = None
    max_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        if self.contest not in ("closed", "sampled"):
            raise ConfigError(f"contest must be closed or sampled, found {self.contest!r}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed {self.seed}: must be from 0 to 2^63 - 1")
        if self.workers < 1:
            raise ConfigError(f"workers must be at least 1, found {self.workers}")

    def judging(self) -> Judging:
        """Return the settings of everything between embeddings and evidence."""
        return Judging(
            align=AlignConfig(n_folds=self.folds),
            contest=ContestConfig(pool_size=self.pool_size, rounds=self.rounds, sampled=self.contest == "sampled"),
            evidence=EvidenceConfig(),
            suspicion=SuspicionConfig(),
            traits=TraitConfig(),
            seed=self.seed,
            workers=self.workers,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReport:
    """What a scan found.

    Attributes:
        n_shards, n_pairs, n_scored, n_problems: counts; a scored pair has evidence.
        n_unreadable_shards: shards that gave no pair, or whose end could not be read.
        contamination: estimated share of mismatched pairs among the scored ones.
        n_flagged: pairs with fdr <= 0.1.
        expected_sound: sound pairs expected among them.
        seconds: wall time.
        reused: pieces of work that were finished before.
    """

    n_shards: int
    n_pairs: int
    n_scored: int
    n_problems: int
    n_unreadable_shards: int
    contamination: Interval
    n_flagged: int
    expected_sound: float
    seconds: float
    reused: int


@dataclass(frozen=True, slots=True)
class _Done:
    """A finished piece of work: its stats, and the key that whatever depends on it includes in its own."""

    stats: dict[str, Any]
    key: str


def scan(config: ScanConfig, reporter: Reporter) -> ScanReport:
    """Scan shards into a run folder. Call it while holding ``RunFolder(config.out).locked()``.

    Args:
        config: see ScanConfig; everything in it is checked before any work is done.
        reporter: told about progress.

    Returns:
        The report; the folder then holds everything that ``audit.ingest`` needs, the manifest last.

    Raises:
        ConfigError: nothing to scan, a setting cannot work, or too few pairs to judge.
        EncoderError: the encoder cannot be built, or the weights that look for patches are missing.
    """
    started_at, started = datetime.now(UTC), time.monotonic()
    shards, judging = expand_shards(config.shards), config.judging()
    index_config, encode_config = (
        IndexConfig(caption_key=config.caption_key),
        EncodeConfig(max_pixels=config.max_pixels),
    )
    run = RunFolder(config.out)
    work = _Work(run, reporter)
    run.clear_leftovers()
    with one_thread_each():
        (encoder, beside), detail = build_encoders(config.encoder), Detail.load()
        if len(encoder.views) > 1:  # the whole view leaves nothing to chance
            encode_config = replace(encode_config, seed=config.seed)
        indexed = work.index(shards, index_config)
        if not any(one.stats["n_scored"] for one in indexed):
            raise ConfigError(_nothing_to_score(shards, run))
        encoded = work.encode(shards, indexed, (encoder, beside), detail, encode_config, config.workers)
        if not any(one.stats["n_scored"] for one in encoded):
            raise ConfigError(f"{len(shards)} shard(s), but no image can be decoded: {_reasons(shards, run, 'encode')}")
        finished = work.judge(shards, encoded, encoder, judging, beside=beside is not None)
        judged = finished.stats
        campaign_config = CampaignConfig()
        work.campaigns(shards, finished, campaign_config, judging, max_pixels=config.max_pixels)
    counts = _counts(indexed, encoded)
    settings = {
        "contest": asdict(judging.contest),
        "align": asdict(judging.align),
        "evidence": asdict(judging.evidence),
    }
    settings |= {
        "suspicion": asdict(judging.suspicion),
        "traits": asdict(judging.traits),
        "index": asdict(index_config),
        "encode": asdict(encode_config),
        "campaigns": asdict(campaign_config),
    }
    write_json(
        run.manifest,
        {
            "version": roclip_audit.__version__,
            "encoder": config.encoder,
            "encoder_fingerprint": _fingerprint(encoder, beside),
            "views": list(encoder.views),
            "joint": encoder.joint,
            "pool_size": config.pool_size,
            "rounds": config.rounds,
            "seed": config.seed,
            "parameters": settings,
            "shards": [_entry(shard, one.stats) for shard, one in zip(shards, indexed, strict=True)],
            **counts,
            **judged,
            "started_at": started_at.isoformat(timespec="seconds"),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    return ScanReport(
        n_shards=len(shards),
        n_unreadable_shards=sum(bool(one.stats["unreadable"]) for one in indexed),
        contamination=Interval(**judged["contamination"]),
        n_flagged=judged["n_flagged"],
        expected_sound=judged["expected_sound"],
        seconds=time.monotonic() - started,
        reused=work.reused,
        **counts,
    )


class _Work:
    """Does what is not done yet, and counts what is."""

    def __init__(self, run: RunFolder, reporter: Reporter) -> None:
        self._run = run
        self._reporter = reporter
        self.reused = 0

    def _once(self, stage: str, name: str, key: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        stats = self._run.stats_if_done(stage, name, key)
        if stats is not None:
            self.reused += 1
            return stats
        self._run.forget(stage, name)
        stats = do()
        self._run.mark_done(stage, name, key, stats)
        return stats

    def index(self, shards: Sequence[Shard], config: IndexConfig) -> list[_Done]:
        """Index every shard; one that cannot be read gives a problem, is not marked as done and is tried again."""
        done = []
        with self._reporter.stage("index", total=len(shards), unit="shards") as progress:
            for shard in shards:
                key = work_key("index", REVISIONS["index"], shard.name, shard.fingerprint, asdict(config))
                try:
                    stats = self._once("index", shard.id, key, partial(self._index, shard, config))
                except ShardError as error:
                    stats = self._unreadable(shard, error)
                    key = work_key(key, str(error))
                done.append(_Done(stats, key))
                progress.advance(1, n_errors=int(stats["unreadable"]))
        write_rejected(shards, self._run)
        return done

    def _index(self, shard: Shard, config: IndexConfig) -> dict[str, Any]:
        return {**index_shard(shard, self._run, config), "unreadable": _is_damaged(self._run, shard)}

    def _unreadable(self, shard: Shard, error: ShardError) -> dict[str, Any]:
        """Record a shard that the operating system does not let us read."""
        write_empty_index(shard, self._run, str(error))
        return {"n_pairs": 0, "n_scored": 0, "n_problems": 1, "unreadable": True}

    def encode(
        self,
        shards: Sequence[Shard],
        indexed: Sequence[_Done],
        encoders: tuple[Encoder, Encoder | None],
        detail: Detail,
        config: EncodeConfig,
        workers: int,
    ) -> list[_Done]:
        """Embed every shard, by one encoder or by two."""
        (encoder, beside), fingerprint = encoders, _fingerprint(*encoders)
        done = []
        with self._reporter.stage("encode", total=sum(one.stats["n_scored"] for one in indexed)) as progress:
            for shard, index in zip(shards, indexed, strict=True):
                key = work_key("encode", REVISIONS["encode"], index.key, fingerprint, asdict(config))

                def do(shard: Shard = shard) -> dict[str, Any]:
                    return encode_shard(
                        shard,
                        self._run,
                        encoder,
                        config,
                        detail=detail,
                        workers=workers,
                        beside=beside,
                        advance=lambda n, n_errors: progress.advance(n, n_errors=n_errors),
                    )

                reused = self.reused
                stats = self._once("encode", shard.id, key, do)
                if self.reused > reused:
                    n_unread = index.stats["n_scored"] - stats["n_scored"]
                    progress.advance(index.stats["n_scored"], n_errors=n_unread, reused=True)
                done.append(_Done(stats, key))
        return done

    def judge(
        self, shards: Sequence[Shard], encoded: Sequence[_Done], encoder: Encoder, judging: Judging, *, beside: bool
    ) -> _Done:
        """Align, hold the contests and write the evidence; it depends on every shard."""
        settings = {name: value for name, value in asdict(judging).items() if name != "workers"}
        key = work_key(
            "judge", REVISIONS["judge"], [one.key for one in encoded], encoder.joint, encoder.views, settings
        )

        def do() -> dict[str, Any]:
            dataset = load_dataset(self._run, shards, beside=beside)
            aligned = align_run(dataset, self._run, judging, self._reporter, joint=encoder.joint, views=encoder.views)
            calibrated = judge_run(dataset, self._run, aligned, encoder.views, judging, self._reporter)
            listed = calibrated.fdr_N <= FLAG_FDR
            return {
                "contamination": asdict(calibrated.contamination),
                "n_flagged": int(listed.sum()),
                "expected_sound": float((1.0 - calibrated.suspicion_N[listed]).sum()),
            }

        return _Done(self._once("judge", "dataset", key, do), key)

    def campaigns(
        self, shards: Sequence[Shard], judged: _Done, config: CampaignConfig, judging: Judging, *, max_pixels: int
    ) -> _Done:
        """Look for groups of suspicious pairs that belong together."""
        key = work_key("campaigns", REVISIONS["campaigns"], judged.key, asdict(config), max_pixels)

        def do() -> dict[str, Any]:
            return dict(
                find_campaigns(
                    self._run,
                    shards,
                    config,
                    self._reporter,
                    seed=judging.seed,
                    workers=judging.workers,
                    max_pixels=max_pixels,
                )
            )

        return _Done(self._once("campaigns", "dataset", key, do), key)


def _fingerprint(encoder: Encoder, beside: Encoder | None) -> str:
    return encoder.fingerprint if beside is None else work_key(encoder.fingerprint, beside.fingerprint)


def _is_damaged(run: RunFolder, shard: Shard) -> bool:
    """Tell whether the shard gave no pair, or some of it could not be read."""
    problems = pq.read_table(run.file("problems/index", f"{shard.id}.parquet"), columns=["ordinal", "fatal"])
    return any(row["ordinal"] is None and row["fatal"] for row in problems.to_pylist())


def _counts(indexed: Sequence[_Done], encoded: Sequence[_Done]) -> dict[str, int]:
    return {
        "n_pairs": sum(one.stats["n_pairs"] for one in indexed),
        "n_scored": sum(one.stats["n_scored"] for one in encoded),
        "n_problems": sum(one.stats["n_problems"] for one in (*indexed, *encoded)),
    }


def _entry(shard: Shard, stats: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": shard.name,
        "id": shard.id,
        "path": shard.path,
        "size": shard.size,
        "fingerprint": shard.fingerprint,
        "n_pairs": stats["n_pairs"],
    }


def _nothing_to_score(shards: Sequence[Shard], run: RunFolder) -> str:
    """Say what was found where no pair was."""
    return (
        f"{len(shards)} shard(s), but no pair with an image (jpg, jpeg, png, webp) and a caption (txt, or json with "
        f"caption or text; --caption-key names another): {_reasons(shards, run, 'index')}"
    )


def _reasons(shards: Sequence[Shard], run: RunFolder, stage: str) -> str:
    """Count a stage's problems by reason, the most frequent first."""
    reasons: Counter[str] = Counter()
    for shard in shards:
        table = pq.read_table(run.file(f"problems/{stage}", f"{shard.id}.parquet"), columns=["reason"])
        reasons.update(table["reason"].to_pylist())
    return ", ".join(f"{reason} ({n:,})" for reason, n in reasons.most_common(5)) or "no samples"
