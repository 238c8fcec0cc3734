"""The run folder: where each stage's files lie, and how a finished piece of work is recognised.

::

    audit/
      manifest.json                        what was scanned with what; written last
      pairs/<shard_id>.parquet             index stage        schema PAIRS
      problems/index/<shard_id>.parquet    index stage        schema PROBLEMS
      fetched/<shard_id>.parquet           index stage        schema FETCHED; where img2dataset's parquet is there
      fetched/rejected.parquet             index stage        schema FETCHED; rows of the list that were not tried
      embeddings/<shard_id>.{image,text}.npy, .parquet        encode stage
      problems/encode/<shard_id>.parquet   encode stage       schema PROBLEMS
      align/                               align stage (global)
      evidence/<shard_id>.parquet          evidence stage     schema EVIDENCE, and rivals/, neighbours/
      campaigns/                           campaigns stage (global)  schemas CAMPAIGNS, CAMPAIGN_PAIRS; triggers as PNG
      audit.duckdb                         ingest
      done/<stage>/<name>.json             completion markers, written last by os.replace

A piece of work is done when its marker exists and holds the expected key: a hash over everything that the work
depends on. Resuming is nothing more than asking for the marker first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roclip_audit.core.errors import ConfigError, StoreError, StoreLockedError

DATABASE_NAME = "audit.duckdb"
_RUN_NAMES = frozenset({".lock", "config.json", "manifest.json", "done"})  # a folder with one of them is a run's


def work_key(*parts: object) -> str:
    """Hash everything a piece of work depends on into 32 hex characters.

    Args:
        parts: JSON-serialisable values; dictionaries may come in any key order.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary path beside ``path``, then move it into place in one step.

    A crash leaves either the old file or the new one. ``write`` must close what it opens. The temporary name keeps the
    suffix, because some writers add one of their own to names without it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON with sorted keys, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's files on disk."""

    root: Path

    @property
    def database(self) -> Path:
        """The DuckDB file that people query."""
        return self.root / DATABASE_NAME

    @property
    def manifest(self) -> Path:
        """The manifest, written when a scan has finished."""
        return self.root / "manifest.json"

    def file(self, stage: str, name: str) -> Path:
        """Return the path of a stage's file, its parent made."""
        path = self.root / stage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _marker(self, stage: str, name: str) -> Path:
        return self.root / "done" / stage / f"{name}.json"

    def stats_if_done(self, stage: str, name: str, key: str) -> dict[str, Any] | None:
        """Return the stats stored with a finished piece of work, or None if it has to be done (again)."""
        try:
            marker = json.loads(self._marker(stage, name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreError(f"{self._marker(stage, name)}: damaged completion marker ({error}); delete it") from error
        return dict(marker["stats"]) if marker.get("key") == key else None

    def forget(self, stage: str, name: str) -> None:
        """Remove the completion marker before its files are overwritten."""
        self._marker(stage, name).unlink(missing_ok=True)

    def mark_done(self, stage: str, name: str, key: str, stats: Mapping[str, Any]) -> None:
        """Write the completion marker; call it last."""
        write_json(self._marker(stage, name), {"key": key, "stats": dict(stats)})

    def clear_leftovers(self) -> None:
        """Remove what a killed process was about to write; call it while holding ``locked``."""
        for leftover in self.root.rglob(".tmp-*"):
            leftover.unlink(missing_ok=True)

    def _refuse_foreign_folder(self) -> None:
        """Keep a run out of a folder of somebody else's that happens to be called ``audit``."""
        if self.root.exists() and not self.root.is_dir():
            raise ConfigError(f"{self.root}: is a file; name a folder with --out")
        names = {path.name for path in self.root.iterdir()} if self.root.exists() else set()
        if names and not names & _RUN_NAMES:
            raise ConfigError(
                f"{self.root}: holds {min(names)} and no run of roclip-audit; name another folder with --out"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder exclusively; the kernel lets go if the process dies.

        Raises:
            ConfigError: the folder holds something else; nothing was written to it.
            StoreLockedError: another process is writing to this folder.
        """
        self._refuse_foreign_folder()
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                holder = lock.read().strip() or "unknown"
                raise StoreLockedError(
                    f"{self.root}: another scan is writing here (process {holder}); wait for it or use another --out"
                ) from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield
