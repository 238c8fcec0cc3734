"""Download a sample of a fetched list again and compare: what changed since, and on which domains.

Split-view poisoning is exactly this difference: the list was published once, its content is whatever the domain's
owner serves today. Nothing of the shards is touched; what was found goes beside them, into a file named by its date.
Needs no img2dataset: nothing is decoded, bytes are hashed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.fetched import DEAD, FOLDER
from roclip_audit.core.progress import Progress, Reporter
from roclip_audit.core.run import write_json
from roclip_audit.core.schema import RECHECKED
from roclip_audit.core.seeding import generator
from roclip_audit.core.significance import benjamini_hochberg, binomial_tail
from roclip_audit.core.tables import table_writer
from roclip_audit.sanitize.fetch.guard import Limits, Refused, download
from roclip_audit.sanitize.fetch.settings import check_limits
from roclip_audit.sanitize.fetch.summary import fetched_rows, finished_shards, host_of

RECHECKS: Final = "rechecks"
WORST_DOMAINS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RecheckConfig:
    """One recheck.

    Attributes:
        out: folder that ``fetch`` (or img2dataset) filled.
        sample: URLs to look at again; all if there are no more.
        limits: as for ``fetch``.
        threads: downloads at a time.
        seed: of the choice.
    """

    out: Path
    sample: int = 1_000
    limits: Limits = field(default_factory=Limits)
    threads: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sample < 1 or self.threads < 1:
            raise ConfigError("sample and threads: must be at least 1")
        check_limits(self.limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainDrift:
    """What changed on one domain; ``p_corrected`` says whether more than elsewhere (binomial, Benjamini-Hochberg)."""

    domain: str
    n_checked: int
    n_changed: int
    n_gone: int
    p_value: float
    p_corrected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecheckReport:
    """What a recheck found.

    Attributes:
        checked_at: UTC.
        n_known: pairs of the folder that have a hash to compare with.
        n_checked: URLs that were downloaded again.
        n_same, n_changed, n_gone, n_failed: the same bytes; other bytes; a dead link; no answer to go by this time.
        reasons: why -> number, of those that are gone or failed.
        domains: the domains with drift, the most significant first, WORST_DOMAINS at most.
        file: rows of all that was checked (parquet, columns RECHECKED).
    """

    checked_at: str
    n_known: int
    n_checked: int
    n_same: int
    n_changed: int
    n_gone: int
    n_failed: int
    reasons: dict[str, int]
    domains: list[DomainDrift]
    file: str


@dataclass(frozen=True, slots=True)
class _Known:
    """One pair as it was fetched."""

    shard: str
    key: str
    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class _Looked:
    """What became of it."""

    known: _Known
    outcome: str
    reason: str | None
    detail: str | None
    sha256: str | None


def recheck(config: RecheckConfig, reporter: Reporter) -> RecheckReport:
    """Download a random sample of the pairs of a folder again.

    Returns:
        The report; it lies beside the rows in ``fetch/rechecks`` as JSON too.

    Raises:
        ConfigError: the folder has no shards of img2dataset with SHA-256 hashes.
        StoreError: a parquet beside a shard is damaged.
    """
    chosen, n_known = _choose(config)
    if not chosen:
        raise ConfigError(f"{config.out}: no shards with img2dataset's parquet and SHA-256 hashes beside them")
    with reporter.stage("recheck", len(chosen), unit="urls") as progress:
        looked = sorted(_look_at_all(chosen, config, progress), key=lambda one: (one.known.shard, one.known.key))
    return _write(looked, n_known, config.out / FOLDER / RECHECKS)


def _known(out: Path) -> Iterator[_Known]:
    for tar in finished_shards(out):
        for row in fetched_rows(tar, "key", "url", "status", "sha256"):
            if row.get("status") == "success" and row.get("sha256") and row.get("url"):
                yield _Known(tar.name, str(row.get("key")), str(row["url"]), str(row["sha256"]))


def _choose(config: RecheckConfig) -> tuple[list[_Known], int]:
    """Draw the sample in one pass (reservoir), so that memory is that of the sample."""
    rng = generator(config.seed, "recheck", config.out.name)
    chosen: list[_Known] = []
    n = 0
    for n, known in enumerate(_known(config.out), 1):
        if len(chosen) < config.sample:
            chosen.append(known)
        elif (place := int(rng.integers(n))) < config.sample:
            chosen[place] = known
    return chosen, n


def _look_at_all(chosen: Sequence[_Known], config: RecheckConfig, progress: Progress) -> Iterator[_Looked]:
    """Download in threads, at most two waiting for each that works: contents are hashed and dropped at once."""
    waiting = iter(chosen)
    running: set[Future[_Looked]] = set()
    pool = ThreadPoolExecutor(config.threads, thread_name_prefix="recheck")
    try:
        for known in waiting:
            running.add(pool.submit(_look_at, known, config.limits))
            if len(running) >= 2 * config.threads:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from _counted(done, progress)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from _counted(done, progress)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _counted(done: set[Future[_Looked]], progress: Progress) -> Iterator[_Looked]:
    looked = [future.result() for future in done]
    progress.advance(len(looked), n_errors=sum(one.outcome != "same" for one in looked))
    yield from looked


def _look_at(known: _Known, limits: Limits) -> _Looked:
    try:
        sha256 = hashlib.sha256(download(known.url, limits).content).hexdigest()
    except Refused as refused:
        # A page in the place of a picture is drift like another picture is.
        outcome = "gone" if refused.reason in DEAD else "changed" if refused.reason == "not_an_image" else "failed"
        return _Looked(known, outcome, refused.reason, refused.detail, None)
    same = sha256 == known.sha256.lower()
    return _Looked(known, "same" if same else "changed", None if same else "hash_mismatch", None, sha256)


def _write(looked: Sequence[_Looked], n_known: int, folder: Path) -> RecheckReport:
    now = datetime.now(UTC)
    rows, summary = _free_names(folder, now.strftime("%Y-%m-%dT%H%M%SZ"))
    with table_writer(rows, RECHECKED) as table:
        for one in looked:
            known = one.known
            table.add(
                (known.shard, known.key, known.url, host_of(known.url), one.outcome, one.reason, one.detail,
                 known.sha256, one.sha256)
            )  # fmt: skip
    outcomes = Counter(one.outcome for one in looked)
    report = RecheckReport(
        checked_at=now.isoformat(timespec="seconds"),
        n_known=n_known,
        n_checked=len(looked),
        n_same=outcomes["same"],
        n_changed=outcomes["changed"],
        n_gone=outcomes["gone"],
        n_failed=outcomes["failed"],
        reasons=dict(Counter(one.reason for one in looked if one.reason is not None).most_common()),
        domains=drift_by_domain([(host_of(one.known.url), one.outcome) for one in looked]),
        file=str(rows),
    )
    write_json(summary, asdict(report))
    return report


def _free_names(folder: Path, date: str) -> tuple[Path, Path]:
    """Return names for rows and summary that no earlier recheck has."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        stem = date if number == 1 else f"{date}-{number}"
        summary = folder / f"{stem}.json"
        try:
            summary.open("x").close()
        except FileExistsError:
            number += 1
            continue
        return folder / f"{stem}.parquet", summary


def drift_by_domain(outcomes: Sequence[tuple[str, str]]) -> list[DomainDrift]:
    """Test for each domain with changed content whether it has more of it than the others.

    Links that are gone and downloads that failed say nothing about content: they are counted, not tested.

    Args:
        outcomes: (domain, outcome) of each URL.

    Returns:
        Domains with changed or gone content, the most significant first, at most WORST_DOMAINS.
    """
    counts: dict[str, Counter[str]] = {}
    for domain, outcome in outcomes:
        counts.setdefault(domain, Counter())[outcome] += 1
    n_all = sum(one["same"] + one["changed"] for one in counts.values())
    n_all_changed = sum(one["changed"] for one in counts.values())
    domains = sorted(domain for domain, one in counts.items() if one["same"] + one["changed"])
    p_values = []
    for domain in domains:
        n, k = counts[domain]["same"] + counts[domain]["changed"], counts[domain]["changed"]
        p_values.append(binomial_tail(k, n, (n_all_changed - k + 1) / (n_all - n + 2)))
    tested = dict(zip(domains, zip(p_values, benjamini_hochberg(p_values).tolist(), strict=True), strict=True))
    drifts = [
        DomainDrift(
            domain=domain,
            n_checked=one.total(),
            n_changed=one["changed"],
            n_gone=one["gone"],
            p_value=tested.get(domain, (1.0, 1.0))[0],
            p_corrected=tested.get(domain, (1.0, 1.0))[1],
        )
        for domain, one in counts.items()
        if one["changed"] or one["gone"]
    ]
    return sorted(drifts, key=lambda one: (one.p_value, -one.n_changed, -one.n_gone, one.domain))[:WORST_DOMAINS]
