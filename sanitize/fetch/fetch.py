"""Fetch a list of URLs into shards that ``scan`` takes as they are.

::

    OUT/
      00000.tar, 00000.parquet, 00000_stats.json    img2dataset's, one set a shard; statistics written last
      fetch/list/00000.parquet                      the rows that are tried, with all their columns
      fetch/rejected.parquet                        the others, with reasons
      fetch/settings.json                           what was fetched, how; written when the list is prepared
      fetch/log.txt                                 what img2dataset said
      fetch/rechecks/                               what ``--recheck`` found, one pair of files a time

Resuming is asking which shards have their statistics. img2dataset skips those; half-written ones are removed.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from roclip_audit.core.errors import ConfigError, RoclipAuditError, StoreError, StoreLockedError
from roclip_audit.core.fetched import FOLDER
from roclip_audit.core.progress import Reporter
from roclip_audit.core.run import work_key, write_json
from roclip_audit.sanitize.fetch import engine
from roclip_audit.sanitize.fetch.prepare import Prepared, prepare
from roclip_audit.sanitize.fetch.settings import FetchConfig
from roclip_audit.sanitize.fetch.summary import (
    FetchReport,
    finished_shards,
    n_finished_rows,
    remove_unfinished,
    tally,
)
from roclip_audit.sanitize.fetch.urllist import UrlList, find_list

SETTINGS: Final = "settings.json"


def fetch(config: FetchConfig, reporter: Reporter) -> FetchReport:
    """Fetch a list into ``config.out``, or go on where an earlier fetch stopped.

    Returns:
        The report, about the whole list and not only about what was done now.

    Raises:
        ConfigError: img2dataset is missing, the list cannot be used, or the folder holds something else.
        StoreLockedError: another fetch is writing there.
        RoclipAuditError: img2dataset ended without finishing any shard; the message has its last words.
    """
    started = time.monotonic()
    interpreter = engine.find_interpreter(config.img2dataset)
    version = engine.check_interpreter(interpreter)
    source = find_list(config.urls)
    with locked(config.out):
        prepared = _prepared(config, source)
        n_shards = prepared.n_shards(config.pairs_per_shard)
        remove_unfinished(config.out)
        shutil.rmtree(config.out / "_tmp", ignore_errors=True)
        reused = len(finished_shards(config.out))
        if reused < n_shards:
            _download(interpreter, config, prepared, reporter)
        return _report(config, prepared, version=version, reused=reused, seconds=time.monotonic() - started)


def _download(interpreter: Path, config: FetchConfig, prepared: Prepared, reporter: Reporter) -> None:
    n_before = n_finished_rows(config.out)
    n_shards_before = len(finished_shards(config.out))
    try:
        with reporter.stage("fetch", prepared.n_accepted, unit="urls") as progress:
            progress.advance(n_before, reused=True)
            ended = engine.run(interpreter, config, config.out / FOLDER, prepared.columns, progress)
    finally:
        remove_unfinished(config.out)
        shutil.rmtree(config.out / "_tmp", ignore_errors=True)
    if len(finished_shards(config.out)) == n_shards_before:
        raise RoclipAuditError(
            f"img2dataset finished no shard (it ended with {ended.code}); {config.out / FOLDER / 'log.txt'} ends with\n"
            f"{ended.last_lines}"
        )


def _report(config: FetchConfig, prepared: Prepared, *, version: str, reused: int, seconds: float) -> FetchReport:
    counted = tally(config.out)
    n_shards = prepared.n_shards(config.pairs_per_shard)
    return FetchReport(
        n_rows=prepared.n_rows,
        n_pairs=counted.n_pairs,
        n_failed=sum(counted.failures.values()),
        n_rejected=prepared.n_rows - prepared.n_accepted,
        n_shards=n_shards,
        n_unfinished=n_shards - len(finished_shards(config.out)),
        n_hashes=prepared.n_hashes,
        n_verified=counted.n_verified,
        failures=counted.failures,
        rejected=prepared.rejected,
        hosts=counted.hosts,
        reused=reused,
        img2dataset=version,
        seconds=seconds,
    )


def _prepared(config: FetchConfig, source: UrlList) -> Prepared:
    """Prepare the list, or take what an earlier fetch of the same list prepared."""
    folder = config.out / FOLDER
    key = work_key("fetch", 1, [_fingerprint(file) for file in source.files], asdict(config.columns), config.identity)
    settings = folder / SETTINGS
    if settings.exists():
        try:
            known = json.loads(settings.read_text(encoding="utf-8"))
            if known["key"] == key:
                return Prepared(**known["prepared"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{settings}: damaged ({error}); fetch into another folder") from error
        raise ConfigError(
            f"{config.out}: holds a fetch of another list, or with other settings (see {settings}); name another folder"
        )
    shutil.rmtree(folder / "list", ignore_errors=True)
    prepared = prepare(source, config.columns, folder, pairs_per_shard=config.pairs_per_shard)
    write_json(
        settings,
        {
            "key": key,
            "list": [str(file) for file in source.files],
            "columns": asdict(config.columns),
            "settings": config.identity,
            "prepared": asdict(prepared),
        },
    )
    return prepared


def _fingerprint(file: Path) -> list[object]:
    status = file.stat()
    return [file.name, status.st_size, status.st_mtime_ns]


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold an output folder, made if need be; the kernel lets go if the process dies.

    Raises:
        ConfigError: it holds something that no fetch made.
        StoreLockedError: another fetch is writing there.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file; name a new folder")
    if out.exists() and any(out.iterdir()) and not (out / FOLDER / ".lock").exists():
        raise ConfigError(f"{out}: holds {min(path.name for path in out.iterdir())} and no fetch; name a new folder")
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    with (out / FOLDER / ".lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreLockedError(f"{out}: another fetch is writing here; wait for it") from error
        yield
