"""Turn one shard specification into the files it means; core.shards.expand_shards is the way in."""

from __future__ import annotations

import difflib
import glob
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.patterns import expand_braces, is_shard_name, natural_key
from roclip_audit.core.remote import SKIPPED_FOLDERS, Found, locate_remote
from roclip_audit.core.tar import storable

MAX_LIST_BYTES: Final = 256 << 20

_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".7z")
_IMAGES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif"))


def locate(spec: str) -> list[Found]:
    """Find the shards that one specification means, in natural order within each of its parts.

    Raises:
        ConfigError: as expand_shards.
    """
    return [replace(found, spec=spec) for found in _locate(spec, Path.cwd(), in_list=False)]


def _locate(spec: str, base: Path, *, in_list: bool) -> Iterator[Found]:
    if not spec.strip():
        raise ConfigError("an empty shard specification")
    if not _exists(base / spec) and "::" in spec:
        for part in spec.split("::"):
            yield from _locate(part, base, in_list=in_list)
        return
    if spec.startswith("pipe:"):
        raise ConfigError(f"{spec!r}: pipe: runs a command and is refused; use a path or an fsspec URL")
    if spec.startswith("@") and not _exists(base / spec):
        if in_list:
            raise ConfigError(f"{spec!r}: a list cannot name another list")
        yield from _from_list(base / spec[1:])
    elif "://" in spec and not spec.startswith("file://"):
        yield from locate_remote(spec)
    else:
        yield from _local(spec.removeprefix("file://"), base)


def _from_list(path: Path) -> Iterator[Found]:
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise ConfigError(f"{path}: a list of more than {MAX_LIST_BYTES >> 20} MiB")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a list of shards ({error})") from error
    specs = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not specs:
        raise ConfigError(f"{path}: the list names no shards")
    for spec in specs:
        yield from _locate(spec, path.parent, in_list=True)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a pattern may be too long for a name, or hold a NUL
        return False


def _local(spec: str, base: Path) -> Iterator[Found]:
    if spec.startswith("~"):
        spec = str(Path(spec).expanduser())
    if _exists(base / spec):
        yield from _existing(base / spec)
        return
    patterns = expand_braces(spec)
    missing = []
    for pattern in patterns:
        path = base / pattern
        if _exists(path):
            yield from _existing(path)
        elif glob.has_magic(pattern):
            yield from _glob(path)
        else:
            missing.append(path)
    if len(missing) == 1 and len(patterns) == 1:
        raise ConfigError(_missing_message(missing[0]))
    if missing:
        raise ConfigError(
            f"{spec!r}: {len(missing):,} of {len(patterns):,} files do not exist, the first is {missing[0]}; "
            "numbers may have gaps, so name the folder or use a glob"
        )


def _existing(path: Path) -> Iterator[Found]:
    if path.is_dir():
        yield from map(_found, _tars_in(path))
    else:
        _refuse_compressed(path)
        yield _found(path)


def _refuse_compressed(path: Path) -> None:
    if path.suffix.lower() in _COMPRESSED:
        raise ConfigError(f"{path}: compressed; decompress it to a .tar first (pairs are read by their offset)")


def _glob(pattern: Path) -> Iterator[Found]:
    matches = [Path(match) for match in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207 - any absolute pattern
    tars = [path for path in matches if path.is_file() and is_shard_name(path.name)]
    if not tars:
        seen = f"it matches {_summary(matches)}" if matches else "it matches nothing"
        raise ConfigError(f"{pattern}: no .tar files: {seen}")
    yield from map(_found, sorted(tars, key=lambda path: natural_key(str(path))))


def _tars_in(folder: Path) -> list[Path]:
    """Return the tars in a folder or, if there are none, those below it."""
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be listed ({error.strerror})") from error
    tars = [path for path in entries if is_shard_name(path.name) and path.is_file()]
    if not tars:
        for parent, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS)
            tars += [path for name in names if is_shard_name(name) and (path := Path(parent, name)).is_file()]
    if not tars:
        raise ConfigError(_nothing_message(folder, entries))
    return sorted(tars, key=lambda path: natural_key(str(path)))


def _found(path: Path) -> Found:
    if storable(str(path)) != str(path):
        raise ConfigError(f"{storable(str(path))}: the name is not valid UTF-8; rename the file")
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: not a regular file")
    return Found(
        path=os.path.abspath(path),  # noqa: PTH100 - resolve() would follow links and change the name
        identity=os.path.realpath(path),
        spec="",
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )


def _summary(paths: Iterable[Path]) -> str:
    counts = Counter("folders" if path.is_dir() else path.suffix.lower() or "files without suffix" for path in paths)
    return ", ".join(f"{n:,} {kind}" for kind, n in counts.most_common(5)) or "nothing"


def _nothing_message(folder: Path, entries: list[Path]) -> str:
    suffixes = Counter(path.suffix.lower() for path in entries)
    if any(suffix in _COMPRESSED for suffix in suffixes):
        advice = "decompress the archives to .tar first"
    elif _IMAGES & suffixes.keys():
        advice = "it holds loose images: pack them into WebDataset tars (img2dataset --output_format webdataset)"
    elif ".parquet" in suffixes:
        advice = "it holds metadata only: download the images first (roclip-audit fetch, or img2dataset)"
    else:
        advice = "roclip-audit reads WebDataset shards, tar files of images with captions"
    return f"{folder}: no .tar files in it or below it; it holds {_summary(entries)}; {advice}"


def _missing_message(path: Path) -> str:
    """Say which part of a path does not exist, and what is there instead."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - as the user spelled it
    parent = absolute.parent
    wrong = absolute
    while not _exists(parent):
        wrong, parent = parent, parent.parent
    if not parent.is_dir():
        return f"{path}: {parent} is a file, not a folder"
    try:
        names = [entry.name for entry in parent.iterdir()]
    except OSError:
        names = []
    near = difflib.get_close_matches(wrong.name, names, n=3, cutoff=0.6)
    hint = (
        f"; did you mean {' or '.join(near)}?" if near else f"; {parent} holds {_summary(map(parent.joinpath, names))}"
    )
    return f"{path}: there is no {wrong.name!r} in {parent}{hint}"
