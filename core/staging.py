"""Fill a folder so that it is either there and complete, or not there at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from roclip_audit.core.errors import ConfigError

MARKER: Final = ".roclip-audit-partial"


def refuse_used_folder(out: Path) -> Path:
    """Return the absolute path of an output folder that is free to be made.

    Raises:
        ConfigError: it exists and is not an empty folder, or is a mount point, which nothing can be moved onto.
    """
    path = out.resolve()
    if not path.exists():
        return path
    if not path.is_dir():
        raise ConfigError(f"{out}: is a file; name a folder that does not exist yet")
    if next(path.iterdir(), None) is not None:
        raise ConfigError(f"{out}: is not empty; name a new folder, or empty this one first")
    if path.is_mount():
        raise ConfigError(f"{out}: is a mount point; name a folder below it")
    return path


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``out``, which becomes ``out`` in one step when the block ends well.

    If the block raises, the temporary folder is removed. If the process is killed it stays, and the next run for the
    same ``out`` removes it. It is known by its name and a marker file, so nobody else's folder is ever removed.

    Raises:
        ConfigError: as refuse_used_folder; or another process is filling the same folder; or a folder with the
            temporary name exists that is not ours.
    """
    path = refuse_used_folder(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.partial")
    with _lock(path.with_name(f".{path.name}.lock")):
        _remove_stale(staging)
        staging.mkdir()
        (staging / MARKER).touch()
        try:
            yield staging
            (staging / MARKER).unlink()
            staging.replace(path)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def _remove_stale(staging: Path) -> None:
    if not staging.exists():
        return
    # An empty one is ours too: killed between making the folder and marking it.
    if not (staging / MARKER).exists() and any(staging.iterdir()):
        raise ConfigError(f"{staging}: is in the way and was not made by roclip-audit; move it")
    shutil.rmtree(staging)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock.fileno()).st_ino != path.stat().st_ino:
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as error:
            raise ConfigError(f"{path.parent}: another roclip-audit is writing this output; wait for it") from error
        try:
            yield
        finally:
            path.unlink()
