"""Shards: where they are, what they are called, whether they changed, and how to read one.

Patterns are expanded here and not by a shell, so a forgotten quote does no harm. Nothing is ever executed (``pipe:`` is
refused) and nothing but regular files is opened.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import IO, Final

from roclip_audit.core.errors import ConfigError, ShardError
from roclip_audit.core.locate import locate
from roclip_audit.core.patterns import natural_key
from roclip_audit.core.remote import Found, open_remote
from roclip_audit.core.tar import Buffer

COPY_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Shard:
    """One WebDataset tar."""

    path: str
    """Absolute path, or fsspec URL."""
    name: str
    """Base name, or the path below the common folder where base names repeat; what people see."""
    size: int
    mtime_ns: int
    """0 where the store has no such thing."""
    etag: str = ""
    """What an object store has instead of a modification time."""

    @property
    def id(self) -> str:
        """File-safe name, different for different shard names also where file names ignore case."""
        stem = self.name.removesuffix(".tar")
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[-40:]
        return f"{slug or 'shard'}-{hashlib.blake2b(self.name.encode(), digest_size=5).hexdigest()}"

    @property
    def fingerprint(self) -> str:
        """Changes when the file changes (size, modification time or etag); does not depend on where it lies."""
        return f"{self.size:x}-{self.mtime_ns:x}" + (f"-{self.etag}" if self.etag else "")

    @property
    def is_remote(self) -> bool:
        """True for an fsspec URL."""
        return "://" in self.path

    def beside(self, ending: str) -> str:
        """Return the path of a file beside the shard: its stem and ``ending`` (``.parquet``, ``_stats.json``)."""
        return self.path.removesuffix(".tar") + ending


def expand_shards(specs: Sequence[str]) -> tuple[Shard, ...]:
    """Find the shards that specifications mean.

    A specification is a folder (its ``*.tar``; if it has none, those below it), a tar, a glob, a brace pattern
    (``x-{00000..00099}.tar``, ``{a,b}/*.tar``), several joined by ``::``, ``@list.txt`` (one per line, ``#`` comments,
    relative to the list), or an fsspec URL (``s3://bucket/folder/``, ``memory://x/{00..09}.tar``; a folder ends in
    ``/``). A path that exists is taken as it is, whatever characters it has. The order of the result is natural and
    does not depend on the order of the specifications.

    Raises:
        ConfigError: a path does not exist, nothing was found, a shard occurs twice, or a pattern is malformed.
    """
    found: dict[str, Found] = {}
    for spec in specs:
        for one in locate(spec):
            if one.identity in found:
                raise ConfigError(
                    f"{one.path}: the same shard twice (from {found[one.identity].spec!r} and {spec!r}); name it once"
                )
            found[one.identity] = one
    if not found:
        raise ConfigError("no shards given: name a folder of .tar files, a tar, a pattern, @list.txt or a URL")
    ordered = sorted(found.values(), key=lambda one: natural_key(one.path))
    names = _names([one.path for one in ordered])
    return tuple(
        Shard(one.path, name, one.size, one.mtime_ns, one.etag) for one, name in zip(ordered, names, strict=True)
    )


def _names(paths: Sequence[str]) -> list[str]:
    """Return base names if they are unique, else the paths below their common folder."""
    parts = [path.split("/") for path in paths]
    counts = Counter(part[-1] for part in parts)
    if max(counts.values()) == 1:
        return [part[-1] for part in parts]
    first, last = min(part[:-1] for part in parts), max(part[:-1] for part in parts)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    n_shared = sum(1 for _ in same)
    return ["/".join(part[n_shared:]) for part in parts]


@contextmanager
def open_shard(shard: Shard) -> Iterator[Buffer]:
    """Open a shard for random access: ``buffer[a:b]`` are bytes. A remote one is copied to a temporary file first.

    The file must not shrink while it is open: the operating system kills a process that reads past the end of a map.

    Raises:
        ShardError: it cannot be read, or is not the file that expand_shards saw.
    """
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(_local_file(shard))
            status = os.fstat(descriptor)
            if not S_ISREG(status.st_mode):
                raise ShardError(f"{shard.path}: not a regular file")
            if status.st_size != shard.size or not (shard.is_remote or status.st_mtime_ns == shard.mtime_ns):
                raise ShardError(f"{shard.path}: the file changed since the command began; run it again")
            empty = status.st_size == 0
            buffer = b"" if empty else stack.enter_context(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise ShardError(f"{shard.path}: cannot be read ({error.strerror or error})") from error
        yield buffer


@contextmanager
def _local_file(shard: Shard) -> Iterator[int]:
    if shard.is_remote:
        with tempfile.TemporaryFile(prefix="roclip-audit-") as copy:
            with open_remote(shard.path) as source:
                shutil.copyfileobj(source, copy, COPY_BYTES)
            copy.flush()
            yield copy.fileno()
        return
    descriptor = os.open(shard.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_beside(shard: Shard, ending: str, *, max_bytes: int) -> bytes | None:
    """Read the file beside a shard (``.parquet``, ``_stats.json``); None if there is none.

    Raises:
        ShardError: it is there but cannot be read, or is larger than ``max_bytes``.
    """
    path = shard.beside(ending)
    try:
        if shard.is_remote:
            with open_remote(path) as source:
                content = _read_up_to(source, max_bytes + 1)
        elif Path(path).is_file():
            with Path(path).open("rb") as source:
                content = _read_up_to(source, max_bytes + 1)
        else:
            return None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) > max_bytes:
        raise ShardError(f"{path}: larger than {max_bytes} bytes")
    return content


def _read_up_to(source: IO[bytes], n_bytes: int) -> bytes:
    """Read in pieces, because ``read(n)`` sets aside n bytes before it knows that there are fewer."""
    content = bytearray()
    while piece := source.read(min(COPY_BYTES, n_bytes - len(content))):
        content += piece
    return bytes(content)
