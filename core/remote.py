"""Shards behind an fsspec URL: find them and open them. Needs the package of the protocol (s3fs, gcsfs, ...)."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, Final, Protocol, cast

from roclip_audit.core.errors import ConfigError, ShardError
from roclip_audit.core.patterns import expand_braces, is_shard_name, natural_key

SKIPPED_FOLDERS: Final = frozenset(("_tmp", "quarantine"))
"""Not searched for shards unless named: img2dataset's while it runs, and what `curate` left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One file that a specification means."""

    path: str
    identity: str
    """The same for two ways to say one file."""
    spec: str
    size: int
    mtime_ns: int
    etag: str = ""


class _FileSystem(Protocol):
    """The part of fsspec's AbstractFileSystem that is used."""

    def ls(self, path: str, detail: bool = ...) -> list[str]: ...

    def find(self, path: str) -> list[str]: ...

    def glob(self, path: str) -> list[str]: ...

    def info(self, path: str) -> Mapping[str, Any]: ...

    def modified(self, path: str) -> datetime: ...

    def unstrip_protocol(self, path: str) -> str: ...

    def open(self, path: str, mode: str) -> AbstractContextManager[IO[bytes]]: ...


def _filesystem(url: str) -> tuple[_FileSystem, str]:
    """Return fsspec's file system for a URL, and the path in it."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{url}: {error}") from error
    return cast("_FileSystem", system), str(path)


def locate_remote(spec: str) -> Iterator[Found]:
    """Find the shards that a URL means; braces and globs are allowed, a folder ends in ``/``.

    Raises:
        ConfigError: the protocol is unknown, or something does not exist or holds no shards.
    """
    urls = expand_braces(spec)
    missing = []
    for url in urls:
        system, path = _filesystem(url)
        try:
            if url.endswith("/"):
                yield from _in_folder(system, path, url)
            elif glob.has_magic(path):
                yield from _all(system, system.glob(path), url)
            else:
                yield _found(system, path)
        except FileNotFoundError:
            missing.append(url)
        except OSError as error:
            raise ConfigError(f"{url}: cannot be read ({error})") from error
    if missing:
        raise ConfigError(f"{missing[0]}: does not exist ({len(missing):,} of {len(urls):,} in {spec!r})")


def _in_folder(system: _FileSystem, path: str, url: str) -> Iterator[Found]:
    flat = [one for one in system.ls(path, detail=False) if is_shard_name(_base_name(one))]
    return _all(system, flat or [one for one in system.find(path) if not SKIPPED_FOLDERS & set(one.split("/"))], url)


def _all(system: _FileSystem, paths: list[str], url: str) -> Iterator[Found]:
    shards = sorted((path for path in paths if is_shard_name(_base_name(path))), key=natural_key)
    if not shards:
        raise ConfigError(f"{url}: no .tar files there")
    return (_found(system, path) for path in shards)


def _base_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _found(system: _FileSystem, path: str) -> Found:
    info = system.info(path)
    url = system.unstrip_protocol(path)
    if info.get("type") != "file" or not isinstance(info.get("size"), int):
        raise ConfigError(f"{url}: not a file of known size; a folder ends in /")
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or ""
    return Found(
        path=url,
        identity=url,
        spec="",
        size=info["size"],
        mtime_ns=_mtime_ns(system, path),
        etag=str(etag).strip('"'),
    )


def _mtime_ns(system: _FileSystem, path: str) -> int:
    """Return the modification time in whole microseconds, 0 where the store has none."""
    try:
        return round(system.modified(path).timestamp() * 1e6) * 1000
    except (NotImplementedError, KeyError, TypeError):
        return 0


@contextmanager
def open_remote(url: str) -> Iterator[IO[bytes]]:
    """Open an fsspec URL for reading.

    Raises:
        ShardError: the protocol is unknown or its package is not installed.
        OSError: as fsspec raises it.
    """
    try:
        system, path = _filesystem(url)
    except ConfigError as error:
        raise ShardError(str(error)) from error
    with system.open(path, "rb") as source:
        yield source
