"""Where exports go: files and folders that appear when they are complete and replace nothing unless told to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import RunFolder, write_json
from roclip_audit.core.staging import staged_folder

MARKER: Final = "export.json"
"""In every exported folder: what it holds. ``force`` replaces folders that have it, and no others."""


def refuse_bad_file(out: Path, run: RunFolder, *, force: bool) -> None:
    """Refuse a place for a file that is taken.

    Raises:
        ConfigError: it exists and ``force`` is off, or it is a folder, or a file of the run.
    """
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder; name a file")
    if not os.path.lexists(out):
        return
    if not force:
        raise ConfigError(f"{out}: exists; name another file, or replace it with --force")
    if out.resolve().is_relative_to(run.root.resolve()):
        raise ConfigError(f"{out}: lies in the run folder, where nothing is replaced; name another file")


def refuse_bad_folder(out: Path, *, force: bool) -> None:
    """Refuse a place for a folder that is taken.

    Raises:
        ConfigError: it exists and is not empty, unless ``force`` is on and an earlier export made it.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise ConfigError(f"{out}: is a file; name a folder")
    if next(out.iterdir(), None) is None or (force and (out / MARKER).is_file()):
        return
    if force:
        raise ConfigError(f"{out}: was not made by an export, so --force does not replace it; name another folder")
    raise ConfigError(f"{out}: is not empty; name another folder, or replace an earlier export with --force")


@contextmanager
def new_file(out: Path, run: RunFolder, *, force: bool) -> Iterator[Path]:
    """Give a temporary path beside ``out`` that becomes ``out`` in one step when the block ends well.

    Raises:
        ConfigError: as refuse_bad_file, also if the file appeared meanwhile.
    """
    refuse_bad_file(out, run, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".tmp-{os.getpid()}-{out.name}")
    try:
        yield temporary
        if force or not _linked(temporary, out):
            temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _linked(temporary: Path, out: Path) -> bool:
    """Give a file its name without replacing another; False where the file system knows no links."""
    try:
        os.link(temporary, out)
    except FileExistsError as error:
        raise ConfigError(f"{out}: exists; name another file, or replace it with --force") from error
    except OSError:
        return False
    return True


@contextmanager
def new_folder(out: Path, about: dict[str, object], *, force: bool) -> Iterator[Path]:
    """Give a temporary folder beside ``out`` that becomes ``out`` when the block ends well.

    With ``force``, the earlier export is moved aside for the moment of the exchange, and then removed.

    Args:
        out: the folder.
        about: what the marker says of it; filled in by the block.
        force: replace an earlier export.

    Raises:
        ConfigError: as refuse_bad_folder, or another process is filling the same folder.
    """
    refuse_bad_folder(out, force=force)
    if not (out.is_dir() and (out / MARKER).is_file()):
        with staged_folder(out) as folder:
            yield folder
            write_json(folder / MARKER, about)
        return
    fresh, old = (out.with_name(f".{out.name}.{word}-{os.getpid()}") for word in ("new", "old"))
    try:
        with staged_folder(fresh) as folder:
            yield folder
            write_json(folder / MARKER, about)
        out.rename(old)
        try:
            fresh.rename(out)
        except OSError:
            old.rename(out)
            raise
    finally:
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
